use std::{future::Future, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, DefaultBodyLimit, FromRequest, FromRequestParts, Path, Request, State},
    http::{Method, StatusCode, Uri, header, request::Parts},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Serialize, de::DeserializeOwned};
use tracing::info;

use super::{
    Operations, Refusal,
    server::Caller,
    wire::{
        AttachRequest, AvailabilityRequest, DetachRequest, DrainRequest, ErrorBody, InitRequest, JoinRequest,
        LeaveRequest, NetworkCreateRequest, NodeLabelRequest, ServiceCreateRequest, ServiceUpdateRequest,
    },
};

/// The longest request in bytes. The longest honest one publishes some thousand ports of a service at 50 bytes each.
const REQUEST_LEN_MAX: usize = 1 << 20;

type Agent = State<Arc<dyn Operations>>;

/// All routes, over these operations.
pub(super) fn router(operations: Arc<dyn Operations>) -> Router {
    Router::new()
        .route("/v1/init", post(|State(o): Agent, Wish(r): Wish<InitRequest>| answer(async move { o.init(r).await })))
        .route("/v1/join", post(|State(o): Agent, Wish(r): Wish<JoinRequest>| answer(async move { o.join(r).await })))
        .route("/v1/leave", post(|State(o): Agent, Wish(r): Wish<LeaveRequest>| done(async move { o.leave(r).await })))
        .route("/v1/down", post(|State(o): Agent| answer(async move { o.down().await })))
        .route("/v1/token", get(|State(o): Agent| answer(async move { o.token().await })))
        .route("/v1/token/rotate", post(|State(o): Agent| answer(async move { o.token_rotate().await })))
        .route("/v1/status", get(|State(o): Agent| answer(async move { o.status().await })))
        .merge(nodes())
        .merge(networks())
        .merge(services())
        .merge(endpoints())
        .route("/v1/ipam/blocks", get(|State(o): Agent| answer(async move { o.ipam_list().await })))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(REQUEST_LEN_MAX))
        .layer(from_fn(note_caller))
        .with_state(operations)
}

fn nodes() -> Router<Arc<dyn Operations>> {
    Router::new()
        .route("/v1/nodes", get(|State(o): Agent| answer(async move { o.node_list().await })))
        .route(
            "/v1/nodes/{node}",
            get(|State(o): Agent, Named(node)| answer(async move { o.node_inspect(&node).await }))
                .delete(|State(o): Agent, Named(node)| done(async move { o.node_remove(&node).await })),
        )
        .route(
            "/v1/nodes/{node}/availability",
            post(|State(o): Agent, Named(node), Wish(r): Wish<AvailabilityRequest>| {
                answer(async move { o.node_set_availability(&node, r.availability).await })
            }),
        )
        .route(
            "/v1/nodes/{node}/drain",
            get(|State(o): Agent, Named(node)| answer(async move { o.node_drain_view(&node).await })),
        )
        .route(
            "/v1/nodes/{node}/labels",
            post(|State(o): Agent, Named(node), Wish(r): Wish<NodeLabelRequest>| {
                answer(async move { o.node_label(&node, r).await })
            }),
        )
}

fn networks() -> Router<Arc<dyn Operations>> {
    Router::new()
        .route(
            "/v1/networks",
            get(|State(o): Agent| answer(async move { o.network_list().await })).post(
                |State(o): Agent, Wish(r): Wish<NetworkCreateRequest>| answer(async move { o.network_create(r).await }),
            ),
        )
        .route(
            "/v1/networks/{network}",
            get(|State(o): Agent, Named(network)| answer(async move { o.network_inspect(&network).await }))
                .delete(|State(o): Agent, Named(network)| done(async move { o.network_remove(&network).await })),
        )
}

fn services() -> Router<Arc<dyn Operations>> {
    Router::new()
        .route(
            "/v1/services",
            get(|State(o): Agent| answer(async move { o.service_list().await })).post(
                |State(o): Agent, Wish(r): Wish<ServiceCreateRequest>| answer(async move { o.service_create(r).await }),
            ),
        )
        .route(
            "/v1/services/{service}",
            get(|State(o): Agent, Named(service)| answer(async move { o.service_inspect(&service).await }))
                .patch(|State(o): Agent, Named(service), Wish(r): Wish<ServiceUpdateRequest>| {
                    answer(async move { o.service_update(&service, r).await })
                })
                .delete(|State(o): Agent, Named(service)| done(async move { o.service_remove(&service).await })),
        )
        .route(
            "/v1/services/{service}/replicas",
            get(|State(o): Agent, Named(service)| answer(async move { o.service_replicas(&service).await })),
        )
}

