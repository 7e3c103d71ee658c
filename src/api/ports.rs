//! Published ports as text.

use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

use ipnet::IpNet;

use super::wire::{PortKey, PortSpec, Protocol, port};
use crate::model::{Bind, PortMode, ProxyProtocol};

impl FromStr for PortSpec {
    type Err = String;

    /// `[ADDR:|DEVICE:]PUBLISHED:TARGET[/tcp|udp|sctp][,mode=kernel|proxy][,proxy-protocol=v1|v2][,proxy-from=CIDR]...`
    fn from_str(text: &str) -> Result<Self, String> {
        let (place, options) = match text.split_once(',') {
            Some((place, options)) => (place, Some(options)),
            None => (text, None),
        };
        let (ports, protocol) = split_protocol(place)?;
        let Some((published, target)) = ports.rsplit_once(':') else {
            return Err(format!("{text:?} does not say PUBLISHED:TARGET, such as 8080:80"));
        };
        if published.starts_with('[') && published.ends_with(']') {
            return Err(format!("{text:?} does not say PUBLISHED:TARGET behind the address, such as [::1]:8080:80"));
        }
        let (bind, published) = split_bind(published)?;
        Ok(Self {
            bind,
            published: number(published, "published", 0)?,
            target: nonzero(target, "target")?,
            protocol,
            mode: options.map_or(Ok(PortMode::Kernel), mode)?,
        })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bind, published, target, protocol, mode } = self;
        write!(f, "{}{published}:{target}/{protocol}", Prefix(bind))?;
        let PortMode::Proxy(proxy) = mode else { return Ok(()) };
        write!(f, ",mode=proxy")?;
        if let Some(version) = proxy.send {
            write!(f, ",proxy-protocol={}", version.as_str())?;
        }
        proxy.accept_from.iter().try_for_each(|net| write!(f, ",proxy-from={net}"))
    }
}

impl FromStr for PortKey {
    type Err = String;

    /// `[ADDR:|DEVICE:]PUBLISHED[/tcp|udp|sctp]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (place, protocol) = split_protocol(text)?;
        if let Some((published, target)) = place.split_once(':')
            && [published, target].iter().all(|port| number(port, "", 0).is_ok())
        {
            return Err(format!("{text:?} names a target besides the published port: {published} is enough"));
        }
        let (bind, published) = split_bind(place)?;
        Ok(Self { bind, published: nonzero(published, "published")?, protocol })
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/{}", Prefix(&self.bind), self.published, self.protocol)
    }
}

/// What stands before the published port.
struct Prefix<'a>(&'a Bind);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Bind::Any => Ok(()),
            Bind::Address(IpAddr::V4(address)) => write!(f, "{address}:"),
            Bind::Address(IpAddr::V6(address)) => write!(f, "[{address}]:"),
            Bind::Device(device) => write!(f, "{device}:"),
        }
    }
}

/// What stands before the last colon, and what behind it.
fn split_bind(text: &str) -> Result<(Bind, &str), String> {
    let Some((prefix, published)) = text.rsplit_once(':') else {
        return Ok((Bind::Any, text));
    };
    let bind = match prefix.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => match inner.parse() {
            Ok(address @ IpAddr::V6(_)) => port::bind(Some(address), None)?,
            _ => return Err(format!("{inner:?} in brackets is not an IPv6 address")),
        },
        None => match prefix.parse() {
            Ok(address @ IpAddr::V4(_)) => port::bind(Some(address), None)?,
            Ok(address @ IpAddr::V6(_)) => {
                return Err(format!("an IPv6 address before the published port stands in brackets: [{address}]"));
            }
            Err(_) if prefix.contains(':') => {
                return Err(format!(
                    "{prefix:?} is neither an address nor a device; an IPv6 address stands in brackets"
                ));
            }
            Err(_) => port::bind(None, Some(prefix))?,
        },
    };
    Ok((bind, published))
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), String> {
    match text.split_once('/') {
        Some((ports, protocol)) => Ok((ports, protocol.parse()?)),
        None => Ok((text, Protocol::Tcp)),
    }
}

/// The mode that the options ask for.
fn mode(options: &str) -> Result<PortMode, String> {
    let (mut is_proxy, mut send, mut accept_from) = (None, None, Vec::new());
    let once = |is_new: bool, name: &str| {
        if is_new { Ok(()) } else { Err(format!("the option {name} of a published port is given twice")) }
    };
    for option in options.split(',') {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "mode" => {
                let word = match value {
                    "kernel" => false,
                    "proxy" => true,
                    _ => return Err(format!("{value:?} is not a mode of a published port; kernel and proxy are")),
                };
                once(is_proxy.replace(word).is_none(), name)?;
            }
            "proxy-protocol" => once(send.replace(value.parse::<ProxyProtocol>()?).is_none(), name)?,
            "proxy-from" => accept_from.push(prefix(value)?),
            _ => {
                return Err(format!(
                    "a published port has no option {option:?}; mode, proxy-protocol and proxy-from are"
                ));
            }
        }
    }
    port::port_mode(is_proxy.unwrap_or_default(), send, accept_from)
}

/// A prefix, or an address for the prefix that holds it alone.
fn prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| format!("{text:?} is not a prefix, such as 10.0.0.0/8"))
}

fn nonzero(text: &str, which: &str) -> Result<NonZeroU16, String> {
    let port = number(text, which, 1)?;
    NonZeroU16::new(port).ok_or_else(|| format!("the {which} port {text} does not lie in 1 to 65535"))
}

