//! How a service's replicas are probed, in the words of the API.

use std::{
    fmt,
    num::{NonZeroU8, NonZeroU16},
    ops::RangeInclusive,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::Span;
use crate::model::{self, HealthCheck};

/// The longest path of a probe, in bytes: with its line and headers a request fits in one packet.
const PATH_LEN_MAX: usize = 1024;

/// A health check as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// What is asked; never `none`.
    pub probe: Probe,
    /// The expected status codes, of HTTP alone.
    pub status: Option<StatusRange>,
    /// The port that is asked, in the container; without one, the target of the service's first published TCP port.
    pub port: Option<NonZeroU16>,
    /// The time from one probe's start to the next one's.
    pub interval: Span,
    /// How long an answer may take.
    pub timeout: Span,
    /// So many good answers in a row make a replica ready.
    pub rise: u8,
    /// So many bad ones in a row make it unhealthy.
    pub fall: u8,
}

impl From<&HealthCheck> for HealthView {
    fn from(check: &HealthCheck) -> Self {
        let HealthCheck { probe, port, interval, timeout, rise, fall } = check;
        let (probe, status) = match probe {
            model::Probe::Tcp => (Probe::Tcp, None),
            model::Probe::Http { path, status } => (Probe::Http(path.clone()), Some(StatusRange(status.clone()))),
        };
        let (interval, timeout) = ((*interval).into(), (*timeout).into());
        Self { probe, status, port: *port, interval, timeout, rise: *rise, fall: *fall }
    }
}

impl fmt::Display for HealthView {
    /// What is asked, and what of the rest is not as usual.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe, status, port, interval, timeout, rise, fall } = self;
        write!(f, "{probe}")?;
        if let Some(port) = port {
            write!(f, " port={port}")?;
        }
        if let Some(status) = status.as_ref().filter(|status| status.0 != model::Probe::STATUS_DEFAULT) {
            write!(f, " status={status}")?;
        }
        for (name, span, usual) in
            [("interval", interval, HealthCheck::INTERVAL_DEFAULT), ("timeout", timeout, HealthCheck::TIMEOUT_DEFAULT)]
        {
            if *span != usual.into() {
                write!(f, " {name}={span}")?;
            }
        }
        for (name, count, usual) in
            [("rise", rise, HealthCheck::RISE_DEFAULT), ("fall", fall, HealthCheck::FALL_DEFAULT)]
        {
            if *count != usual {
                write!(f, " {name}={count}")?;
            }
        }
        Ok(())
    }
}

/// A health check as it is wished. What is not named has its usual value in a new check and stays as it is in one that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthRequest {
    /// What is asked; `none` takes the check away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// The expected status codes, of HTTP alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusRange>,
    /// The port that is asked, in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// The time from one probe's start to the next one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// How long an answer may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// So many good answers in a row make a replica ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<NonZeroU8>,
    /// So many bad ones in a row make it unhealthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<NonZeroU8>,
}

impl HealthRequest {
    /// The check of a service that had `before`.
    ///
    /// # Errors
    /// Settings without a check that they could be of.
    pub fn apply_to(&self, before: Option<&HealthCheck>) -> Result<Option<HealthCheck>, String> {
        let Self { probe, status, port, interval, timeout, rise, fall } = self;
        let probe = match (probe, before.map(|check| &check.probe)) {
            (Some(Probe::None), _) if *self == (Self { probe: Some(Probe::None), ..Self::default() }) => {
                return Ok(None);
            }
            (Some(Probe::None), _) => {
                return Err(
                    "a service without a health check has no settings of one: name either `none` or them".into()
                );
            }
            (None, None) if *self == Self::default() => return Ok(None),
            (None, None) => {
                return Err("a health check has to say what is asked: `tcp`, or `http:PATH`".into());
            }
            (Some(Probe::Tcp), _) | (None, Some(model::Probe::Tcp)) => {
                if status.is_some() {
                    return Err(
                        "a status is expected of an HTTP answer: the health check asks for a TCP connection".into()
                    );
                }
                model::Probe::Tcp
            }
            (Some(Probe::Http(path)), before) => {
                let before = match before {
                    Some(model::Probe::Http { path: _, status }) => Some(status.clone()),
                    Some(model::Probe::Tcp) | None => None,
                };
                let status = status.clone().map(|range| range.0).or(before);
                model::Probe::Http { path: path.clone(), status: status.unwrap_or(model::Probe::STATUS_DEFAULT) }
            }
            (None, Some(model::Probe::Http { path, status: before })) => model::Probe::Http {
                path: path.clone(),
                status: status.clone().map_or_else(|| before.clone(), |range| range.0),
            },
        };
        let had = |field: fn(&HealthCheck) -> std::time::Duration, usual| before.map_or(usual, field);
        Ok(Some(HealthCheck {
            probe,
            port: port.or(before.and_then(|check| check.port)),
            interval: interval.map_or_else(|| had(|check| check.interval, HealthCheck::INTERVAL_DEFAULT), Into::into),
            timeout: timeout.map_or_else(|| had(|check| check.timeout, HealthCheck::TIMEOUT_DEFAULT), Into::into),
            rise: rise.map_or(before.map_or(HealthCheck::RISE_DEFAULT, |check| check.rise), NonZeroU8::get),
            fall: fall.map_or(before.map_or(HealthCheck::FALL_DEFAULT, |check| check.fall), NonZeroU8::get),
        }))
    }
}

