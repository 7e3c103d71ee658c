//! Which store, by URL, and what it takes to be let in.
//!
//! `embedded`, `weft://HOST:PORT`, `etcd://HOST:PORT,..[/PREFIX][?OPTION=VALUE&..]`, `consul://..` and `zk://..`. Secrets are
//! better named by file (`password-file`, `token-file`) than written out: a command line can be read by everybody on the host.
//! [`StoreUrl`]'s `Display` and `Debug` never show one; [`StoreUrl::exposed`] does, for this node's own disk and for a joining node.

mod parse;

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
};

use self::parse::escape;
pub(super) use self::parse::unescape;
use crate::tls::OutsideFiles;

/// What answers at a store's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// In this node's agent.
    Embedded,
    /// In another node's agent.
    Member,
    /// An etcd cluster.
    Etcd,
    /// A Consul agent.
    Consul,
    /// A ZooKeeper ensemble.
    ZooKeeper,
}

/// A choice that a URL can carry behind its question mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreOption {
    /// Speak TLS: `true` or `false`. Any file for TLS says so, too.
    Tls,
    /// A file with the authorities that may have signed the server's certificate, PEM. Without it, the host's own.
    Ca,
    /// A file with the certificate that weft shows, PEM.
    Cert,
    /// A file with the key of that certificate, PEM.
    Key,
    /// The name in the server's certificate, where it is not the host's name in the URL.
    ServerName,
    /// `NAME` or `NAME:PASSWORD`.
    User,
    /// A file with the user's password.
    PasswordFile,
    /// Consul's ACL token.
    Token,
    /// A file with Consul's ACL token.
    TokenFile,
}

/// A store's address: where, under which prefix of its keys, and with which credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    /// What answers there.
    pub backend: Backend,
    /// `HOST:PORT` of each server, at least one but for [`Backend::Embedded`]; an IPv6 address stands in brackets (RFC 3986, 3.2.2).
    pub hosts: Vec<String>,
    /// What comes before all of weft's keys: empty, or `/NAME[/NAME]...` without a slash at its end.
    pub prefix: String,
    /// What else the URL says.
    pub options: BTreeMap<StoreOption, String>,
}

/// Why a text names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    /// Another scheme, or none.
    #[error(
        "{0:?} is not a store; embedded, etcd://HOST:PORT[,HOST:PORT]..., consul://HOST:PORT and zk://HOST:PORT[,HOST:PORT]... are"
    )]
    Scheme(String),
    /// A server that cannot be found.
    #[error("{0:?} in the store's URL is not HOST:PORT")]
    Host(String),
    /// A prefix that is none.
    #[error(
        "the prefix {0:?} in the store's URL is not /NAME or /NAME/NAME, of letters, digits, dots, dashes and underscores"
    )]
    Prefix(String),
    /// An option that this backend has not.
    #[error("the store's URL has an option {option:?}; those of {scheme}:// are: {known}")]
    Option {
        /// As given.
        option: String,
        /// The backend's scheme.
        scheme: &'static str,
        /// What there is.
        known: String,
    },
    /// An option without a value, or one said twice.
    #[error("the option {0} in the store's URL is to be said once, as {0}=VALUE")]
    Value(&'static str),
    /// Options that do not go together.
    #[error("the store's URL {0}")]
    Mismatch(&'static str),
}

impl Backend {
    const ALL: [Self; 5] = [Self::Embedded, Self::Member, Self::Etcd, Self::Consul, Self::ZooKeeper];

    /// What stands before `://`.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Member => "weft",
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::ZooKeeper => "zk",
        }
    }

    /// The port of a server that names none.
    fn default_port(self) -> Option<u16> {
        match self {
            Self::Embedded | Self::Member => None,
            Self::Etcd => Some(2379),
            Self::Consul => Some(8500),
            Self::ZooKeeper => Some(2181),
        }
    }

    fn options(self) -> &'static [StoreOption] {
        use StoreOption::{Ca, Cert, Key, PasswordFile, ServerName, Tls, Token, TokenFile, User};
        match self {
            Self::Embedded | Self::Member => &[],
            Self::Etcd => &[Tls, Ca, Cert, Key, ServerName, User, PasswordFile],
            Self::Consul => &[Tls, Ca, Cert, Key, ServerName, Token, TokenFile],
            Self::ZooKeeper => &[User, PasswordFile],
        }
    }
}

