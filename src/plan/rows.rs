//! Devices, forwarding entries, neighbours, routes, policy rules and kernel settings: everything but the table.

use std::{cmp::Reverse, collections::BTreeSet};

use ipnet::IpNet;

use super::Step;
use crate::model::{
    Attachment, HostState, LinkName, NextHop, PolicyAction, PolicyRule, Route, RouteTable, Sysctl, VTEP_LINK, Vtep,
};

/// Phase 1, and phases 3 to 7; the guard goes between the two.
pub(super) struct Additions {
    /// Settings that need no device of ours.
    pub(super) settings: Vec<Step>,
    /// Tunnel device, forwarding entries, neighbours, links, routes, policy rules.
    pub(super) rows: Vec<Step>,
}

/// What has to be made or changed.
pub(super) fn additions(desired: &HostState, observed: &HostState) -> Additions {
    let HostState { vtep, fdb, neighbours, routes, policy, links: _, sysctls, ruleset: _ } = desired;
    let devices = Devices::of(desired, observed);

    let mut settings = Vec::new();
    let mut vtep_settings = Vec::new();
    let mut link_settings = Vec::new();
    for (sysctl, value) in sysctls {
        let device = device_of(sysctl);
        let is_fresh = device.as_ref().is_some_and(|device| devices.is_fresh(device));
        if is_fresh || observed.sysctls.get(sysctl) != Some(value) {
            let step = Step::PutSysctl(sysctl.clone(), value.clone());
            match device {
                None => settings.push(step),
                Some(Device::Vtep) => vtep_settings.push(step),
                Some(Device::Link(_)) => link_settings.push(step),
            }
        }
    }

    settings.sort_by_key(|step| matches!(step, Step::PutSysctl(sysctl, _) if sysctl.0 == Sysctl::FORWARDING_V6));

    let mut rows = Vec::new();
    rows.extend(vtep.as_ref().and_then(|vtep| vtep_step(vtep, observed.vtep.as_ref())));
    rows.extend(vtep_settings);
    rows.extend(
        fdb.iter()
            .filter(|(mac, underlay)| devices.vtep_fresh || observed.fdb.get(mac) != Some(underlay))
            .map(|(mac, underlay)| Step::PutFdb(*mac, *underlay)),
    );
    rows.extend(
        neighbours
            .iter()
            .filter(|(gateway, mac)| devices.vtep_fresh || observed.neighbours.get(gateway) != Some(mac))
            .map(|(gateway, mac)| Step::PutNeighbour(*gateway, *mac)),
    );
    rows.extend(
        desired
            .links
            .iter()
            .filter(|(name, attachment)| {
                !devices.links_fresh.contains(name) && observed.links.get(*name) != Some(*attachment)
            })
            .map(|(name, attachment)| Step::UpdateLink(name.clone(), attachment.clone())),
    );
    rows.extend(devices.links_in_the_way.iter().map(|name| Step::DeleteLink((*name).clone())));
    rows.extend(devices.links_fresh.iter().filter_map(|name| {
        let attachment = desired.links.get(*name)?;
        Some(Step::CreateLink((*name).clone(), attachment.clone()))
    }));
    rows.extend(link_settings);

    let mut missing: Vec<(&(RouteTable, IpNet), &Route)> = routes
        .iter()
        .filter(|(key, route)| {
            device_under(route).is_some_and(|device| devices.is_fresh(&device))
                || observed.routes.get(key) != Some(route)
        })
        .collect();
    missing.sort_by_key(|((_, prefix), _)| prefix.prefix_len());
    rows.extend(missing.into_iter().map(|((table, prefix), route)| Step::PutRoute(*table, *prefix, route.clone())));

    let mut missing: Vec<&PolicyRule> = policy.difference(&observed.policy).collect();
    missing.sort_by_key(|rule| policy_rank(rule));
    rows.extend(missing.into_iter().map(|rule| Step::AddPolicy(*rule)));
    Additions { settings, rows }
}

/// What has to go: phase 9.
pub(super) fn removals(desired: &HostState, observed: &HostState) -> Vec<Step> {
    // Settings are never taken back, and the table has phases of its own.
    let HostState { vtep: _, fdb, neighbours, routes, policy, links: _, sysctls: _, ruleset: _ } = observed;
    let devices = Devices::of(desired, observed);
    let mut steps = Vec::new();

    let mut surplus: Vec<&PolicyRule> = policy.difference(&desired.policy).collect();
    surplus.sort_by_key(|rule| Reverse(policy_rank(rule)));
    steps.extend(surplus.into_iter().map(|rule| Step::DeletePolicy(*rule)));

    let mut surplus: Vec<&(RouteTable, IpNet)> = routes
        .iter()
        .filter(|(key, route)| {
            !desired.routes.contains_key(key) && !device_under(route).is_some_and(|device| devices.is_gone(&device))
        })
        .map(|(key, _)| key)
        .collect();
    surplus.sort_by_key(|(_, prefix)| Reverse(prefix.prefix_len()));
    steps.extend(surplus.into_iter().map(|(table, prefix)| Step::DeleteRoute(*table, *prefix)));

    if !devices.vtep_gone {
        let surplus = neighbours.keys().filter(|gateway| !desired.neighbours.contains_key(gateway));
        steps.extend(surplus.map(|gateway| Step::DeleteNeighbour(*gateway)));
        let surplus = fdb.keys().filter(|mac| !desired.fdb.contains_key(mac));
        steps.extend(surplus.map(|mac| Step::DeleteFdb(*mac)));
    }

    let later = devices.links_gone.difference(&devices.links_in_the_way);
    steps.extend(later.map(|name| Step::DeleteLink((*name).clone())));
    if observed.vtep.is_some() && desired.vtep.is_none() {
        steps.push(Step::DeleteVtep);
    }
    steps
}

