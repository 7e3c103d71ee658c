use std::{fmt, str::FromStr};

/// A name that people give to a node, network, endpoint or service: `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, 63 at most, so
/// that it is a DNS label as it stands (RFC 1123, 2.1; RFC 1035, 2.3.4).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a word cannot be a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name cannot be empty")]
    Empty,
    /// More than 63 characters.
    #[error("the name {0:?} has {1} characters; 63 is the most")]
    TooLong(String, usize),
    /// A character outside the permitted ones, or a hyphen at an end.
    #[error("the name {0:?} is not made of a-z, 0-9 and inner hyphens")]
    Characters(String),
}

impl Name {
    /// The longest name, in characters.
    pub const LEN_MAX: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let length = text.chars().count();
        if length == 0 {
            return Err(NameError::Empty);
        }
        if length > Self::LEN_MAX {
            return Err(NameError::TooLong(text.to_owned(), length));
        }
        let permitted = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !text.bytes().all(permitted) || text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Characters(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        let longest = "a".repeat(63);
        let too_long = "a".repeat(64);
        for (text, accepted) in [
            ("web", true),
            ("a", true),
            ("0", true),
            ("web-1", true),
            (longest.as_str(), true),
            ("", false),
            (too_long.as_str(), false),
            ("Web", false),
            ("-web", false),
            ("web-", false),
            ("we b", false),
            ("we.b", false),
            ("wéb", false),
        ] {
            assert_eq!(text.parse::<Name>().is_ok(), accepted, "{text:?}");
        }
    }
}