fn endpoints() -> Router<Arc<dyn Operations>> {
    Router::new()
        .route(
            "/v1/endpoints",
            get(|State(o): Agent| answer(async move { o.endpoint_list().await }))
                .post(|State(o): Agent, Wish(r): Wish<AttachRequest>| answer(async move { o.attach(r).await })),
        )
        .route(
            "/v1/endpoints/{endpoint}",
            get(|State(o): Agent, Named(endpoint)| answer(async move { o.endpoint_inspect(&endpoint).await })).delete(
                |State(o): Agent, Named(endpoint), Wish(r): Wish<DetachRequest>| {
                    answer(async move { o.detach(&endpoint, r).await })
                },
            ),
        )
        .route(
            "/v1/endpoints/{endpoint}/drain",
            get(|State(o): Agent, Named(endpoint)| answer(async move { o.endpoint_drain_view(&endpoint).await })).post(
                |State(o): Agent, Named(endpoint), Wish(r): Wish<DrainRequest>| {
                    answer(async move { o.endpoint_drain(&endpoint, r).await })
                },
            ),
        )
        .route(
            "/v1/endpoints/{endpoint}/release",
            post(|State(o): Agent, Named(endpoint)| answer(async move { o.release(&endpoint).await })),
        )
}

/// Logs who asks for a change, and for which: the path alone, for what is in the body may be secret.
async fn note_caller(ConnectInfo(caller): ConnectInfo<Caller>, request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        info!("{} {} by {caller}", request.method(), request.uri().path());
    }
    next.run(request).await
}

/// Runs an operation and answers with what it returns, as JSON.
async fn answer<T: Serialize + Send + 'static>(
    operation: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Response {
    match finish(operation).await.and_then(|view| {
        serde_json::to_vec(&view).map_err(|error| Refusal::internal(format!("cannot write the answer: {error}")))
    }) {
        Ok(body) => json(StatusCode::OK, body),
        Err(refusal) => refuse(refusal),
    }
}

/// Runs an operation that returns nothing and answers without a body.
async fn done(operation: impl Future<Output = Result<(), Refusal>> + Send + 'static) -> Response {
    match finish(operation).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refuse(refusal),
    }
}

/// Runs an operation to its end in a task of its own: the server drops a handler whose client has gone away.
async fn finish<T: Send + 'static>(
    operation: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::spawn(operation).await {
        Ok(result) => result,
        Err(error) => Err(Refusal::internal(format!("the agent failed in the middle of the operation: {error}"))
            .with_hint("its log says more; please report it")),
    }
}

async fn unknown_route(uri: Uri) -> Response {
    refuse(Refusal::not_found(format!("the agent's API has no {}", uri.path())))
}

async fn unknown_method(method: Method, uri: Uri) -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, format!("the agent's API does not know {method} on {}", uri.path()), None)
}

fn refuse(refusal: Refusal) -> Response {
    let Refusal { kind, message, hint } = refusal;
    // Every kind has a status that exists; a test goes through them.
    let status = StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    error(status, message, hint)
}

fn error(status: StatusCode, message: String, hint: Option<String>) -> Response {
    match serde_json::to_vec(&ErrorBody { error: message, hint }) {
        Ok(body) => json(status, body),
        // Two strings always serialize; the status alone still tells the kind.
        Err(_) => status.into_response(),
    }
}

fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A request's body, read as JSON whatever its content type says; no body is `{}`.
struct Wish<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Wish<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            error(rejection.status(), format!("cannot read the request: {}", rejection.body_text()), None)
        })?;
        let text: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| refuse(Refusal::invalid(format!("cannot understand the request: {error}"))))
    }
}

/// The one name in a route's path.
struct Named(String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(rejection) => {
                Err(refuse(Refusal::invalid(format!("cannot understand the path: {}", rejection.body_text()))))
            }
        }
    }
}
