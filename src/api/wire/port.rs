//! Published ports, as JSON. As text they are in [`crate::api::ports`].

mod key;

use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::key::PortKey;
pub(super) use self::key::changed_ports;
use crate::model::{self, Bind, L4, PortMode, ProxyMode, PublishedPort};

/// A published port: `[ADDR:|DEVICE:]PUBLISHED:TARGET[/tcp|udp|sctp][,mode=kernel|proxy][,proxy-protocol=v1|v2][,proxy-from=CIDR]...`
/// as text; in JSON `{"published":8080,"target":80,"protocol":"tcp"}`, and where it is not as usual `address` or `device`, `mode`,
/// `proxy_protocol` and `proxy_from`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "PortFields", into = "PortFields")]
pub struct PortSpec {
    /// Where it answers on each node.
    pub bind: Bind,
    /// The port on every node; 0 to let the cluster choose one of [`PublishedPort::CHOSEN`]. A view never has 0.
    pub published: u16,
    /// The port in the container.
    pub target: NonZeroU16,
    /// The protocol.
    pub protocol: Protocol,
    /// Who carries its connections.
    pub mode: PortMode,
}

/// [`PortSpec`]'s fields in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    published: u16,
    target: NonZeroU16,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default, skip_serializing_if = "ModeWord::is_usual")]
    mode: ModeWord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy_protocol: Option<VersionWord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    proxy_from: Vec<IpNet>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModeWord {
    #[default]
    Kernel,
    Proxy,
}

impl ModeWord {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum VersionWord {
    V1,
    V2,
}

impl PortSpec {
    /// A port with the usual settings.
    pub fn new(published: u16, target: NonZeroU16, protocol: Protocol) -> Self {
        Self { bind: Bind::Any, published, target, protocol, mode: PortMode::Kernel }
    }

    /// The same on this port of the nodes.
    pub fn at(&self, published: NonZeroU16) -> PublishedPort {
        let Self { bind, published: _, target, protocol, mode } = self.clone();
        PublishedPort { bind, published, target, protocol: protocol.into(), mode }
    }

    /// Whether `wish` leaves the choice of its port to the cluster, and this is what the cluster may have chosen.
    pub fn is_choice_for(&self, wish: &Self) -> bool {
        wish.published == 0
            && PublishedPort::CHOSEN.contains(&self.published)
            && Self { published: 0, ..self.clone() } == *wish
    }

    /// Whether `other` would answer in its place.
    fn has_place_of(&self, other: &Self) -> bool {
        (self.bind, self.published, self.protocol) == (other.bind, other.published, other.protocol)
    }
}

impl From<PublishedPort> for PortSpec {
    fn from(port: PublishedPort) -> Self {
        let PublishedPort { bind, published, target, protocol, mode } = port;
        Self { bind, published: published.get(), target, protocol: protocol.into(), mode }
    }
}

impl TryFrom<PortFields> for PortSpec {
    type Error = String;