/// What happens to the devices that other rows hang on.
struct Devices<'a> {
    /// The tunnel device is made by this plan: nothing hangs on it yet.
    vtep_fresh: bool,
    /// The tunnel device that was observed goes, and all that hangs on it.
    vtep_gone: bool,
    /// The links that this plan makes.
    links_fresh: BTreeSet<&'a LinkName>,
    /// The observed links that go.
    links_gone: BTreeSet<&'a LinkName>,
    /// Those of them that have to go before the fresh ones can be made.
    links_in_the_way: BTreeSet<&'a LinkName>,
}

/// A device of ours.
enum Device<'a> {
    Vtep,
    Link(std::borrow::Cow<'a, LinkName>),
}

impl<'a> Devices<'a> {
    fn of(desired: &'a HostState, observed: &'a HostState) -> Self {
        let vtep_kept = match (&desired.vtep, &observed.vtep) {
            (Some(desired), Some(observed)) => same_identity(desired, observed),
            (_, None) | (None, _) => false,
        };
        let lacks = |state: &HostState, name: &LinkName, attachment: &Attachment| {
            !state.links.get(name).is_some_and(|other| other.is_same_pair(attachment))
        };
        let fresh = || desired.links.iter().filter(|(name, attachment)| lacks(observed, name, attachment));
        let gone = || observed.links.iter().filter(|(name, attachment)| lacks(desired, name, attachment));
        let taken: BTreeSet<(u64, &str)> = fresh().map(|(_, attachment)| place(attachment)).collect();
        Self {
            vtep_fresh: desired.vtep.is_some() && !vtep_kept,
            vtep_gone: observed.vtep.is_some() && !vtep_kept,
            links_fresh: fresh().map(|(name, _)| name).collect(),
            links_gone: gone().map(|(name, _)| name).collect(),
            links_in_the_way: gone()
                .filter(|(name, attachment)| desired.links.contains_key(*name) || taken.contains(&place(attachment)))
                .map(|(name, _)| name)
                .collect(),
        }
    }

    fn is_fresh(&self, device: &Device<'_>) -> bool {
        match device {
            Device::Vtep => self.vtep_fresh,
            Device::Link(name) => self.links_fresh.contains(name.as_ref()),
        }
    }

    fn is_gone(&self, device: &Device<'_>) -> bool {
        match device {
            Device::Vtep => self.vtep_gone,
            Device::Link(name) => self.links_gone.contains(name.as_ref()),
        }
    }
}

/// Where a pair's container side is: the namespace's inode, whatever path leads to it, and the device's name there. Only
/// one pair can be at a place.
fn place(attachment: &Attachment) -> (u64, &str) {
    (attachment.netns.inode, &attachment.ifname)
}

/// Whether one device can become the other without being made anew: all but MTU and own addresses is fixed when it is made.
fn same_identity(left: &Vtep, right: &Vtep) -> bool {
    let Vtep { mac, vni, port, local, mtu: _, address: _, address6: _ } = left;
    (*mac, *vni, *port, *local) == (right.mac, right.vni, right.port, right.local)
}

fn vtep_step(desired: &Vtep, observed: Option<&Vtep>) -> Option<Step> {
    match observed {
        Some(observed) if same_identity(desired, observed) => {
            if (observed.address, observed.address6) != (desired.address, desired.address6) {
                return Some(Step::CreateVtep(*desired));
            }
            (observed.mtu != desired.mtu).then_some(Step::SetVtepMtu(desired.mtu))
        }
        Some(_) | None => Some(Step::CreateVtep(*desired)),
    }
}

/// The device that a route leads over; the kernel removes the route with it.
fn device_under(route: &Route) -> Option<Device<'_>> {
    match &route.next_hop {
        NextHop::Tunnel(_) | NextHop::TunnelLink => Some(Device::Vtep),
        NextHop::Link(name) => Some(Device::Link(std::borrow::Cow::Borrowed(name))),
        NextHop::Local | NextHop::Unreachable => None,
    }
}

/// The device of ours that a kernel setting belongs to: `net/ipv4/conf/DEVICE/...` and its likes (ip-sysctl.rst). Such a
/// setting comes and goes with the device.
fn device_of(sysctl: &Sysctl) -> Option<Device<'_>> {
    let mut words = sysctl.0.split('/');
    match (words.next()?, words.next()?, words.next()?, words.next()?) {
        ("net", "ipv4" | "ipv6", "conf" | "neigh", VTEP_LINK) => Some(Device::Vtep),
        ("net", "ipv4" | "ipv6", "conf" | "neigh", device) => {
            LinkName::from_kernel(device).map(|name| Device::Link(std::borrow::Cow::Owned(name)))
        }
        _ => None,
    }
}

/// Targets of a `goto` first: until its target is there the kernel passes over a `goto` (`fib_rules.c`, `unresolved`).
fn policy_rank(rule: &PolicyRule) -> u8 {
    match rule.action {
        PolicyAction::Nop => 0,
        PolicyAction::Lookup(_) => 1,
        PolicyAction::Goto(_) => 2,
    }
}