impl StoreOption {
    /// The word before the equals sign.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Ca => "ca",
            Self::Cert => "cert",
            Self::Key => "key",
            Self::ServerName => "server-name",
            Self::User => "user",
            Self::PasswordFile => "password-file",
            Self::Token => "token",
            Self::TokenFile => "token-file",
        }
    }

    /// Whether the value is the path of a file that every node needs.
    pub fn is_file(self) -> bool {
        match self {
            Self::Ca | Self::Cert | Self::Key | Self::PasswordFile | Self::TokenFile => true,
            Self::Tls | Self::ServerName | Self::User | Self::Token => false,
        }
    }

    /// The value as others may see it.
    fn redacted(self, value: &str) -> String {
        match (self, value.split_once(':')) {
            (Self::Token, _) => "(secret)".to_owned(),
            (Self::User, Some((name, _))) => format!("{name}:(secret)"),
            _ => value.to_owned(),
        }
    }
}

impl StoreUrl {
    /// The store in this node's agent.
    pub fn embedded() -> Self {
        Self { backend: Backend::Embedded, hosts: Vec::new(), prefix: String::new(), options: BTreeMap::new() }
    }

    /// The store in the agent of another node, at `HOST:PORT`.
    pub fn member(address: String) -> Self {
        Self { backend: Backend::Member, hosts: vec![address], ..Self::embedded() }
    }

    /// The value of an option.
    pub fn option(&self, option: StoreOption) -> Option<&str> {
        self.options.get(&option).map(String::as_str)
    }

    /// Whether the servers are spoken to over TLS.
    pub fn is_tls(&self) -> bool {
        use StoreOption::{Ca, Cert, Key, ServerName, Tls};
        self.option(Tls) == Some("true")
            || [Ca, Cert, Key, ServerName].iter().any(|option| self.options.contains_key(option))
    }

    /// The user's name, and his password where the URL itself has it.
    pub fn user(&self) -> Option<(&str, Option<&str>)> {
        let user = self.option(StoreOption::User)?;
        Some(user.split_once(':').map_or((user, None), |(name, password)| (name, Some(password))))
    }

    /// The files that whoever uses this URL must have.
    pub fn files(&self) -> impl Iterator<Item = (StoreOption, &Path)> {
        self.options.iter().filter(|(option, _)| option.is_file()).map(|(option, value)| (*option, Path::new(value)))
    }

    /// Whether a secret stands in the URL itself.
    pub fn has_secret(&self) -> bool {
        self.options.contains_key(&StoreOption::Token) || matches!(self.user(), Some((_, Some(_))))
    }

    /// What TLS to the servers takes.
    pub(super) fn outside_files(&self) -> OutsideFiles {
        let path = |option| self.option(option).map(PathBuf::from);
        OutsideFiles {
            ca: path(StoreOption::Ca),
            shown: path(StoreOption::Cert).zip(path(StoreOption::Key)),
            server_name: self.option(StoreOption::ServerName).map(str::to_owned),
        }
    }

    /// The same store with its files in another place.
    #[must_use]
    pub fn with_files_at(mut self, mut place: impl FnMut(StoreOption) -> PathBuf) -> Self {
        for (option, value) in &mut self.options {
            if option.is_file() {
                *value = place(*option).to_string_lossy().into_owned();
            }
        }
        self
    }

