use std::{fmt, num::NonZeroU16, str::FromStr};

use super::wire::{PortKey, PortSpec, Protocol};

impl FromStr for PortSpec {
    type Err = String;

    /// `PUBLISHED:TARGET[/tcp|udp]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, protocol) = split_protocol(text)?;
        let Some((published, target)) = ports.split_once(':') else {
            return Err(format!("{text:?} does not say PUBLISHED:TARGET, such as 8080:80"));
        };
        if target.contains(':') {
            return Err(format!("an address before the published port ({published}:) is not supported"));
        }
        Ok(Self { published: port(published, "published")?, target: port(target, "target")?, protocol })
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.published, self.target, self.protocol)
    }
}

impl FromStr for PortKey {
    type Err = String;

    /// `PUBLISHED[/tcp|udp]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (published, protocol) = split_protocol(text)?;
        Ok(Self { published: port(published, "published")?, protocol })
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.published, self.protocol)
    }
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), String> {
    if let Some((_, option)) = text.split_once(',') {
        return Err(format!("the option {option:?} of a published port is not supported"));
    }
    match text.split_once('/') {
        Some((ports, protocol)) => Ok((ports, protocol.parse()?)),
        None => Ok((text, Protocol::Tcp)),
    }
}

fn port(text: &str, which: &str) -> Result<NonZeroU16, String> {
    // `u16::from_str` takes a leading plus sign; a port has none.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(format!("the {which} port {text:?} is not a number from 1 to 65535"));
    }
    text.parse().map_err(|_| format!("the {which} port {text} does not lie in 1 to 65535"))
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
            ("0:80", "the published port 0 does not lie in 1 to 65535"),
            ("65536:80", "the published port 65536 does not lie in 1 to 65535"),
            ("80:0", "the target port 0 does not lie"),
            ("80:65536", "the target port 65536 does not lie"),
            (":80", "the published port \"\" is not a number"),
            ("80:", "the target port \"\" is not a number"),
            ("+80:80", "the published port \"+80\" is not a number"),
            ("http:80", "the published port \"http\" is not a number"),
            ("80:80/dccp", "\"dccp\" is not supported; tcp, udp and sctp are"),
            ("80:80/", "\"\" is not supported; tcp, udp and sctp are"),
            ("10.0.0.1:80:80", "an address before the published port (10.0.0.1:) is not supported"),
            ("80:80/tcp,mode=proxy", "the option \"mode=proxy\" of a published port is not supported"),
        ] {
            let refused = text.parse::<PortSpec>().unwrap_err();
            assert!(refused.contains(error), "{text:?}: {refused}");
        }
    }

    #[test]
    fn a_key_reads_back() {
        for (text, canonical) in [("8080", "8080/tcp"), ("53/udp", "53/udp")] {
            let key: PortKey = text.parse().unwrap();
            assert_eq!(key.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(key));
        }
        assert!("80:80".parse::<PortKey>().is_err());
    }
}
