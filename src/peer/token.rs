use std::{fmt, str::FromStr};

use chacha20poly1305::{
    ChaCha20Poly1305, Nonce,
    aead::{Aead as _, KeyInit as _},
};
use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

/// What a person carries from a member to a joining node: `WEFT-1-<digest of the authority's certificate>-<secret>`.
///
/// The digest lets the joining node know its cluster; the secret lets the cluster know its node.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    digest: [u8; DIGEST_LEN],
    secret: Secret,
}

/// What whoever wants in has to know. 160 random bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_LEN]);

/// 128 bits of a SHA-256: nobody makes a second certificate with the same digest.
const DIGEST_LEN: usize = 16;
const SECRET_LEN: usize = 20;
/// RFC 8439, 2.8.
const NONCE_LEN: usize = 12;

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

/// What was sealed cannot be opened: it was written by somebody who has not this cluster's key, or is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the sealed token is damaged, or of another cluster")]
pub struct Unopened;

impl Token {
    /// A token of the cluster whose authority has `certificate` (DER).
    pub fn new(certificate: &[u8], secret: Secret) -> Self {
        Self { digest: digest(certificate), secret }
    }

    /// Whether `certificate` (DER) is that of the token's cluster's authority.
    pub fn names(&self, certificate: &[u8]) -> bool {
        self.digest == digest(certificate)
    }

    /// Its secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}

impl Secret {
    /// From 20 random bytes.
    pub fn new(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// From the wire; nothing if it has another length.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What the store may show of it.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// Whether its hash is `hash`; it takes the same time whichever byte differs.
    pub fn has_hash(&self, hash: &[u8; 32]) -> bool {
        let differing = self.hash().iter().zip(hash).fold(0, |sum, (one, other)| sum | (one ^ other));
        std::hint::black_box(differing) == 0
    }

    /// The secret for those alone who have `key` (ChaCha20-Poly1305, RFC 8439), with a nonce of 12 random bytes.
    pub fn seal(&self, key: &[u8; 32], nonce: [u8; 12]) -> Vec<u8> {
        let cipher = ChaCha20Poly1305::new(&(*key).into());
        // It fails for messages of gigabytes alone.
        let sealed = cipher.encrypt(&Nonce::from(nonce), self.0.as_slice()).unwrap_or_default();
        [nonce.as_slice(), &sealed].concat()
    }

    /// Opens what [`Self::seal`] made.
    pub fn open(sealed: &[u8], key: &[u8; 32]) -> Result<Self, Unopened> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or(Unopened)?;
        let nonce: [u8; NONCE_LEN] = nonce.try_into().map_err(|_| Unopened)?;
        let opened = ChaCha20Poly1305::new(&(*key).into()).decrypt(&Nonce::from(nonce), sealed);
        opened.ok().and_then(|bytes| Self::from_bytes(&bytes)).ok_or(Unopened)
    }
}

/// Never the secret: it must not end up in logs.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

fn digest(certificate: &[u8]) -> [u8; DIGEST_LEN] {
    let mut digest = [0; DIGEST_LEN];
    let whole = Sha256::digest(certificate);
    digest.copy_from_slice(&whole[..DIGEST_LEN]);
    digest
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WEFT-1-{}-{}", BASE32_NOPAD.encode(&self.digest), BASE32_NOPAD.encode(&self.secret.0))
    }
}

/// Never the secret.
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
            secret: Secret(decode(secret)?.try_into().map_err(|_| TokenError::Damaged)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_reads_back_and_a_wrong_one_says_how() {
        let token = Token::new(b"certificate", Secret([7; 20]));
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_eq!(format!(" {}\n", token.to_string().to_lowercase()).parse(), Ok(token.clone()));
        assert!(token.names(b"certificate") && !token.names(b"certificate of another"));
        assert!(!format!("{token:?}{:?}", token.secret()).contains(&BASE32_NOPAD.encode(&[7; 20])));
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

    proptest! {
        #[test]
        fn a_sealed_secret_opens_with_its_key_alone(
            secret: [u8; 20], key: [u8; 32], nonce: [u8; 12], spoil in 0_usize..48, flip in 1_u8..,
        ) {
            let secret = Secret(secret);
            let sealed = secret.seal(&key, nonce);
            prop_assert_eq!(Secret::open(&sealed, &key), Ok(secret.clone()));
            prop_assert!(!sealed.windows(8).any(|window| secret.0.windows(8).any(|part| part == window)));
            let mut spoilt = sealed.clone();
            spoilt[spoil] ^= flip;
            prop_assert_eq!(Secret::open(&spoilt, &key), Err(Unopened));
            prop_assert_eq!(Secret::open(&sealed[..spoil], &key), Err(Unopened));
            let mut other = key;
            other[spoil % 32] ^= flip;
            prop_assert_eq!(Secret::open(&sealed, &other), Err(Unopened));
        }

        #[test]
        fn a_secret_has_its_own_hash_alone(secret: [u8; 20], byte in 0_usize..20, flip in 1_u8..) {
            let hash = Secret(secret).hash();
            prop_assert!(Secret(secret).has_hash(&hash));
            let mut other = secret;
            other[byte] ^= flip;
            prop_assert!(!Secret(other).has_hash(&hash));
        }
    }
}
