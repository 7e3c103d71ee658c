use std::net::SocketAddr;

use super::{Member, founding::random_bytes, lookup};
use crate::{
    agent::{
        configuration::{put, store_refusal},
        member::PEER_PORT,
        trust,
    },
    api::{Refusal, wire::TokenView},
    model::JoinToken,
    peer::{Secret, Token},
    store::{Compare, Outcome, Revision, Transaction, record},
    tls::Credentials,
};

/// A new token, sealed.
pub(super) fn new(credentials: &Credentials) -> Result<JoinToken, Refusal> {
    Ok(trust::sealed(credentials, &Secret::new(random_bytes()?), random_bytes()?))
}

/// The token that lets nodes join, the same on every member.
pub(super) fn token(member: &Member) -> Result<TokenView, Refusal> {
    let cluster = lookup::cluster(member)?;
    let token = cluster.trust.token.as_ref().ok_or_else(|| Refusal::internal("the cluster has no readable token"));
    let token = token.and_then(|token| trust::opened(&member.credentials, token).map_err(Refusal::internal));
    token
        .map(|token| view(member, &token))
        .map_err(|refusal| refusal.with_hint("`weft token --rotate` makes a new one"))
}

/// Puts a new token in the place of the old one, which lets nobody in from then on.
pub(super) async fn rotate(member: &Member) -> Result<TokenView, Refusal> {
    let snapshot = member.store.snapshot(record::TOKEN_KEY).await.map_err(store_refusal)?;
    let key = record::TOKEN_KEY.to_owned();
    let unmoved = match record::State::from_snapshot(&snapshot).version_of(&key) {
        Some(version) => Compare::Unchanged(key.clone(), version),
        None => Compare::Absent(key.clone()),
    };
    let token = new(&member.credentials)?;
    let transaction = Transaction { compares: vec![unmoved], writes: vec![put(key, record::encode_token(&token))] };
    match member.store.commit(transaction).await.map_err(store_refusal)? {
        Outcome::Committed(revision) => seen(member, revision).await,
        Outcome::Conflict => {
            return Err(Refusal::conflict("the token has just been rotated by somebody else")
                .with_hint("`weft token` prints the new one"));
        }
    }
    Ok(view(member, &trust::opened(&member.credentials, &token).map_err(Refusal::internal)?))
}

/// So that `weft token` prints the new one here; where that takes too long, it does a moment later.
async fn seen(member: &Member, revision: Revision) {
    let _ = member.cluster_at(revision).await;
}

fn view(member: &Member, token: &Token) -> TokenView {
    let address = SocketAddr::new(member.identity.underlay, PEER_PORT).to_string();
    let token = token.to_string();
    let command = format!("weft join {address} --token {token}");
    TokenView { token, address, command }
}