    /// Whether both name one and the same store, whatever the credentials.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.backend == other.backend && self.hosts == other.hosts && self.prefix == other.prefix
    }

    /// The whole URL with its secrets; it reads back to the same.
    pub fn exposed(&self) -> String {
        self.written(|_, value| value.to_owned())
    }

    fn written(&self, value: impl Fn(StoreOption, &str) -> String) -> String {
        if self.backend == Backend::Embedded {
            return "embedded".to_owned();
        }
        let mut text = format!("{}://{}{}", self.backend.scheme(), self.hosts.join(","), self.prefix);
        for (index, (option, said)) in self.options.iter().enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            let _ = write!(text, "{mark}{}={}", option.as_str(), escape(&value(*option, said)));
        }
        text
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(StoreOption::redacted))
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_accepted_read_back() {
        for (text, shown) in [
            ("embedded", "embedded"),
            ("weft://192.0.2.1:7780", "weft://192.0.2.1:7780"),
            ("etcd://192.0.2.1:2379", "etcd://192.0.2.1:2379"),
            ("etcd://a,b:1,[2001:db8::1]", "etcd://a:2379,b:1,[2001:db8::1]:2379"),
            ("etcd://a:2379/team/blue/", "etcd://a:2379/team/blue"),
            ("etcd://a/p?user=root:p%26w&ca=/etc/x.pem", "etcd://a:2379/p?ca=/etc/x.pem&user=root:(secret)"),
            ("etcd://a?user=root&password-file=/etc/pw", "etcd://a:2379?user=root&password-file=/etc/pw"),
            ("consul://a?token=abc", "consul://a:8500?token=(secret)"),
            ("consul://a?tls=true&token-file=/t", "consul://a:8500?tls=true&token-file=/t"),
            ("zk://a,b,c/weft", "zk://a:2181,b:2181,c:2181/weft"),
        ] {
            let url: StoreUrl = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(url.to_string(), shown);
            assert_eq!(url.exposed().parse().as_ref(), Ok(&url), "{text}");
            assert_eq!(url.has_secret(), shown.contains("(secret)"), "{text}");
            assert!(!format!("{url:?}").contains("abc"), "{url:?}");
        }
    }

    #[test]
    fn urls_that_are_refused_say_why_and_no_secret() {
        for (text, reason) in [
            ("", "not a store"),
            ("redis://a:1", "not a store"),
            ("redis://a:1?token=hush", "not a store"),
            ("etcd://", "HOST:PORT"),
            ("etcd://a,,b", "HOST:PORT"),
            ("etcd://:2379", "HOST:PORT"),
            ("etcd://a:0", "HOST:PORT"),
            ("etcd://a:+1", "HOST:PORT"),
            ("etcd://a:65536", "HOST:PORT"),
            ("etcd://user@a:1", "HOST:PORT"),
            ("etcd://[a]:1", "HOST:PORT"),
            ("etcd://[2001:db8::1", "HOST:PORT"),
            ("weft://a", "HOST:PORT"),
            ("weft://a:1/p", "no prefix"),
            ("weft://a:1?ca=/x", "are: none"),
            ("etcd://a/../b", "the prefix"),
            ("etcd://a//b", "the prefix"),
            ("etcd://a?token=hush", "tls, ca"),
            ("etcd://a?ca", "ca=VALUE"),
            ("etcd://a?ca=/x&ca=/y", "once"),
            ("etcd://a?ca=%zz", "ca=VALUE"),
            ("etcd://a?tls=yes", "tls=VALUE"),
            ("etcd://a?tls=false&ca=/x", "for TLS alone"),
            ("etcd://a?cert=/x", "go together"),
            ("etcd://a?user=root", "password-file=PATH"),
            ("etcd://a?user=root:hush&password-file=/x", "user=NAME"),
            ("consul://a?token=hush&token-file=/x", "one of them"),
        ] {
            let refused = text.parse::<StoreUrl>().map_err(|error| error.to_string());
            let Err(refused) = refused else { panic!("{text} was accepted") };
            assert!(refused.contains(reason) && !refused.contains("hush"), "{text}: {refused}");
        }
    }
}
