//! Who we are to an etcd that asks: a name and a password get a token, which goes with each request.

use std::{fs, path::PathBuf};

use tokio::sync::Mutex;
use tonic::{
    Code, Status,
    metadata::{Ascii, MetadataValue},
};

use super::{
    Names,
    link::{Link, Repeat},
};
use crate::store::{
    StoreError, StoreOption, StoreUrl,
    etcd::messages::auth::{AuthenticateRequest, AuthenticateResponse},
};

/// What goes with a request; nothing to an etcd that does not ask.
pub(super) type Token = Option<MetadataValue<Ascii>>;

/// The user of a URL.
pub(super) struct Login {
    user: String,
    password: Password,
    /// The last token; nothing before the first login. Whoever logs in holds it, so that one does for all: a password is expensive to
    /// check (bcrypt).
    token: Mutex<Option<Token>>,
}

enum Password {
    Said(String),
    /// It is read at each login: another one counts from then on.
    File(PathBuf),
}

impl Login {
    /// Nothing if the URL has no user. Fails if his password cannot be read.
    pub(super) fn of(url: &StoreUrl) -> Result<Option<Self>, StoreError> {
        let Some((user, password)) = url.user() else { return Ok(None) };
        let password = match (password, url.option(StoreOption::PasswordFile)) {
            (Some(said), _) => Password::Said(said.to_owned()),
            (None, Some(path)) => Password::File(path.into()),
            (None, None) => return Err(StoreError::Refused(format!("{url}: its user has no password"))),
        };
        password.read().map_err(|reason| StoreError::Refused(format!("{url}: {reason}")))?;
        Ok(Some(Self { user: user.to_owned(), password, token: Mutex::default() }))
    }

    /// The token to send; it logs in at the first time.
    pub(super) async fn token(&self, link: &Link) -> Result<Token, StoreError> {
        let mut token = self.token.lock().await;
        match &*token {
            Some(token) => Ok(token.clone()),
            None => Ok(token.insert(self.enter(link).await?).clone()),
        }
    }

    /// A token in place of one that was refused.
    pub(super) async fn another(&self, link: &Link, refused: &Token) -> Result<Token, StoreError> {
        let mut token = self.token.lock().await;
        match &*token {
            // Somebody else was here before.
            Some(token) if token != refused => Ok(token.clone()),
            Some(_) | None => Ok(token.insert(self.enter(link).await?).clone()),
        }
    }

    async fn enter(&self, link: &Link) -> Result<Token, StoreError> {
        let Names { url, .. } = &link.names;
        let password = self.password.read().map_err(|reason| link.names.refused(&reason))?;
        let request = AuthenticateRequest { name: self.user.clone(), password };
        let answer = link.send("/etcdserverpb.Auth/Authenticate", &request, Repeat::Safe, &None).await;
        let AuthenticateResponse { token, .. } = match answer {
            Ok(answer) => answer,
            Err(status) if is_off(&status) => {
                tracing::warn!(
                    "{url}: it asks nobody for a password: whoever reaches it can read and write everything"
                );
                return Ok(None);
            }
            Err(status) if status.message().contains("authentication failed") => {
                return Err(link.names.refused(&format!(
                    "the user {:?} is not let in, or has another password ({})",
                    self.user,
                    status.message()
                )));
            }
            Err(status) => return Err(link.names.explain(&status)),
        };
        let token = MetadataValue::try_from(token);
        let mut token = token.map_err(|_| link.names.refused("its token cannot be sent: it is no plain text"))?;
        token.set_sensitive(true);
        Ok(Some(token))
    }
}

/// etcd knows users only once `etcdctl auth enable` was said; its own client then goes on without a token, too.
fn is_off(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition && status.message().contains("authentication is not enabled")
}

impl Password {
    fn read(&self) -> Result<String, String> {
        match self {
            Self::Said(password) => Ok(password.clone()),
            Self::File(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|error| format!("its password-file {} cannot be read: {error}", path.display()))?;
                let password = text.trim_end_matches(['\r', '\n']);
                if password.is_empty() {
                    return Err(format!("its password-file {} is empty", path.display()));
                }
                Ok(password.to_owned())
            }
        }
    }
}
