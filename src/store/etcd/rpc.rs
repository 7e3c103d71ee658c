//! gRPC without generated code: a method of a service is a path and an async function.

use std::future::{Future, Ready, ready};

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::any,
};
use futures::Stream;
use prost::Message;
use tonic::{
    Request, Status, Streaming,
    body::Body,
    server::{Grpc, StreamingService, UnaryService},
};
use tonic_prost::ProstCodec;

/// The largest message taken, in bytes: etcd's 1.5 MiB for a request and room for its frame.
const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Adds a method that takes one message and answers with one.
pub(super) fn unary<S, Q, R, F>(
    router: Router,
    path: &str,
    state: &S,
    method: impl Fn(S, Q) -> F + Copy + Send + Sync + 'static,
) -> Router
where
    S: Clone + Send + Sync + 'static,
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
    F: Future<Output = Result<R, Status>> + Send + 'static,
{
    let state = state.clone();
    router.route(
        path,
        any(move |request: axum::extract::Request| async move {
            let call = Call(move |request: Request<Q>| {
                let answer = method(state.clone(), request.into_inner());
                async { answer.await.map(tonic::Response::new) }
            });
            grpc::<R, Q>().unary(call, request).await.into_response()
        }),
    )
}

/// Adds a method that takes a stream of messages and answers with one.
pub(super) fn streaming<S, Q, R, A>(
    router: Router,
    path: &str,
    state: &S,
    method: impl Fn(S, Streaming<Q>) -> A + Copy + Send + Sync + 'static,
) -> Router
where
    S: Clone + Send + Sync + 'static,
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
    A: Stream<Item = Result<R, Status>> + Send + 'static,
{
    let state = state.clone();
    router.route(
        path,
        any(move |request: axum::extract::Request| async move {
            let call = Call(move |request: Request<Streaming<Q>>| {
                let answers = method(state.clone(), request.into_inner());
                ready(Ok(tonic::Response::new(answers)))
            });
            grpc::<R, Q>().streaming(call, request).await.into_response()
        }),
    )
}

/// The answer to a method that is not there.
pub(super) async fn unimplemented(request: axum::extract::Request) -> Response {
    let text = format!(
        "weft's store does not speak {}: it serves KV, Watch, Lease and Maintenance/Status",
        request.uri().path()
    );
    Status::unimplemented(text).into_http::<Body>().into_response()
}

fn grpc<R, Q>() -> Grpc<ProstCodec<R, Q>>
where
    R: Message + Default + 'static,
    Q: Message + Default + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// A function as one of tonic's services.
struct Call<M>(M);

impl<M, Q, R, F> UnaryService<Q> for Call<M>
where
    M: Fn(Request<Q>) -> F,
    F: Future<Output = Result<tonic::Response<R>, Status>>,
{
    type Response = R;
    type Future = F;

    fn call(&mut self, request: Request<Q>) -> F {
        (self.0)(request)
    }
}

impl<M, Q, R, A> StreamingService<Q> for Call<M>
where
    M: Fn(Request<Streaming<Q>>) -> Ready<Result<tonic::Response<A>, Status>>,
    A: Stream<Item = Result<R, Status>>,
{
    type Response = R;
    type ResponseStream = A;
    type Future = Ready<Result<tonic::Response<A>, Status>>;

    fn call(&mut self, request: Request<Streaming<Q>>) -> Self::Future {
        (self.0)(request)
    }
}
