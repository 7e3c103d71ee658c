//! How the ensemble is reached, and what its failures mean.

use std::{future::Future, path::PathBuf, time::Duration};

use tokio::time::timeout;
use zookeeper_client::{Acls, Client, Connector, CreateMode, CreateOptions, Error, SessionInfo};

use super::node;
use crate::store::{StoreError, StoreOption, StoreUrl};

/// How long a request may take. An ensemble elects a new leader within some hundred milliseconds to a few seconds.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the session without keys of its own outlasts a lost connection, and how long is looked for a server in the first place.
pub(super) const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest session that is asked for; servers allow far less.
const SESSION_TIMEOUT_MAX: Duration = Duration::from_hours(1);

/// After which silence a connection is given up, and the next server tried. Two that are dead leave time for a third.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(4);

/// Where the servers are, and who asks.
pub(super) struct Link {
    /// The URL without secrets, for messages to people.
    name: String,
    servers: String,
    /// What all nodes lie under: empty, or `/NAME..` without a slash at its end.
    pub(super) root: String,
    user: Option<(String, Password)>,
}

/// A password, or where it is to be read whenever a session begins.
enum Password {
    Said(String),
    File(PathBuf),
}

impl Link {
    pub(super) fn new(url: &StoreUrl) -> Result<Self, StoreError> {
        if url.hosts.is_empty() {
            return Err(StoreError::Refused(format!("{url} names no server")));
        }
        let user = match (url.user(), url.option(StoreOption::PasswordFile)) {
            (Some((name, Some(password))), _) => Some((name.to_owned(), Password::Said(password.to_owned()))),
            (Some((name, None)), Some(file)) => Some((name.to_owned(), Password::File(PathBuf::from(file)))),
            (Some((name, None)), None) => {
                return Err(StoreError::Refused(format!("{url} has no password for {name}")));
            }
            (None, _) => None,
        };
        Ok(Self { name: url.to_string(), servers: url.hosts.join(","), root: url.prefix.clone(), user })
    }

    /// A session for requests; it ends with its last user.
    pub(super) async fn connect(&self) -> Result<Client, Error> {
        let connector = self.connector(SESSION_TIMEOUT).await?;
        connect(connector, &self.servers).await
    }

    /// A session for keys that live with it, which nobody's end ends but the server's clock; or another connection for such a one.
    pub(super) async fn connect_lease(&self, timeout: Duration, session: Option<SessionInfo>) -> Result<Client, Error> {
        let mut connector = self.connector(timeout).await?.with_detached();
        if let Some(session) = session {
            connector = connector.with_session(session);
        }
        connect(connector, &self.servers).await
    }

    /// A lease's session on another connection, by which it ends with its last user.
    pub(super) async fn connect_to_close(&self, session: SessionInfo, timeout: Duration) -> Result<Client, Error> {
        let connector = self.connector(timeout).await?.with_session(session);
        connect(connector, &self.servers).await
    }

    async fn connector(&self, session: Duration) -> Result<Connector, Error> {
        let connector = Client::connector()
            .with_fail_eagerly()
            .with_session_timeout(session.min(SESSION_TIMEOUT_MAX))
            .with_connection_timeout(CONNECTION_TIMEOUT);
        let Some((user, password)) = &self.user else { return Ok(connector) };
        let password = match password {
            Password::Said(password) => password.clone(),
            Password::File(path) => match tokio::fs::read_to_string(path).await {
                Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
                Err(error) => {
                    return Err(Error::UnexpectedError(format!(
                        "the password in {} cannot be read: {error}",
                        path.display()
                    )));
                }
            },
        };
        Ok(connector.with_auth("digest", format!("{user}:{password}").as_bytes()))
    }

    /// Puts the root and the counter in place.
    pub(super) async fn prepare(&self, client: &Client) -> Result<(), Error> {
        let options = self.lasting();
        let counter = node::counter(&self.root);
        if client.check_stat(&counter).await?.is_some() {
            return Ok(());
        }
        if !self.root.is_empty() {
            client.mkdir(&self.root, &options).await?;
        }
        match client.create(&counter, &[], &options).await {
            Ok(_) | Err(Error::NodeExists) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A node that stays.
    pub(super) fn lasting(&self) -> CreateOptions<'static> {
        CreateMode::Persistent.with_acls(self.acls())
    }

    /// A node that goes with its session.
    pub(super) fn ephemeral(&self) -> CreateOptions<'static> {
        CreateMode::Ephemeral.with_acls(self.acls())
    }

    /// Who has a password keeps what is his; who has none lets everybody, as nobody could be told from him.
    fn acls(&self) -> Acls<'static> {
        if self.user.is_some() { Acls::creator_all() } else { Acls::anyone_all() }
    }

    pub(super) fn explain(&self, error: &Error) -> StoreError {
        let name = &self.name;
        match error {
            Error::NoAuth => StoreError::Refused(format!(
                "{name}: the server lets nobody do this to {} but its owner: give user and password-file of whoever made it",
                if self.root.is_empty() { "/" } else { &self.root },
            )),
            Error::AuthFailed | Error::InvalidAcl => {
                StoreError::Refused(format!("{name}: the server takes no user and password: {error}"))
            }
            Error::Unimplemented => StoreError::Refused(format!("{name}: weft needs ZooKeeper 3.6 or newer")),
            Error::QuotaExceeded => {
                StoreError::Storage(format!("{name}: {error}: raise it (`setquota` in zkCli.sh) or remove it"))
            }
            Error::BadArguments(_) | Error::NotEmpty | Error::NoChildrenForEphemerals => {
                StoreError::Refused(format!("{name}: {error}"))
            }
            Error::NoHosts => self.unavailable("no server of it takes the connection"),
            Error::Timeout => self.unavailable(&format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            Error::NoNode => self.unavailable("its nodes are gone: somebody removed them"),
            other => self.unavailable(&other.to_string()),
        }
    }

    pub(super) fn unavailable(&self, reason: &str) -> StoreError {
        StoreError::Unavailable { store: self.name.clone(), reason: reason.to_owned() }
    }
}

/// All servers are tried once, in an order of chance.
async fn connect(connector: Connector, servers: &str) -> Result<Client, Error> {
    timeout(SESSION_TIMEOUT, connector.connect(servers)).await.unwrap_or(Err(Error::NoHosts))
}

/// An answer, if it comes in time. The request itself is sent when `answer` is made, before this is called.
pub(super) async fn within<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(REQUEST_TIMEOUT, answer).await.unwrap_or(Err(Error::Timeout))
}
