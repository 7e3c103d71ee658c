//! How a service's connections are spread, in the words of the API.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::Span;
use crate::model;

/// How a service's new connections are spread over its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lb {
    /// In turn, exactly, by weight.
    #[default]
    Rr,
    /// By chance, by weight.
    Random,
    /// To the replica with the fewest open connections; proxied ports alone.
    LeastConn,
    /// By the client's address.
    Source,
}

impl From<model::Lb> for Lb {
    fn from(lb: model::Lb) -> Self {
        match lb {
            model::Lb::Rr => Self::Rr,
            model::Lb::Random => Self::Random,
            model::Lb::LeastConn => Self::LeastConn,
            model::Lb::Source => Self::Source,
        }
    }
}

impl From<Lb> for model::Lb {
    fn from(lb: Lb) -> Self {
        match lb {
            Lb::Rr => Self::Rr,
            Lb::Random => Self::Random,
            Lb::LeastConn => Self::LeastConn,
            Lb::Source => Self::Source,
        }
    }
}

impl fmt::Display for Lb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(model::Lb::from(*self).as_str())
    }
}

impl FromStr for Lb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<model::Lb>().map(Into::into)
    }
}

/// What a service's name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointMode {
    /// Its virtual addresses.
    #[default]
    Vip,
    /// Its replicas' own addresses; it has no virtual ones.
    Dnsrr,
}

impl From<model::EndpointMode> for EndpointMode {
    fn from(mode: model::EndpointMode) -> Self {
        match mode {
            model::EndpointMode::Vip => Self::Vip,
            model::EndpointMode::Dnsrr => Self::Dnsrr,
        }
    }
}

impl From<EndpointMode> for model::EndpointMode {
    fn from(mode: EndpointMode) -> Self {
        match mode {
            EndpointMode::Vip => Self::Vip,
            EndpointMode::Dnsrr => Self::Dnsrr,
        }
    }
}

impl fmt::Display for EndpointMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(model::EndpointMode::from(*self).as_str())
    }
}

impl FromStr for EndpointMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<model::EndpointMode>().map(Into::into)
    }
}

/// How long a client stays with the replica that it came to: `off`, or a length of time such as `10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Affinity {
    /// Every connection goes its own way.
    #[default]
    Off,
    /// So long, counted from its last new connection.
    For(Span),
}

impl From<Option<Duration>> for Affinity {
    fn from(duration: Option<Duration>) -> Self {
        duration.map_or(Self::Off, |duration| Self::For(duration.into()))
    }
}

impl From<Affinity> for Option<Duration> {
    fn from(affinity: Affinity) -> Self {
        match affinity {
            Affinity::Off => None,
            Affinity::For(span) => Some(span.into()),
        }
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.pad("off"),
            Self::For(span) => fmt::Display::fmt(span, f),
        }
    }
}

impl FromStr for Affinity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text.parse().map(Self::For).map_err(|wrong| format!("{wrong}; or `off`")),
        }
    }
}

impl TryFrom<String> for Affinity {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Affinity> for String {
    fn from(affinity: Affinity) -> Self {
        affinity.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_in_json_and_as_text() {
        for word in ["rr", "random", "least-conn", "source"] {
            let lb: Lb = word.parse().unwrap();
            assert_eq!((lb.to_string(), serde_json::to_string(&lb).unwrap()), (word.to_owned(), format!("{word:?}")));
        }
        for word in ["vip", "dnsrr"] {
            let mode: EndpointMode = word.parse().unwrap();
            assert_eq!(
                (mode.to_string(), serde_json::to_string(&mode).unwrap()),
                (word.to_owned(), format!("{word:?}"))
            );
        }
        for word in ["off", "10m"] {
            let affinity: Affinity = word.parse().unwrap();
            let json = serde_json::to_string(&affinity).unwrap();
            assert_eq!((affinity.to_string(), json.as_str()), (word.to_owned(), format!("{word:?}").as_str()));
            assert_eq!(serde_json::from_str::<Affinity>(&json).unwrap(), affinity);
        }
        assert!(
            "on".parse::<Affinity>().is_err() && "RR".parse::<Lb>().is_err() && "".parse::<EndpointMode>().is_err()
        );
    }
}
