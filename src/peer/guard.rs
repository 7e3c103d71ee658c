//! Who may call what: everything but `Join` is for known key pairs.

use std::time::Duration;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use tokio::time::timeout;
use tonic::{Status, transport::server::Connected};

use crate::tls::{Guest, Known, Visitor};

/// How long the word of an admission may take from one member to another: a commit, a watch's event, and a cluster made of
/// it. A joining node comes at once.
const WORD_MAX: Duration = Duration::from_secs(1);

/// What tonic tells each request of its connection.
impl Connected for Guest {
    type ConnectInfo = Visitor;

    fn connect_info(&self) -> Visitor {
        self.visitor()
    }
}

/// The routes for those alone who are known when they call. Whoever is forgotten later has his connection cut
/// ([`crate::tls::Door`]).
pub fn guarded(routes: Router, known: Known) -> Router {
    routes.layer(from_fn_with_state(known, check))
}

async fn check(State(known): State<Known>, request: Request, next: Next) -> Response {
    let visitor = request.extensions().get::<Visitor>().copied();
    match admit(visitor, known).await {
        Ok(()) => next.run(request).await,
        Err(status) => status.into_http(),
    }
}

async fn admit(visitor: Option<Visitor>, mut known: Known) -> Result<(), Status> {
    let Some(Visitor { key: Some(key), from: _ }) = visitor else {
        return Err(Status::unauthenticated(
            "show a certificate of this cluster: a node's lies in tls/node.pem and tls/node.key in its agent's data directory",
        ));
    };
    let is_known = known.wait_for(|known| known.as_ref().is_some_and(|known| known.contains(&key)));
    if matches!(timeout(WORD_MAX, is_known).await, Ok(Ok(_))) {
        return Ok(());
    }
    if known.borrow().is_none() {
        return Err(Status::unavailable("this node does not know its cluster's nodes yet"));
    }
    // Not "permission denied": of an etcd that would be about a user and a password.
    Err(Status::failed_precondition(
        "this node was removed from the cluster: `weft leave --force` on it, then let it join again",
    ))
}
