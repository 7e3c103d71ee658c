use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::http,
    server::{NamedService, UnaryService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

use super::{
    messages::{HelloReply, HelloRequest, JoinReply, JoinRequest},
    token::{Role, Token},
};

/// What a member says to those who know the secret.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The cluster's key, which the token's digest names.
    pub cluster_key: Vec<u8>,
    /// The token.
    pub token: Token,
    /// The store's URL as other nodes reach it.
    pub store_url: String,
}

/// Answers joining nodes.
#[derive(Debug, Clone)]
pub struct Gatekeeper {
    admission: Arc<Admission>,
    /// Nonces given out and not yet used. A stranger can push out at most a waiting joiner's, who then tries again.
    nonces: Arc<Mutex<VecDeque<Vec<u8>>>>,
}

/// More joins at the same moment than anybody types.
const NONCES_MAX: usize = 1024;

impl Gatekeeper {
    /// A gatekeeper for one cluster.
    pub fn new(admission: Admission) -> Self {
        Self { admission: Arc::new(admission), nonces: Arc::default() }
    }

    fn hello(&self, request: &HelloRequest) -> Result<HelloReply, Status> {
        let mut nonce = vec![0; 32];
        getrandom::fill(&mut nonce).map_err(|error| Status::internal(format!("no random numbers: {error}")))?;
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        if nonces.len() >= NONCES_MAX {
            nonces.pop_front();
        }
        nonces.push_back(nonce.clone());
        let proof =
            self.admission.token.prove(Role::Member, &[&request.joiner_nonce, &nonce, &self.admission.cluster_key]);
        Ok(HelloReply { member_nonce: nonce, cluster_key: self.admission.cluster_key.clone(), proof })
    }

    fn join(&self, request: &JoinRequest) -> Result<JoinReply, Status> {
        let fresh = {
            let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
            let found = nonces.iter().position(|nonce| *nonce == request.member_nonce);
            found.and_then(|index| nonces.remove(index)).is_some()
        };
        if !fresh {
            return Err(Status::failed_precondition("the conversation is too old; try again"));
        }
        let said: [&[u8]; 3] = [&request.joiner_nonce, &request.member_nonce, &self.admission.cluster_key];
        if !self.admission.token.verify(Role::Joiner, &said, &request.proof) {
            return Err(Status::permission_denied("the token's secret is not this cluster's"));
        }
        Ok(JoinReply { store_url: self.admission.store_url.clone() })
    }
}

/// The gatekeeper's routes, for a server that has others too.
pub fn router(gatekeeper: Gatekeeper) -> axum::Router {
    axum::Router::new().route_service(&format!("/{}/{{*method}}", Gatekeeper::NAME), gatekeeper)
}

/// Serves the gatekeeper alone, for ever: on nodes that do not hold the store.
pub async fn serve(gatekeeper: Gatekeeper, listener: TcpListener) -> Result<(), tonic::transport::Error> {
    Server::builder().add_service(gatekeeper).serve_with_incoming(TcpIncoming::from(listener)).await
}

impl NamedService for Gatekeeper {
    const NAME: &'static str = "weft.v1.Membership";
}

impl<B> tonic::codegen::Service<http::Request<B>> for Gatekeeper
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let gatekeeper = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/weft.v1.Membership/Hello" => {
                    let hello = Unary(move |request: &HelloRequest| gatekeeper.hello(request));
                    tonic::server::Grpc::new(ProstCodec::default()).unary(hello, request).await
                }
                "/weft.v1.Membership/Join" => {
                    let join = Unary(move |request: &JoinRequest| gatekeeper.join(request));
                    tonic::server::Grpc::new(ProstCodec::default()).unary(join, request).await
                }
                other => Status::unimplemented(format!("{other} is not a call of weft's")).into_http(),
            })
        })
    }
}

/// A synchronous answer as one of tonic's methods.
struct Unary<F>(F);

impl<F, Req, Reply> UnaryService<Req> for Unary<F>
where
    F: Fn(&Req) -> Result<Reply, Status>,
    Reply: Send + 'static,
{
    type Response = Reply;
    type Future = std::future::Ready<Result<Response<Reply>, Status>>;

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        std::future::ready((self.0)(request.get_ref()).map(Response::new))
    }
}
