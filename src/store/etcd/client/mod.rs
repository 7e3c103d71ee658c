//! A store in an etcd cluster, or in another node's agent.
//!
//! It has no task of its own beyond tonic's, one a connection, which end with the client and its watches. Requests go to one endpoint,
//! and to the next when that fails or is silent ([`link`]); a watch goes on at another from the last revision that it told
//! ([`watch`]), and ends with an error when none is left.

mod connector;
mod failure;
mod link;
mod login;
mod store;
mod stream;
mod watch;

use std::{sync::Arc, time::Duration};

use self::{connector::Reach, failure::Names, link::Link, login::Login};
use crate::{
    store::{StoreError, StoreUrl},
    tls::Credentials,
};

/// How long a request may take: etcd elects a new leader within about two seconds, and gives up on a request after seven.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one etcd cluster.
pub struct EtcdClient {
    link: Arc<Link>,
}

impl EtcdClient {
    /// A client of the servers that `url` names. It connects at the first request. Fails with [`StoreError::Refused`] if an
    /// address cannot be understood, or if a file with certificates or a password cannot be used.
    pub fn new(url: &StoreUrl) -> Result<Self, StoreError> {
        Self::reaching(url, None)
    }

    /// A client of the embedded store of another node, which it shows this node's certificate.
    pub fn of_member(url: &StoreUrl, credentials: Arc<Credentials>) -> Result<Self, StoreError> {
        Self::reaching(url, Some(&credentials))
    }

    fn reaching(url: &StoreUrl, credentials: Option<&Arc<Credentials>>) -> Result<Self, StoreError> {
        let endpoints = Reach::all(url, credentials)?;
        if endpoints.is_empty() {
            return Err(StoreError::Refused(format!("{url} names no server")));
        }
        let user = url.user().map(|(user, _)| user.to_owned());
        let names = Names { url: url.to_string(), user, prefix: url.prefix.clone() };
        Ok(Self { link: Arc::new(Link::new(names, endpoints, Login::of(url)?)) })
    }
}
