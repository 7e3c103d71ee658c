use std::{fmt, str::FromStr};

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What a person carries from a member to a joining node: `WEFT-1-<digest of the cluster's key>-<secret>`.
///
/// The digest lets the joining node know its cluster; the secret lets the cluster know its node.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    digest: [u8; DIGEST_LEN],
    secret: [u8; SECRET_LEN],
}

/// 80 bits of a SHA-256: nobody makes a second key with the same digest in the life of a cluster.
const DIGEST_LEN: usize = 10;
/// 160 bits.
const SECRET_LEN: usize = 20;

/// Why a word is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as tokens do.
    #[error("a token has the form WEFT-1-DIGEST-SECRET; this one does not begin with WEFT-")]
    NotAToken,
    /// It is a token of another format.
    #[error("this token is of format {0:?}, and this weft reads format 1: upgrade this node")]
    Format(String),
    /// Characters are missing or wrong.
    #[error("the token is incomplete or mistyped")]
    Damaged,
}

impl Token {
    /// The token of the cluster with `key`, with a secret made of 20 random bytes.
    pub fn new(key: &[u8], secret: [u8; 20]) -> Self {
        Self { digest: digest(key), secret }
    }

    /// Whether `key` is the key of the token's cluster.
    pub fn names(&self, key: &[u8]) -> bool {
        self.digest == digest(key)
    }

    /// A proof of knowing the secret, over what both sides have said.
    pub fn prove(&self, role: Role, said: &[&[u8]]) -> Vec<u8> {
        self.mac(role, said).finalize().into_bytes().to_vec()
    }

    /// Whether `proof` is one, compared in constant time.
    pub fn verify(&self, role: Role, said: &[&[u8]], proof: &[u8]) -> bool {
        self.mac(role, said).verify_slice(proof).is_ok()
    }

    fn mac(&self, role: Role, said: &[&[u8]]) -> Hmac<Sha256> {
        // A key of any length is fine for HMAC, so this cannot fail; an all-zero key would only make proofs wrong.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret)
            .unwrap_or_else(|_| Hmac::<Sha256>::new(&hmac::digest::Key::<Hmac<Sha256>>::default()));
        mac.update(match role {
            Role::Member => b"weft join 1 member",
            Role::Joiner => b"weft join 1 joiner",
        });
        for part in said {
            // Lengths first, so that no two sequences of parts read the same.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// Whose proof it is: one side's proof must not serve as the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The member that lets in.
    Member,
    /// The node that wants in.
    Joiner,
}

fn digest(key: &[u8]) -> [u8; DIGEST_LEN] {
    let mut digest = [0; DIGEST_LEN];
    let whole = Sha256::digest(key);
    digest.copy_from_slice(&whole[..DIGEST_LEN]);
    digest
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WEFT-1-{}-{}", BASE32_NOPAD.encode(&self.digest), BASE32_NOPAD.encode(&self.secret))
    }
}

/// Never the secret: tokens must not end up in logs.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WEFT-1-{}-(secret)", BASE32_NOPAD.encode(&self.digest))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().to_ascii_uppercase();
        let rest = text.strip_prefix("WEFT-").ok_or(TokenError::NotAToken)?;
        let (format, rest) = rest.split_once('-').ok_or(TokenError::Damaged)?;
        if format != "1" {
            return Err(TokenError::Format(format.to_owned()));
        }
        let (digest, secret) = rest.split_once('-').ok_or(TokenError::Damaged)?;
        let decode = |part: &str| BASE32_NOPAD.decode(part.as_bytes()).map_err(|_| TokenError::Damaged);
        Ok(Self {
            digest: decode(digest)?.try_into().map_err(|_| TokenError::Damaged)?,
            secret: decode(secret)?.try_into().map_err(|_| TokenError::Damaged)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_a_wrong_one_says_how() {
        let token = Token::new(b"key", [7; 20]);
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_eq!(format!(" {}\n", token.to_string().to_lowercase()).parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&BASE32_NOPAD.encode(&[7; 20])));
        for (text, error) in [
            ("", TokenError::NotAToken),
            ("SWMTKN-1-abc", TokenError::NotAToken),
            ("WEFT-2-AAAA-BBBB", TokenError::Format("2".into())),
            ("WEFT-1-AAAA", TokenError::Damaged),
            ("WEFT-1-AAAA-BBBB", TokenError::Damaged),
            ("WEFT-1-!!!-BBBB", TokenError::Damaged),
        ] {
            assert_eq!(text.parse::<Token>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_proof_serves_one_role_and_one_conversation() {
        let token = Token::new(b"key", [7; 20]);
        let proof = token.prove(Role::Member, &[b"a", b"b"]);
        assert!(token.verify(Role::Member, &[b"a", b"b"], &proof));
        assert!(!token.verify(Role::Joiner, &[b"a", b"b"], &proof));
        assert!(!token.verify(Role::Member, &[b"ab", b""], &proof));
        assert!(!Token::new(b"key", [8; 20]).verify(Role::Member, &[b"a", b"b"], &proof));
    }
}
