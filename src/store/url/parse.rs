//! A store's URL from its text, and what stands in it for what would end it.

use std::{collections::BTreeMap, fmt::Write as _, str::FromStr};

use super::{Backend, StoreOption, StoreUrl, StoreUrlError};

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        if text == Backend::Embedded.scheme() {
            return Ok(Self::embedded());
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| StoreUrlError::Scheme(unquestioned(text)))?;
        let backend = Backend::ALL
            .into_iter()
            .find(|backend| *backend != Backend::Embedded && backend.scheme() == scheme)
            .ok_or_else(|| StoreUrlError::Scheme(unquestioned(text)))?;
        let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, prefix) = place.split_at(place.find('/').unwrap_or(place.len()));
        let hosts = hosts.split(',').map(|text| host(backend, text)).collect::<Result<_, _>>()?;
        let url = Self { backend, hosts, prefix: prefix_of(prefix)?, options: options_of(backend, options)? };
        url.check()?;
        Ok(url)
    }
}

impl StoreUrl {
    fn check(&self) -> Result<(), StoreUrlError> {
        use StoreOption::{Cert, Key, PasswordFile, Tls, Token, TokenFile, User};
        let has = |option| self.options.contains_key(&option);
        let mismatch = |text| Err(StoreUrlError::Mismatch(text));
        if self.backend == Backend::Member && !self.prefix.is_empty() {
            return mismatch("names a member of the cluster, whose store has no prefix");
        }
        if !matches!(self.option(Tls), None | Some("true" | "false")) {
            return Err(StoreUrlError::Value("tls"));
        }
        if self.option(Tls) == Some("false") && self.is_tls() {
            return mismatch("says tls=false, and has options that are for TLS alone");
        }
        if has(Cert) != has(Key) {
            return mismatch("has one of cert and key; they go together");
        }
        if has(PasswordFile) && !matches!(self.user(), Some((_, None))) {
            return mismatch("has a password-file, which wants user=NAME beside it");
        }
        if has(Token) && has(TokenFile) {
            return mismatch("has a token and a token-file; say one of them");
        }
        if has(User) && !has(PasswordFile) && !matches!(self.user(), Some((name, Some(_))) if !name.is_empty()) {
            return mismatch("has a user without a password: say password-file=PATH beside it");
        }
        Ok(())
    }
}

/// What may be repeated to a person of a URL that was not understood: anything behind `?` may be a secret.
fn unquestioned(text: &str) -> String {
    text.split('?').next().unwrap_or_default().to_owned()
}

fn host(backend: Backend, text: &str) -> Result<String, StoreUrlError> {
    let refuse = || StoreUrlError::Host(text.to_owned());
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, port))) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| refuse())?;
            (format!("[{address}]"), port)
        }
        Some(None) => return Err(refuse()),
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
            if name.is_empty() || !is_name {
                return Err(refuse());
            }
            (name.to_owned(), port)
        }
    };
    let port = match (port.strip_prefix(':'), backend.default_port()) {
        (Some(digits), _) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(refuse)?
        }
        (None, Some(default)) if port.is_empty() => default,
        _ => return Err(refuse()),
    };
    Ok(format!("{host}:{port}"))
}

fn prefix_of(text: &str) -> Result<String, StoreUrlError> {
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    let is_name = |name: &str| {
        !matches!(name, "" | "." | "..")
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    if trimmed.is_empty() || trimmed.strip_prefix('/').is_some_and(|names| names.split('/').all(is_name)) {
        Ok(trimmed.to_owned())
    } else {
        Err(StoreUrlError::Prefix(text.to_owned()))
    }
}

fn options_of(backend: Backend, text: &str) -> Result<BTreeMap<StoreOption, String>, StoreUrlError> {
    let mut options = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (word, value) = pair.split_once('=').unwrap_or((pair, ""));
        let known = backend.options();
        let option =
            known.iter().copied().find(|option| option.as_str() == word).ok_or_else(|| StoreUrlError::Option {
                option: word.to_owned(),
                scheme: backend.scheme(),
                known: if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.iter().map(|option| option.as_str()).collect::<Vec<_>>().join(", ")
                },
            })?;
        let value = unescape(value).filter(|value| !value.is_empty()).ok_or(StoreUrlError::Value(option.as_str()))?;
        if options.insert(option, value).is_some() {
            return Err(StoreUrlError::Value(option.as_str()));
        }
    }
    Ok(options)
}

/// Percent-encodes (RFC 3986, 2.1) what would end a value or a URL.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@()".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// Reads percent-encoding back; nothing where it is broken off, or what it stands for is no text.
pub(in crate::store) fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
