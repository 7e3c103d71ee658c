use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::http,
    server::{NamedService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

use super::{
    Admission, Applicant, Secret,
    messages::{JoinReply, JoinRequest, StoreFile},
};
use crate::{model::Fingerprint, tls::Door};

/// The longest request in bytes: anybody may send one, and an honest one has some hundred.
const REQUEST_MAX: usize = 4096;

/// Why somebody was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdmitted {
    /// He does not know the secret.
    WrongSecret,
    /// It cannot be said now, and why.
    Unavailable(String),
}

/// Decides who is let in.
#[async_trait]
pub trait Gatekeeper: Send + Sync + 'static {
    /// Lets an applicant in who knows the secret: from then on his key pair is known to all members, for a minute.
    async fn admit(&self, applicant: Applicant) -> Result<Admission, NotAdmitted>;
}

/// The service that joining nodes call.
#[derive(Clone)]
pub struct Membership(Arc<dyn Gatekeeper>);

impl Membership {
    /// With somebody who decides.
    pub fn new(gatekeeper: Arc<dyn Gatekeeper>) -> Self {
        Self(gatekeeper)
    }

    async fn join(&self, request: JoinRequest) -> Result<Response<JoinReply>, Status> {
        let JoinRequest { secret, fingerprint, name } = request;
        let fingerprint = fingerprint.try_into().map_err(|_| Status::invalid_argument("a fingerprint has 32 bytes"))?;
        let applicant = Applicant {
            secret: Secret::from_bytes(&secret).ok_or_else(|| Status::permission_denied("that is no secret"))?,
            fingerprint: Fingerprint(fingerprint),
            name: name.parse().map_err(|error: crate::model::NameError| Status::invalid_argument(error.to_string()))?,
        };
        let admission = self.0.admit(applicant).await.map_err(|refused| match refused {
            NotAdmitted::WrongSecret => Status::permission_denied("the token's secret is not this cluster's"),
            NotAdmitted::Unavailable(reason) => Status::unavailable(reason),
        })?;
        let Admission { cluster, certificate, key, store_url, files } = admission;
        let files = files.into_iter().map(|(option, contents)| StoreFile { option, contents }).collect();
        Ok(Response::new(JoinReply { cluster, certificate, key, store_url, files }))
    }
}

/// The service's routes, for a server that has others too. They are for everybody.
pub fn router(membership: Membership) -> axum::Router {
    axum::Router::new().route_service(&format!("/{}/{{*method}}", Membership::NAME), membership)
}

/// Serves the membership alone, for ever: on nodes that do not hold the store.
pub async fn serve(membership: Membership, door: Door) -> Result<(), tonic::transport::Error> {
    Server::builder().add_service(membership).serve_with_incoming(door).await
}

impl NamedService for Membership {
    const NAME: &'static str = "weft.v1.Membership";
}

impl<B> tonic::codegen::Service<http::Request<B>> for Membership
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
        let membership = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/weft.v1.Membership/Join" => {
                    let mut grpc =
                        tonic::server::Grpc::new(ProstCodec::default()).max_decoding_message_size(REQUEST_MAX);
                    grpc.unary(Join(membership), request).await
                }
                other => Status::unimplemented(format!("{other} is not a call of weft's")).into_http(),
            })
        })
    }
}

/// [`Membership::join`] as one of tonic's methods.
struct Join(Membership);

impl UnaryService<JoinRequest> for Join {
    type Response = JoinReply;
    type Future = Pin<Box<dyn Future<Output = Result<Response<JoinReply>, Status>> + Send>>;

    fn call(&mut self, request: Request<JoinRequest>) -> Self::Future {
        let membership = self.0.clone();
        Box::pin(async move { membership.join(request.into_inner()).await })
    }
}