    fn try_from(fields: PortFields) -> Result<Self, String> {
        let PortFields { address, device, published, target, protocol, mode, proxy_protocol, proxy_from } = fields;
        Ok(Self {
            bind: bind(address, device.as_deref())?,
            published,
            target,
            protocol,
            mode: port_mode(
                mode == ModeWord::Proxy,
                proxy_protocol.map(|version| match version {
                    VersionWord::V1 => model::ProxyProtocol::V1,
                    VersionWord::V2 => model::ProxyProtocol::V2,
                }),
                proxy_from,
            )?,
        })
    }
}

impl From<PortSpec> for PortFields {
    fn from(port: PortSpec) -> Self {
        let PortSpec { bind, published, target, protocol, mode } = port;
        let (address, device) = bind_fields(bind);
        let (mode, ProxyMode { send, accept_from }) = match mode {
            PortMode::Kernel => (ModeWord::Kernel, ProxyMode::default()),
            PortMode::Proxy(proxy) => (ModeWord::Proxy, proxy),
        };
        Self {
            address,
            device,
            published,
            target,
            protocol,
            mode,
            proxy_protocol: send.map(|version| match version {
                model::ProxyProtocol::V1 => VersionWord::V1,
                model::ProxyProtocol::V2 => VersionWord::V2,
            }),
            proxy_from: accept_from,
        }
    }
}

/// Where a port answers, from its two fields.
pub(in crate::api) fn bind(address: Option<IpAddr>, device: Option<&str>) -> Result<Bind, String> {
    match (address, device) {
        (None, None) => Ok(Bind::Any),
        (Some(address), None) => bind_address(address),
        (None, Some(device)) => bind_device(device),
        (Some(address), Some(device)) => {
            Err(format!("a published port is bound to an address ({address}) or to a device ({device}), not to both"))
        }
    }
}

fn bind_address(address: IpAddr) -> Result<Bind, String> {
    if address.is_unspecified() {
        return Err(format!("{address} stands for every address: leave it out"));
    }
    if address.is_multicast() || address.to_canonical() != address {
        return Err(format!("{address} is not an address that a node can have"));
    }
    Ok(Bind::Address(address))
}

/// A device by a name that cannot be read as something else in a port's text form.
fn bind_device(name: &str) -> Result<Bind, String> {
    let device = name.parse()?;
    // A port, or an address that is mistyped.
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_number || name.parse::<IpAddr>().is_ok() || name.contains([',', '[', ']']) {
        return Err(format!("a published port cannot be bound to a device by the name {name:?}: rename the device"));
    }
    Ok(Bind::Device(device))
}

fn bind_fields(bind: Bind) -> (Option<IpAddr>, Option<String>) {
    match bind {
        Bind::Any => (None, None),
        Bind::Address(address) => (Some(address), None),
        Bind::Device(device) => (None, Some(device.to_string())),
    }
}

/// A port's mode, from its three fields. The order in which peers are named says nothing.
pub(in crate::api) fn port_mode(
    is_proxy: bool,
    send: Option<model::ProxyProtocol>,
    mut accept_from: Vec<IpNet>,
) -> Result<PortMode, String> {
    if is_proxy {
        if let Some(net) = accept_from.iter().find(|net| net.trunc() != **net) {
            return Err(format!("{net} has bits behind its prefix; {} has none", net.trunc()));
        }
        accept_from.sort_unstable();
        accept_from.dedup();
        return Ok(PortMode::Proxy(ProxyMode { send, accept_from }));
    }
    let misplaced = send.map(|_| "proxy-protocol").or((!accept_from.is_empty()).then_some("proxy-from"));
    match misplaced {
        Some(option) => Err(format!("{option} needs mode=proxy: the kernel does not speak the PROXY protocol")),
        None => Ok(PortMode::Kernel),
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl From<L4> for Protocol {
    fn from(protocol: L4) -> Self {
        match protocol {
            L4::Tcp => Self::Tcp,
            L4::Udp => Self::Udp,
            L4::Sctp => Self::Sctp,
        }
    }
}

impl From<Protocol> for L4 {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(L4::from(*self).as_str())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<L4>() {
            Ok(protocol) => Ok(protocol.into()),
            Err(_) => Err(format!("the protocol {text:?} is not supported; tcp, udp and sctp are")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_reads_back_and_leaves_out_what_is_as_usual() {
        for (text, json) in [
            ("8080:80", r#"{"published":8080,"target":80,"protocol":"tcp"}"#),
            ("0:53/udp", r#"{"published":0,"target":53,"protocol":"udp"}"#),
            ("192.0.2.1:80:80", r#"{"address":"192.0.2.1","published":80,"target":80,"protocol":"tcp"}"#),
            ("[2001:db8::1]:80:80", r#"{"address":"2001:db8::1","published":80,"target":80,"protocol":"tcp"}"#),
            ("eth0:80:80/sctp", r#"{"device":"eth0","published":80,"target":80,"protocol":"sctp"}"#),
            ("80:80,mode=proxy", r#"{"published":80,"target":80,"protocol":"tcp","mode":"proxy"}"#),
            (
                "80:80,mode=proxy,proxy-protocol=v2,proxy-from=10.0.0.0/8",
                concat!(
                    r#"{"published":80,"target":80,"protocol":"tcp","mode":"proxy","proxy_protocol":"v2","#,
                    r#""proxy_from":["10.0.0.0/8"]}"#
                ),
            ),
        ] {
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!(serde_json::to_string(&spec).unwrap(), json);
            assert_eq!(serde_json::from_str::<PortSpec>(json).unwrap(), spec);
        }
    }

    #[test]
    fn wrong_json_is_refused_with_the_reason() {
        for (json, error) in [
            (r#"{"published":65536,"target":80}"#, "u16"),
            (r#"{"published":80,"target":0}"#, "nonzero"),
            (r#"{"published":80,"target":80,"address":"192.0.2.1","device":"eth0"}"#, "not to both"),
            (r#"{"published":80,"target":80,"address":"0.0.0.0"}"#, "stands for every address"),
            (r#"{"published":80,"target":80,"device":"a/b"}"#, "not a device's name"),
            (r#"{"published":80,"target":80,"device":"10.0.0.1"}"#, "rename the device"),
            (r#"{"published":80,"target":80,"proxy_protocol":"v1"}"#, "proxy-protocol needs mode=proxy"),
            (r#"{"published":80,"target":80,"proxy_from":["::/0"]}"#, "proxy-from needs mode=proxy"),
            (r#"{"published":80,"target":80,"mode":"proxy","proxy_from":["10.0.0.1/8"]}"#, "10.0.0.0/8 has none"),
            (r#"{"published":80,"target":80,"mode":"fast"}"#, "expected `kernel` or `proxy`"),
            (r#"{"published":80,"target":80,"colour":"red"}"#, "unknown field"),
        ] {
            let refused = serde_json::from_str::<PortSpec>(json).unwrap_err().to_string();
            assert!(refused.contains(error), "{json}: {refused}");
        }
    }
}
