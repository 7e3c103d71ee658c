//! The table as text for `nft -f` and for people: what the kernel would be told, without telling it. The rules of session
//! affinity are for people alone ([`Rule::RecallPort`]).

use std::fmt::Write;

use ipnet::IpNet;

use crate::model::{
    Family, LinkName, Memory, Pick, Rule, Ruleset, SOURCE_SEED, SetKey, SetName, SetSchema, SetValue, Slot, VTEP_LINK,
};

use super::{TABLE, comment, schema::CLIENTS_MAX};

/// The ruleset in nft's language, every rule with the comment that it carries in the kernel.
pub fn render(ruleset: &Ruleset) -> String {
    let mut text = format!("table inet {TABLE} {{\n");
    for (set, elements) in &ruleset.sets {
        // Writing to a String cannot fail.
        let _ = write!(text, "\t{}", set_head(*set));
        if !elements.is_empty() {
            let lines: Vec<_> =
                elements.iter().map(|(key, value)| format!("\t\t\t{}{}", key_text(key), value_text(value))).collect();
            let _ = write!(text, "\t\telements = {{\n{}\n\t\t}}\n", lines.join(",\n"));
        }
        text.push_str("\t}\n");
    }
    for (name, chain) in &ruleset.chains {
        let _ = writeln!(text, "\tchain {name} {{");
        if let Some(hook) = name.hook() {
            let _ =
                writeln!(text, "\t\ttype {} hook {} priority {}; policy accept;", hook.kind, hook.name, hook.priority);
        }
        for rule in &chain.rules {
            let _ = match rule {
                Rule::Foreign(_) => writeln!(text, "\t\t# {rule}"),
                _ => writeln!(text, "\t\t{} comment \"{}\"", statement(*rule), comment::text(*rule)),
            };
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

/// The set's declaration up to its elements.
fn set_head(set: SetName) -> String {
    let map = |key: &str, value: &str| format!("map {set} {{\n\t\ttype {key} : {value}\n");
    match set.schema() {
        SetSchema::PortToChain => map("inet_proto . inet_service", "verdict"),
        SetSchema::AddressToChain(family) => map(address_type(family), "verdict"),
        SetSchema::AddressPortToChain(family) => {
            map(&format!("{} . inet_proto . inet_service", address_type(family)), "verdict")
        }
        SetSchema::DevicePortToChain => map("ifname . inet_proto . inet_service", "verdict"),
        SetSchema::ClientToAddress(family) => {
            let address = address_type(family);
            format!("{}\t\tsize {CLIENTS_MAX}\n\t\tflags dynamic,timeout\n", map(&format!("mark . {address}"), address))
        }
        SetSchema::AddressToService(family) => map(address_type(family), "mark"),
        SetSchema::AddressPairs(family) => {
            let address = address_type(family);
            format!("set {set} {{\n\t\ttype {address} . {address}\n")
        }
        SetSchema::SlotToTarget(family) => {
            format!("map {set} {{\n\t\ttypeof numgen inc mod 65536 : {} daddr . th dport\n", header(family))
        }
        SetSchema::SlotToAddress(family) => {
            format!("map {set} {{\n\t\ttypeof numgen inc mod 65536 : {} daddr\n", header(family))
        }
        SetSchema::MacToMark => map("ether_addr", "mark"),
        SetSchema::MacToZone => format!("map {set} {{\n\t\ttypeof ether saddr : ct zone\n"),
        SetSchema::Addresses(family) => format!("set {set} {{\n\t\ttype {}\n", address_type(family)),
        SetSchema::Prefixes(family) => format!("set {set} {{\n\t\ttype {}\n\t\tflags interval\n", address_type(family)),
        SetSchema::PrefixPairs(family) => {
            let address = address_type(family);
            format!("set {set} {{\n\t\ttype {address} . {address}\n\t\tflags interval\n")
        }
    }
}

fn key_text(key: &SetKey) -> String {
    match key {
        SetKey::Port(protocol, port) => format!("{protocol} . {port}"),
        SetKey::Address(address) => address.to_string(),
        SetKey::AddressPort(address, protocol, port) => format!("{address} . {protocol} . {port}"),
        SetKey::DevicePort(device, protocol, port) => format!("\"{device}\" . {protocol} . {port}"),
        SetKey::AddressPair(source, destination) => format!("{source} . {destination}"),
        SetKey::Slot(slot) => slot.0.to_string(),
        SetKey::Mac(mac) => mac.to_string(),
        SetKey::Prefix(prefix) => prefix_text(*prefix),
        SetKey::PrefixPair(source, destination) => format!("{} . {}", prefix_text(*source), prefix_text(*destination)),
    }
}

fn prefix_text(prefix: IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() { prefix.addr().to_string() } else { prefix.trunc().to_string() }
}

fn value_text(value: &SetValue) -> String {
    match value {
        SetValue::Nothing => String::new(),
        SetValue::Goto(chain) => format!(" : goto {chain}"),
        SetValue::Mark(mark) => format!(" : {mark:#010x}"),
        SetValue::Zone(zone) => format!(" : {zone}"),
        SetValue::Service(service) => format!(" : {:#010x}", service.get()),
        SetValue::Address(address) => format!(" : {address}"),
        SetValue::Target(target) => format!(" : {} . {}", target.ip(), target.port()),
    }
}

/// The rule as nft's statement.
#[expect(clippy::too_many_lines, reason = "one arm a rule")]
fn statement(rule: Rule) -> String {
    let ours = format!("{}*", LinkName::PREFIX);
    match rule {
        Rule::EnterFromUnderlay(port) => format!("udp dport {port} goto from_underlay"),
        Rule::TunnelFromPeer(family) => {
            format!("{} saddr @{} notrack accept", header(family), SetName::Peers(family))
        }
        Rule::TunnelFromStranger => "fib daddr type local drop".to_owned(),
        Rule::TunnelToPeer(family, port) => {
            format!("udp dport {port} {} daddr @{} notrack", header(family), SetName::Peers(family))
        }
        Rule::SeparateIngress => {
            format!("iifname \"{VTEP_LINK}\" ct original zone set ether saddr map @{}", SetName::Zones)
        }
        Rule::EnterFromTunnel => format!("iifname \"{VTEP_LINK}\" goto from_tunnel"),
        Rule::EnterFromContainer => format!("iifname \"{ours}\" goto from_container"),
        Rule::RememberIngress => format!("ct state new ct mark set ether saddr map @{}", SetName::Vteps),
        Rule::DropSpoofed => "fib saddr . iif oif missing drop".to_owned(),
        Rule::ReturnToIngress(mask) => {
            format!("ct direction reply ct mark & {mask:#010x} != 0x00000000 meta mark set ct mark & {mask:#010x}")
        }
        Rule::DispatchVip(family) => {
            format!("iifname \"{ours}\" {} daddr vmap @{}", header(family), SetName::Vips(family))
        }
        Rule::EnterUnusedVip(family) => format!("iifname \"{ours}\" {}", unused_vip(family)),
        Rule::EnterUnusedVipLocally(family) => unused_vip(family),
        Rule::DispatchPublishedAtPeer(family) => format!("iifname \"{ours}\" {}", at_peer(family)),
        Rule::DispatchPublishedAtPeerLocally(family) => at_peer(family),
        Rule::SpareResolver(to) => format!("{} daddr {to} th dport 53 accept", header(Family::of(to))),
        Rule::RefusePeerPort(port) => format!("iifname \"{ours}\" tcp dport {port} reject with tcp reset"),
        Rule::DispatchVipLocally(family) => format!("{} daddr vmap @{}", header(family), SetName::Vips(family)),
        Rule::DispatchBound(family) => format!("fib daddr type local {}", at_bound(family)),
        Rule::DispatchBoundInside(family) => format!("iifname \"{ours}\" {}", at_bound(family)),
        Rule::DispatchBoundLocally(family) => at_bound(family),
        Rule::DispatchDevice => {
            format!("fib daddr type local iifname . meta l4proto . th dport vmap @{}", SetName::DevicePorts)
        }
        Rule::DispatchPublished => format!("fib daddr type local meta l4proto . th dport vmap @{}", SetName::Ports),
        Rule::DispatchPublishedLocally(family) => {
            let loopback = match family {
                Family::V4 => "127.0.0.0/8",
                Family::V6 => "::1",
            };
            let header = header(family);
            format!(
                "fib daddr type local {header} daddr != {loopback} meta l4proto . th dport vmap @{}",
                SetName::Ports
            )
        }
        Rule::RecallPort { family, protocol, target, memory } => format!(
            "meta nfproto {} meta l4proto {protocol} {} counter dnat {} to {REPLICA} . {target}",
            nfproto(family),
            recall(family, memory),
            header(family)
        ),
        Rule::RecallVip { family, memory } => format!(
            "meta nfproto {} {} counter dnat {} to {REPLICA}",
            nfproto(family),
            recall(family, memory),
            header(family)
        ),
        Rule::RememberPort { family, protocol, shard, first, slots, pick, memory } => format!(
            "meta nfproto {} meta l4proto {protocol} {} map @{} {} counter dnat {} to {REPLICA} . PORT",
            nfproto(family),
            slot(family, first, slots, pick),
            SetName::Targets(family, shard),
            remember(family, memory),
            header(family),
        ),
        Rule::RememberVip { family, shard, first, slots, pick, memory } => format!(
            "meta nfproto {} {} map @{} {} counter dnat {} to {REPLICA}",
            nfproto(family),
            slot(family, first, slots, pick),
            SetName::Replicas(family, shard),
            remember(family, memory),
            header(family),
        ),
        Rule::BalancePort { family, protocol, shard, first, slots, pick } => format!(
            "meta nfproto {} meta l4proto {protocol} counter dnat {} to {} map @{}",
            nfproto(family),
            header(family),
            slot(family, first, slots, pick),
            SetName::Targets(family, shard)
        ),
        Rule::BalanceVip { family, shard, first, slots, pick } => format!(
            "meta nfproto {} counter dnat {} to {} map @{}",
            nfproto(family),
            header(family),
            slot(family, first, slots, pick),
            SetName::Replicas(family, shard)
        ),
        Rule::RefuseTcp => "meta l4proto tcp counter reject with tcp reset".to_owned(),
        Rule::RefuseOther => "counter reject with icmpx port-unreachable".to_owned(),
        Rule::AcceptEstablished => "ct state established,related accept".to_owned(),
        Rule::AcceptWithin(family) => format!("iifname \"{ours}\" {}", within(family)),
        Rule::KeepWithin(family) => within(family),
        Rule::RefuseCrossing(family) => {
            let (header, set) = (header(family), SetName::Networks(family));
            format!(
                "iifname \"{ours}\" {header} saddr @{set} {header} daddr @{set} ct original {header} daddr @{set} \
                 reject with icmpx admin-prohibited"
            )
        }
        Rule::RefuseInternalOut(family) => format!(
            "{} saddr @{} oifname != \"{ours}\" reject with icmpx admin-prohibited",
            header(family),
            SetName::Internal(family)
        ),
        Rule::RefuseUnpublished(family) => format!(
            "iifname != \"{ours}\" {} daddr @{} ct status & dnat == 0 reject with icmpx admin-prohibited",
            header(family),
            SetName::Networks(family)
        ),
        Rule::EnterToTunnel => format!("oifname \"{VTEP_LINK}\" goto to_tunnel"),
        Rule::ClearMark(mask) => {
            format!("meta mark & {mask:#010x} != 0x00000000 meta mark set meta mark & {:#010x}", !mask)
        }
        Rule::EnterClampMss => "@th,104,8 & 0x2 != 0x0 goto clamp_mss".to_owned(),
        Rule::ClampMss(family, mss) => {
            format!("meta nfproto {} tcp option maxseg size set {mss}", nfproto(family))
        }
        Rule::TranslateHairpin(address) => {
            let family = Family::of(address);
            let header = header(family);
            format!("{header} saddr . {header} daddr @{} snat {header} to {address}", SetName::Hairpin(family))
        }
        Rule::TranslatePeer(address) => {
            let family = Family::of(address);
            format!(
                "oifname \"{VTEP_LINK}\" {0} saddr @{1} ct status & dnat != 0 snat {0} to {address}",
                header(family),
                SetName::Nodes(family)
            )
        }
        Rule::Masquerade(family) => format!("{} saddr @{} masquerade", header(family), SetName::Networks(family)),
        Rule::Foreign(handle) => format!("# foreign rule with handle {handle}"),
    }
}

/// Stands for the replica that was found: nft has no word for it.
const REPLICA: &str = "REPLICA";

/// How a slot is found.
fn slot(family: Family, first: Slot, slots: u16, pick: Pick) -> String {
    let first = first.0;
    match pick {
        Pick::Turn => format!("numgen inc mod {slots} offset {first}"),
        Pick::Chance => format!("numgen random mod {slots} offset {first}"),
        Pick::Source => {
            format!("jhash {} saddr mod {slots} seed {SOURCE_SEED:#x} offset {first}", header(family))
        }
    }
}

fn recall(family: Family, memory: Memory) -> String {
    let service = memory.service.get();
    format!(
        "{service:#010x} . {} saddr map @{} {REPLICA} map @{} {service:#010x} {}",
        header(family),
        SetName::Sticky(family),
        SetName::Takers(family),
        update(family, memory)
    )
}

fn remember(family: Family, memory: Memory) -> String {
    let (service, header) = (memory.service.get(), header(family));
    let sticky = SetName::Sticky(family);
    format!("delete @{sticky} {{ {service:#010x} . {header} saddr : {REPLICA} }} {}", update(family, memory))
}

fn update(family: Family, Memory { service, timeout_ms }: Memory) -> String {
    let (sticky, header) = (SetName::Sticky(family), header(family));
    format!("update @{sticky} {{ {:#010x} . {header} saddr timeout {timeout_ms}ms : {REPLICA} }}", service.get())
}

fn at_bound(family: Family) -> String {
    format!("{} daddr . meta l4proto . th dport vmap @{}", header(family), SetName::Bound(family))
}

fn at_peer(family: Family) -> String {
    let (header, nodes, ports) = (header(family), SetName::Nodes(family), SetName::Ports);
    format!("{header} daddr @{nodes} meta l4proto . th dport vmap @{ports}")
}

fn unused_vip(family: Family) -> String {
    format!("{} daddr @{} goto unused_vip", header(family), SetName::VipRanges(family))
}

fn within(family: Family) -> String {
    let header = header(family);
    format!("{header} saddr . {header} daddr @{} accept", SetName::Within(family))
}

fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn nfproto(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}
