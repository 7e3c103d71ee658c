use std::{collections::BTreeSet, fmt, str::FromStr};

/// Which key pair a node has: the SHA-256 of its public key as certificates hold it (RFC 5280, 4.1.2.7). It stays the same
/// when a certificate is renewed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {self}")
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a fingerprint of 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| refuse())?;
        }
        Ok(Self(bytes))
    }
}

/// The token that lets nodes join, as much of it as every reader of the store may see.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The SHA-256 of its secret.
    pub hash: [u8; 32],
    /// The secret, to be opened with what only members have.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(sealed)")
    }
}

/// Whom the cluster lets in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// Nodes that have shown the token and are on their way in; each for a minute at most.
    pub admitted: BTreeSet<Fingerprint>,
    /// The token that counts; nothing where its record is missing or cannot be read.
    pub token: Option<JoinToken>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_back() {
        let fingerprint = Fingerprint(std::array::from_fn(|index| u8::try_from(index * 8).unwrap()));
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        for wrong in ["", "00", &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