fn number(text: &str, which: &str, least: u16) -> Result<u16, String> {
    // `u16::from_str` takes a leading plus sign; a port has none.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(format!("the {which} port {text:?} is not a number from {least} to 65535"));
    }
    text.parse().map_err(|_| format!("the {which} port {text} does not lie in {least} to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_reads_back() {
        for (text, canonical) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/tcp", "8080:80/tcp"),
            ("53:5353/udp", "53:5353/udp"),
            ("1:65535", "1:65535/tcp"),
            ("0:80", "0:80/tcp"),
            ("80:80/sctp", "80:80/sctp"),
            ("192.0.2.1:80:8080", "192.0.2.1:80:8080/tcp"),
            ("127.0.0.1:0:8080", "127.0.0.1:0:8080/tcp"),
            ("[2001:db8::1]:80:8080/udp", "[2001:db8::1]:80:8080/udp"),
            ("[2001:DB8:0::1]:80:8080", "[2001:db8::1]:80:8080/tcp"),
            ("eth0:80:8080", "eth0:80:8080/tcp"),
            ("br-1.5:80:8080", "br-1.5:80:8080/tcp"),
            ("80:80,mode=kernel", "80:80/tcp"),
            ("80:80/tcp,mode=proxy", "80:80/tcp,mode=proxy"),
            ("80:80,proxy-protocol=v1,mode=proxy", "80:80/tcp,mode=proxy,proxy-protocol=v1"),
            (
                "[::1]:80:80,mode=proxy,proxy-from=fd00::/8,proxy-from=10.0.0.0/8,proxy-from=10.0.0.0/8,proxy-protocol=v2",
                "[::1]:80:80/tcp,mode=proxy,proxy-protocol=v2,proxy-from=10.0.0.0/8,proxy-from=fd00::/8",
            ),
            ("80:80,mode=proxy,proxy-from=192.0.2.7", "80:80/tcp,mode=proxy,proxy-from=192.0.2.7/32"),
        ] {
            let spec: PortSpec = text.parse().unwrap();
            assert_eq!(spec.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(spec));
        }
    }

    #[test]
    fn a_wrong_spec_is_told_what_is_wrong_with_it() {
        for (text, error) in [
            ("", "does not say PUBLISHED:TARGET"),
            ("80", "does not say PUBLISHED:TARGET"),
            ("65536:80", "the published port 65536 does not lie in 0 to 65535"),
            ("80:0", "the target port 0 does not lie in 1 to 65535"),
            ("80:65536", "the target port 65536 does not lie"),
            (":80", "the published port \"\" is not a number"),
            ("80:", "the target port \"\" is not a number"),
            ("+80:80", "the published port \"+80\" is not a number"),
            ("http:80", "the published port \"http\" is not a number"),
            ("80:80/dccp", "\"dccp\" is not supported; tcp, udp and sctp are"),
            ("80:80/", "\"\" is not supported; tcp, udp and sctp are"),
            ("0.0.0.0:80:80", "0.0.0.0 stands for every address: leave it out"),
            ("[::]:80:80", ":: stands for every address"),
            ("224.0.0.1:80:80", "224.0.0.1 is not an address that a node can have"),
            ("[::ffff:192.0.2.1]:80:80", "is not an address that a node can have"),
            ("[192.0.2.1]:80:80", "\"192.0.2.1\" in brackets is not an IPv6 address"),
            ("[2001:db8::1]:80", "does not say PUBLISHED:TARGET behind the address"),
            ("2001:db8::1:80:80", "stands in brackets: [2001:db8::1]"),
            ("a:b:80:80", "\"a:b\" is neither an address nor a device"),
            ("192.0.2.256:80:80", "by the name \"192.0.2.256\""),
            ("80:80:80", "cannot be bound to a device by the name \"80\""),
            (":80:80", "\"\" is not a device's name"),
            ("a-name-of-16-char:80:80", "is not a device's name"),
            ("80:80,", "has no option \"\""),
            ("80:80,mode", "\"\" is not a mode of a published port; kernel and proxy are"),
            ("80:80,mode=fast", "\"fast\" is not a mode"),
            ("80:80,mode=proxy,mode=proxy", "mode of a published port is given twice"),
            ("80:80,mode=proxy,proxy-protocol=v3", "\"v3\" is not a version of the PROXY protocol"),
            ("80:80,proxy-protocol=v1", "proxy-protocol needs mode=proxy"),
            ("80:80,mode=kernel,proxy-from=10.0.0.0/8", "proxy-from needs mode=proxy"),
            ("80:80,mode=proxy,proxy-from=ten", "\"ten\" is not a prefix"),
            ("80:80,mode=proxy,proxy-from=10.0.0.1/8", "10.0.0.0/8 has none"),
            ("80:80,colour=red", "has no option \"colour=red\"; mode, proxy-protocol and proxy-from are"),
        ] {
            let refused = text.parse::<PortSpec>().unwrap_err();
            assert!(refused.contains(error), "{text:?}: {refused}");
        }
    }

    #[test]
    fn a_key_reads_back() {
        for (text, canonical) in [
            ("8080", "8080/tcp"),
            ("53/udp", "53/udp"),
            ("192.0.2.1:80", "192.0.2.1:80/tcp"),
            ("[2001:db8::1]:80/sctp", "[2001:db8::1]:80/sctp"),
            ("eth0:80", "eth0:80/tcp"),
        ] {
            let key: PortKey = text.parse().unwrap();
            assert_eq!(key.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(key));
        }
        for (text, error) in [
            ("80:8080", "names a target besides the published port: 80 is enough"),
            ("0", "the published port 0 does not lie in 1 to 65535"),
            ("http", "the published port \"http\" is not a number"),
            ("80,mode=proxy", "the published port \"80,mode=proxy\" is not a number"),
            ("2001:db8::1:80", "stands in brackets"),
        ] {
            let refused = text.parse::<PortKey>().unwrap_err();
            assert!(refused.contains(error), "{text:?}: {refused}");
        }
    }
}
