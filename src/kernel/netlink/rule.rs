use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use nix::errno::Errno;

use super::{
    Rtnetlink,
    socket::{Refusal, Socket, accept},
};
use crate::{
    kernel::KernelError,
    model::{PolicyAction, PolicyRule, ROUTE_PROTOCOL, RouteTable},
};

/// The action of a rule of ours that is not as we make them. The kernel refuses a `goto` to priority 0, so nobody wants it.
const NO_ACTION: PolicyAction = PolicyAction::Goto(0);

/// The policy rules with our protocol number, both families. A rule that selects by more than the mark, or does something else
/// than ours do, reads as a `goto 0` at its priority; removing that removes it.
pub(super) async fn ours(socket: &Socket) -> Result<BTreeSet<PolicyRule>, Refusal> {
    // Of all families at once: the kernel cannot filter rules, and they are few.
    let rows = socket.dump(RouteNetlinkMessage::GetRule(RuleMessage::default())).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match row {
            RouteNetlinkMessage::NewRule(row) if is_ours(&row) => row_of(&row),
            _ => None,
        })
        .collect())
}

/// Whether a rule carries our protocol number.
pub(super) fn is_ours(row: &RuleMessage) -> bool {
    row.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)))
}

impl Rtnetlink {
    /// Adds a policy rule; one that is there already and ours is fine.
    pub(super) async fn add_policy(&self, rule: PolicyRule) -> Result<(), KernelError> {
        let fail = |refusal: Refusal| KernelError::new(format!("add the policy rule {}", words(&rule)), refusal);
        let add = (RouteNetlinkMessage::NewRule(whole(&rule)), NLM_F_CREATE | NLM_F_EXCL);
        match self.socket.change(add.0.clone(), add.1).await {
            // The kernel tells rules apart by their protocol too, so it is ours; but not by where a `goto` leads.
            Err(refusal) if refusal.is(Errno::EEXIST) => {
                if ours(&self.socket).await.map_err(fail)?.contains(&rule) {
                    return Ok(());
                }
                let remove = (RouteNetlinkMessage::DelRule(whole(&rule)), 0);
                self.socket.change_each([remove, add]).await.pop().unwrap_or(Err(refusal)).map_err(fail)
            }
            result => result.map_err(fail),
        }
    }

    /// Removes a policy rule of ours; one that is not there is fine.
    pub(super) async fn delete_policy(&self, rule: PolicyRule) -> Result<(), KernelError> {
        let fail = |refusal: Refusal| KernelError::new(format!("remove the policy rule {}", words(&rule)), refusal);
        let message = match rule.action {
            // Whatever an odd one does: an action that is not given matches all.
            NO_ACTION => selector(&rule),
            // The kernel would remove one that leads elsewhere too.
            PolicyAction::Goto(_) if !ours(&self.socket).await.map_err(fail)?.contains(&rule) => return Ok(()),
            PolicyAction::Lookup(_) | PolicyAction::Goto(_) | PolicyAction::Nop => whole(&rule),
        };
        accept(self.socket.change(RouteNetlinkMessage::DelRule(message), 0).await, &[Errno::ENOENT]).map_err(fail)
    }
}

/// A rule with what it does.
fn whole(rule: &PolicyRule) -> RuleMessage {
    let mut message = selector(rule);
    match rule.action {
        PolicyAction::Lookup(table) => {
            message.header.action = RuleAction::ToTable;
            message.attributes.push(RuleAttribute::Table(table.0));
        }
        PolicyAction::Goto(target) => {
            message.header.action = RuleAction::Goto;
            message.attributes.push(RuleAttribute::Goto(target));
        }
        PolicyAction::Nop => message.header.action = RuleAction::Nop,
    }
    message
}

/// A rule's place and what it selects.
fn selector(rule: &PolicyRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message
        .attributes
        .extend([RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)), RuleAttribute::Priority(rule.priority)]);
    let (mark, bits) = rule.mark;
    if bits != 0 {
        message.attributes.extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(bits)]);
    }
    message
}

fn row_of(row: &RuleMessage) -> Option<PolicyRule> {
    let ipv6 = match row.header.family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        // Multicast routing has rules of its own.
        _ => return None,
    };
    let (mut priority, mut mark, mut bits) = (0, 0, 0);
    let (mut table, mut target) = (u32::from(row.header.table), 0);
    let mut is_plain = row.header.dst_len == 0
        && row.header.src_len == 0
        && row.header.tos == 0
        && !row.header.flags.contains(RuleFlags::Invert);
    for attribute in &row.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => bits = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Goto(value) => target = *value,
            // Told of every rule; all bits set where nothing is suppressed.
            RuleAttribute::SuppressPrefixLen(value) | RuleAttribute::SuppressIfGroup(value) => {
                is_plain &= *value == u32::MAX;
            }
            RuleAttribute::Protocol(_) => {}
            RuleAttribute::L3MDev(on) => is_plain &= !on,
            _ => is_plain = false,
        }
    }
    let action = match row.header.action {
        RuleAction::ToTable if is_plain => PolicyAction::Lookup(RouteTable(table)),
        RuleAction::Goto if is_plain => PolicyAction::Goto(target),
        RuleAction::Nop if is_plain => PolicyAction::Nop,
        _ => NO_ACTION,
    };
    Some(PolicyRule { priority, ipv6, mark: (mark, bits), action })
}

fn words(rule: &PolicyRule) -> String {
    let family = if rule.ipv6 { "IPv6" } else { "IPv4" };
    let (mark, bits) = rule.mark;
    let action = match rule.action {
        PolicyAction::Lookup(table) => format!("lookup {}", table.0),
        PolicyAction::Goto(target) => format!("goto {target}"),
        PolicyAction::Nop => "nop".to_owned(),
    };
    format!("{}: fwmark {mark:#x}/{bits:#x} {action} ({family})", rule.priority)
}