/// What a health check asks: `tcp`, `http:PATH`, or `none`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Probe {
    /// Nothing: a replica is ready as soon as it is attached.
    None,
    /// That a TCP connection is accepted.
    Tcp,
    /// That `GET PATH` is answered with an expected status. The path begins with a slash and is made of visible ASCII
    /// characters (RFC 3986, 3.3 and 3.4): whatever else it had would change the request's line.
    Http(String),
}

impl FromStr for Probe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Option::None if text == "none" => Ok(Self::None),
            Option::None if text == "tcp" => Ok(Self::Tcp),
            Some(("http", path)) => {
                if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(format!(
                        "{path:?} cannot be a probe's path: a slash, then visible ASCII characters, such as /healthz"
                    ));
                }
                if path.len() > PATH_LEN_MAX {
                    return Err(format!(
                        "a probe's path of {} bytes is too long; {PATH_LEN_MAX} is the most",
                        path.len()
                    ));
                }
                Ok(Self::Http(path.to_owned()))
            }
            _ => Err(format!("{text:?} is not a health check; tcp, http:PATH and none are")),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Tcp => f.pad("tcp"),
            Self::Http(path) => write!(f, "http:{path}"),
        }
    }
}

impl TryFrom<String> for Probe {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Probe> for String {
    fn from(probe: Probe) -> Self {
        probe.to_string()
    }
}

/// HTTP status codes from one to another (RFC 9110, 15): `200-399`, or `204`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StatusRange(RangeInclusive<u16>);

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a range of HTTP status codes from 100 to 599, such as 200-399 or 204");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let code = |text: &str| -> Result<u16, String> {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|code| digits && (100..=599).contains(code)).ok_or_else(refuse)
        };
        let (first, last) = (code(first)?, code(last)?);
        if first > last { Err(refuse()) } else { Ok(Self(first..=last)) }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl TryFrom<String> for StatusRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<StatusRange> for String {
    fn from(range: StatusRange) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_read_back_and_wrong_ones_are_refused() {
        let longest = format!("http:/{}", "a".repeat(PATH_LEN_MAX - 1));
        for text in ["none", "tcp", "http:/", "http:/healthz?full=1&a=b:c", &longest] {
            assert_eq!(text.parse::<Probe>().unwrap().to_string(), text);
        }
        let too_long = format!("{longest}a");
        for text in [
            "",
            "udp",
            "tcp:80",
            "http",
            "http:",
            "http:healthz",
            "http:/a b",
            "http:/a\r\nX: y",
            "http:/é",
            "http:/\u{7f}",
            &too_long,
        ] {
            assert!(text.parse::<Probe>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn status_ranges_read_back_and_wrong_ones_are_refused() {
        for (text, canonical) in [("200-399", "200-399"), ("204", "204"), ("204-204", "204"), ("100-599", "100-599")] {
            assert_eq!(text.parse::<StatusRange>().unwrap().to_string(), canonical);
        }
        for text in ["", "-", "200-", "-200", "399-200", "99", "600", "200-600", "0200", "+200", "2xx", "200-299-399"] {
            assert!(text.parse::<StatusRange>().is_err(), "{text:?}");
        }
    }

    /// `before`, then a request, each as words of `name=value`, and how the check prints or what the refusal contains.
    #[test]
    fn a_check_is_changed_by_what_is_named() {
        let request = |words: &str| {
            let fields = words.split_whitespace().map(|word| word.split_once('=').unwrap());
            let json: serde_json::Map<String, serde_json::Value> = fields
                .map(|(name, value)| (name.to_owned(), value.parse::<u16>().map_or_else(|_| value.into(), Into::into)))
                .collect();
            serde_json::from_value::<HealthRequest>(json.into()).unwrap()
        };
        for (before, change, after) in [
            ("", "", Ok("none")),
            ("", "probe=none", Ok("none")),
            ("", "probe=tcp", Ok("tcp")),
            ("", "probe=http:/", Ok("http:/")),
            (
                "",
                "probe=http:/ status=204-299 port=81 interval=5s timeout=500ms rise=2 fall=2",
                Ok("http:/ port=81 status=204-299 interval=5s timeout=500ms rise=2 fall=2"),
            ),
            ("", "interval=5s", Err("has to say what is asked")),
            ("", "probe=none interval=5s", Err("name either `none` or them")),
            ("", "probe=tcp status=200-299", Err("a status is expected of an HTTP answer")),
            ("probe=tcp port=81", "status=200-299", Err("a status is expected of an HTTP answer")),
            ("probe=tcp", "probe=none", Ok("none")),
            ("probe=tcp port=81", "fall=5", Ok("tcp port=81 fall=5")),
            ("probe=tcp port=81 fall=5", "probe=http:/x", Ok("http:/x port=81 fall=5")),
            ("probe=http:/x status=204-204", "probe=http:/y", Ok("http:/y status=204")),
            ("probe=http:/x status=204-204", "status=200-299", Ok("http:/x status=200-299")),
            ("probe=http:/x status=204-204 rise=3", "probe=tcp", Ok("tcp rise=3")),
        ] {
            let before = request(before).apply_to(None).unwrap();
            let outcome = request(change).apply_to(before.as_ref());
            let told = outcome.map(|check| {
                check.as_ref().map_or_else(|| "none".to_owned(), |check| HealthView::from(check).to_string())
            });
            match (&told, after) {
                (Ok(told), Ok(after)) => assert_eq!(told, after, "{change}"),
                (Err(told), Err(after)) => assert!(told.contains(after), "{change}: {told}"),
                _ => panic!("{change}: {told:?} instead of {after:?}"),
            }
        }
    }
}
