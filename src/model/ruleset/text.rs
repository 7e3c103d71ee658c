//! A rule's text: its comment in the kernel, at most 128 bytes, and the form in which it is read back.

use std::{fmt, str::FromStr};

use super::{Memory, Pick, Rule, Slot};

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnterFromUnderlay(port) => write!(f, "enter-from-underlay {port}"),
            Self::TunnelFromPeer(family) => write!(f, "tunnel-from-peer {}", family.digit()),
            Self::TunnelFromStranger => f.write_str("tunnel-from-stranger"),
            Self::TunnelToPeer(family, port) => write!(f, "tunnel-to-peer {} {port}", family.digit()),
            Self::SeparateIngress => f.write_str("separate-ingress"),
            Self::EnterFromTunnel => f.write_str("enter-from-tunnel"),
            Self::EnterFromContainer => f.write_str("enter-from-container"),
            Self::RememberIngress => f.write_str("remember-ingress"),
            Self::DropSpoofed => f.write_str("drop-spoofed"),
            Self::ReturnToIngress(mask) => write!(f, "return-to-ingress {mask}"),
            Self::DispatchVip(family) => write!(f, "dispatch-vip {}", family.digit()),
            Self::DispatchVipLocally(family) => write!(f, "dispatch-vip-locally {}", family.digit()),
            Self::EnterUnusedVip(family) => write!(f, "enter-unused-vip {}", family.digit()),
            Self::EnterUnusedVipLocally(family) => write!(f, "enter-unused-vip-locally {}", family.digit()),
            Self::DispatchPublishedAtPeer(family) => write!(f, "dispatch-published-at-peer {}", family.digit()),
            Self::DispatchPublishedAtPeerLocally(family) => {
                write!(f, "dispatch-published-at-peer-locally {}", family.digit())
            }
            Self::DispatchBound(family) => write!(f, "dispatch-bound {}", family.digit()),
            Self::DispatchBoundInside(family) => write!(f, "dispatch-bound-inside {}", family.digit()),
            Self::DispatchBoundLocally(family) => write!(f, "dispatch-bound-locally {}", family.digit()),
            Self::DispatchDevice => f.write_str("dispatch-device"),
            Self::SpareResolver(address) => write!(f, "spare-resolver {address}"),
            Self::DispatchPublished => f.write_str("dispatch-published"),
            Self::DispatchPublishedLocally(family) => write!(f, "dispatch-published-locally {}", family.digit()),
            Self::RecallPort { family, protocol, target, memory } => {
                write!(f, "recall-port {} {protocol} {target} {memory}", family.digit())
            }
            Self::RecallVip { family, memory } => write!(f, "recall-vip {} {memory}", family.digit()),
            Self::RememberPort { family, protocol, shard, first, slots, pick, memory } => {
                write!(f, "remember-port {} {protocol} {shard} {} {slots} {pick} {memory}", family.digit(), first.0)
            }
            Self::RememberVip { family, shard, first, slots, pick, memory } => {
                write!(f, "remember-vip {} {shard} {} {slots} {pick} {memory}", family.digit(), first.0)
            }
            Self::BalancePort { family, protocol, shard, first, slots, pick } => {
                write!(f, "balance-port {} {protocol} {shard} {} {slots} {pick}", family.digit(), first.0)
            }
            Self::BalanceVip { family, shard, first, slots, pick } => {
                write!(f, "balance-vip {} {shard} {} {slots} {pick}", family.digit(), first.0)
            }
            Self::RefuseTcp => f.write_str("refuse-tcp"),
            Self::RefuseOther => f.write_str("refuse-other"),
            Self::AcceptEstablished => f.write_str("accept-established"),
            Self::AcceptWithin(family) => write!(f, "accept-within {}", family.digit()),
            Self::RefuseCrossing(family) => write!(f, "refuse-crossing {}", family.digit()),
            Self::RefuseInternalOut(family) => write!(f, "refuse-internal-out {}", family.digit()),
            Self::RefusePeerPort(port) => write!(f, "refuse-peer-port {port}"),
            Self::RefuseUnpublished(family) => write!(f, "refuse-unpublished {}", family.digit()),
            Self::EnterToTunnel => f.write_str("enter-to-tunnel"),
            Self::ClearMark(mask) => write!(f, "clear-mark {mask}"),
            Self::EnterClampMss => f.write_str("enter-clamp-mss"),
            Self::ClampMss(family, mss) => write!(f, "clamp-mss {} {mss}", family.digit()),
            Self::TranslateHairpin(address) => write!(f, "translate-hairpin {address}"),
            Self::TranslatePeer(address) => write!(f, "translate-peer {address}"),
            Self::KeepWithin(family) => write!(f, "keep-within {}", family.digit()),
            Self::Masquerade(family) => write!(f, "masquerade {}", family.digit()),
            Self::Foreign(handle) => write!(f, "foreign rule with handle {handle}"),
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        fn word<T: FromStr>(text: &str) -> Result<T, String> {
            text.parse().map_err(|_| format!("{text:?} does not belong in a rule of weft's"))
        }
        Ok(match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["enter-from-underlay", port] => Self::EnterFromUnderlay(word(port)?),
            ["tunnel-from-peer", family] => Self::TunnelFromPeer(word(family)?),
            ["tunnel-from-stranger"] => Self::TunnelFromStranger,
            ["tunnel-to-peer", family, port] => Self::TunnelToPeer(word(family)?, word(port)?),
            ["separate-ingress"] => Self::SeparateIngress,
            ["enter-from-tunnel"] => Self::EnterFromTunnel,
            ["enter-from-container"] => Self::EnterFromContainer,
            ["remember-ingress"] => Self::RememberIngress,
            ["drop-spoofed"] => Self::DropSpoofed,
            ["return-to-ingress", mask] => Self::ReturnToIngress(word(mask)?),
            ["dispatch-vip", family] => Self::DispatchVip(word(family)?),
            ["dispatch-vip-locally", family] => Self::DispatchVipLocally(word(family)?),
            ["enter-unused-vip", family] => Self::EnterUnusedVip(word(family)?),
            ["enter-unused-vip-locally", family] => Self::EnterUnusedVipLocally(word(family)?),
            ["dispatch-published-at-peer", family] => Self::DispatchPublishedAtPeer(word(family)?),
            ["dispatch-published-at-peer-locally", family] => Self::DispatchPublishedAtPeerLocally(word(family)?),
            ["dispatch-bound", family] => Self::DispatchBound(word(family)?),
            ["dispatch-bound-inside", family] => Self::DispatchBoundInside(word(family)?),
            ["dispatch-bound-locally", family] => Self::DispatchBoundLocally(word(family)?),
            ["dispatch-device"] => Self::DispatchDevice,
            ["spare-resolver", address] => Self::SpareResolver(word(address)?),
            ["dispatch-published"] => Self::DispatchPublished,
            ["dispatch-published-locally", family] => Self::DispatchPublishedLocally(word(family)?),
            ["recall-port", family, protocol, target, service, timeout] => Self::RecallPort {
                family: word(family)?,
                protocol: word(protocol)?,
                target: word(target)?,
                memory: Memory { service: word(service)?, timeout_ms: word(timeout)? },
            },
            ["recall-vip", family, service, timeout] => Self::RecallVip {
                family: word(family)?,
                memory: Memory { service: word(service)?, timeout_ms: word(timeout)? },
            },
            ["remember-port", family, protocol, shard, first, slots, pick, service, timeout] => Self::RememberPort {
                family: word(family)?,
                protocol: word(protocol)?,
                shard: word(shard)?,
                first: Slot(word(first)?),
                slots: word(slots)?,
                pick: word(pick)?,
                memory: Memory { service: word(service)?, timeout_ms: word(timeout)? },
            },
            ["remember-vip", family, shard, first, slots, pick, service, timeout] => Self::RememberVip {
                family: word(family)?,
                shard: word(shard)?,
                first: Slot(word(first)?),
                slots: word(slots)?,
                pick: word(pick)?,
                memory: Memory { service: word(service)?, timeout_ms: word(timeout)? },
            },
            ["balance-port", family, protocol, shard, first, slots, pick] => Self::BalancePort {
                family: word(family)?,
                protocol: word(protocol)?,
                shard: word(shard)?,
                first: Slot(word(first)?),
                slots: word(slots)?,
                pick: word(pick)?,
            },
            ["balance-vip", family, shard, first, slots, pick] => Self::BalanceVip {
                family: word(family)?,
                shard: word(shard)?,
                first: Slot(word(first)?),
                slots: word(slots)?,
                pick: word(pick)?,
            },
            ["refuse-tcp"] => Self::RefuseTcp,
            ["refuse-other"] => Self::RefuseOther,
            ["accept-established"] => Self::AcceptEstablished,
            ["accept-within", family] => Self::AcceptWithin(word(family)?),
            ["refuse-crossing", family] => Self::RefuseCrossing(word(family)?),
            ["refuse-internal-out", family] => Self::RefuseInternalOut(word(family)?),
            ["refuse-peer-port", port] => Self::RefusePeerPort(word(port)?),
            ["refuse-unpublished", family] => Self::RefuseUnpublished(word(family)?),
            ["enter-to-tunnel"] => Self::EnterToTunnel,
            ["clear-mark", mask] => Self::ClearMark(word(mask)?),
            ["enter-clamp-mss"] => Self::EnterClampMss,
            ["clamp-mss", family, mss] => Self::ClampMss(word(family)?, word(mss)?),
            ["translate-hairpin", address] => Self::TranslateHairpin(word(address)?),
            ["translate-peer", address] => Self::TranslatePeer(word(address)?),
            ["keep-within", family] => Self::KeepWithin(word(family)?),
            ["masquerade", family] => Self::Masquerade(word(family)?),
            _ => return Err(format!("{text:?} is not a rule of weft's")),
        })
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Turn => "turn",
            Self::Chance => "chance",
            Self::Source => "source",
        })
    }
}

impl FromStr for Pick {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "turn" => Ok(Self::Turn),
            "chance" => Ok(Self::Chance),
            "source" => Ok(Self::Source),
            _ => Err(format!("{text:?} is not a way to pick a slot")),
        }
    }
}

/// Service and milliseconds.
impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service, self.timeout_ms)
    }
}
