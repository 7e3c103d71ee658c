use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{
    Operations, Refusal, RefusalKind,
    wire::{
        AttachReply, AttachRequest, Availability, AvailabilityRequest, BlockView, DetachRequest, DownReply, DrainReply,
        DrainRequest, DrainView, EndpointView, ErrorBody, InitReply, InitRequest, JoinReply, JoinRequest, LeaveRequest,
        NetworkCreateReply, NetworkCreateRequest, NetworkView, NodeLabelRequest, NodeView, ReplicaView,
        ServiceCreateReply, ServiceCreateRequest, ServiceUpdateRequest, ServiceView, StatusView, TokenView,
    },
};

/// How long an answer may take. The agent gives up on a store that is away well before this; past it, the agent itself
/// is stuck, and a script should hear of it.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(2);

/// How long the answer to a drain may take: the agent itself waits for connections as long as it was told to, at most so long, and
/// is through with all else well within [`ANSWER_WAIT_MAX`].
const DRAIN_WAIT_MAX: Duration = DrainRequest::TIMEOUT_MAX.saturating_add(ANSWER_WAIT_MAX);

/// The longest answer in bytes: 100,000 endpoints at 400 bytes each are 40 MB.
const ANSWER_LEN_MAX: usize = 64 << 20;

/// The other end of the API: the same operations, done by the agent behind a socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the agent that listens at `socket`. Nothing is opened before the first call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Whether something may be at the socket; not if there is none, or nothing listens there.
    pub async fn is_there(&self) -> bool {
        let error = UnixStream::connect(&self.socket).await.err().map(|error| error.kind());
        !matches!(error, Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused))
    }

    async fn get<T: DeserializeOwned>(&self, route: &str) -> Result<T, Refusal> {
        self.call(Method::GET, route, Vec::new()).await
    }

    async fn delete(&self, route: &str) -> Result<(), Refusal> {
        self.call(Method::DELETE, route, Vec::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        request: &(impl Serialize + Sync),
    ) -> Result<T, Refusal> {
        self.call(method, route, body_of(request)?).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, route: &str, body: Vec<u8>) -> Result<T, Refusal> {
        self.call_within(ANSWER_WAIT_MAX, method, route, body).await
    }

    async fn call_within<T: DeserializeOwned>(
        &self,
        wait: Duration,
        method: Method,
        route: &str,
        body: Vec<u8>,
    ) -> Result<T, Refusal> {
        match tokio::time::timeout(wait, self.exchange(method, route, body)).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::unavailable(format!(
                "the agent at {} did not answer within {} s",
                self.socket.display(),
                wait.as_secs()
            ))
            .with_hint("what was asked may still be done; its log says more")),
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, method: Method, route: &str, body: Vec<u8>) -> Result<T, Refusal> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| cannot_reach(&self.socket, &error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // It ends with the sender. What goes wrong on it, the request hears of.
        tokio::spawn(connection);

        let request = Request::builder()
            .method(method)
            .uri(route)
            .header(header::HOST, "weft")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Refusal::internal(format!("cannot write the request: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        let body = self.read(response.into_body()).await?;
        if !status.is_success() {
            return Err(refusal_of(status.as_u16(), &body));
        }
        let text: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(text).map_err(|error| {
            Refusal::internal(format!("cannot understand the agent's answer: {error}"))
                .with_hint("does the agent have the version of this command? compare `weft --version` with its log")
        })
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Refusal> {
        match Limited::new(body, ANSWER_LEN_MAX).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) => Err(self.broken(&*error)),
        }
    }

    fn broken(&self, error: &(dyn std::error::Error + '_)) -> Refusal {
        Refusal::unavailable(format!("lost the connection to the agent at {}: {error}", self.socket.display()))
            .with_hint("what was asked may have been done; its log says more")
    }
}

#[async_trait]
impl Operations for Client {
    async fn init(&self, request: InitRequest) -> Result<InitReply, Refusal> {
        self.send(Method::POST, "/v1/init", &request).await
    }

    async fn join(&self, request: JoinRequest) -> Result<JoinReply, Refusal> {
        self.send(Method::POST, "/v1/join", &request).await
    }

    async fn leave(&self, request: LeaveRequest) -> Result<(), Refusal> {
        self.send(Method::POST, "/v1/leave", &request).await
    }

    async fn down(&self) -> Result<DownReply, Refusal> {
        self.call(Method::POST, "/v1/down", Vec::new()).await
    }

    async fn token(&self) -> Result<TokenView, Refusal> {
        self.get("/v1/token").await
    }

    async fn token_rotate(&self) -> Result<TokenView, Refusal> {
        self.call(Method::POST, "/v1/token/rotate", Vec::new()).await
    }

    async fn status(&self) -> Result<StatusView, Refusal> {
        self.get("/v1/status").await
    }

    async fn node_list(&self) -> Result<Vec<NodeView>, Refusal> {
        self.get("/v1/nodes").await
    }

    async fn node_inspect(&self, node: &str) -> Result<NodeView, Refusal> {
        self.get(&route("/v1/nodes/", node, "")).await
    }

    async fn node_set_availability(&self, node: &str, availability: Availability) -> Result<NodeView, Refusal> {
        let request = AvailabilityRequest { availability };
        self.send(Method::POST, &route("/v1/nodes/", node, "/availability"), &request).await
    }

    async fn node_drain_view(&self, node: &str) -> Result<DrainView, Refusal> {
        self.get(&route("/v1/nodes/", node, "/drain")).await
    }

    async fn node_label(&self, node: &str, request: NodeLabelRequest) -> Result<NodeView, Refusal> {
        self.send(Method::POST, &route("/v1/nodes/", node, "/labels"), &request).await
    }

    async fn node_remove(&self, node: &str) -> Result<(), Refusal> {
        self.delete(&route("/v1/nodes/", node, "")).await
    }

    async fn network_create(&self, request: NetworkCreateRequest) -> Result<NetworkCreateReply, Refusal> {
        self.send(Method::POST, "/v1/networks", &request).await
    }

    async fn network_list(&self) -> Result<Vec<NetworkView>, Refusal> {
        self.get("/v1/networks").await
    }

    async fn network_inspect(&self, network: &str) -> Result<NetworkView, Refusal> {
        self.get(&route("/v1/networks/", network, "")).await
    }

    async fn network_remove(&self, network: &str) -> Result<(), Refusal> {
        self.delete(&route("/v1/networks/", network, "")).await
    }

    async fn service_create(&self, request: ServiceCreateRequest) -> Result<ServiceCreateReply, Refusal> {
        self.send(Method::POST, "/v1/services", &request).await
    }

    async fn service_list(&self) -> Result<Vec<ServiceView>, Refusal> {
        self.get("/v1/services").await
    }

    async fn service_replicas(&self, service: &str) -> Result<Vec<ReplicaView>, Refusal> {
        self.get(&route("/v1/services/", service, "/replicas")).await
    }

    async fn service_inspect(&self, service: &str) -> Result<ServiceView, Refusal> {
        self.get(&route("/v1/services/", service, "")).await
    }

    async fn service_update(&self, service: &str, request: ServiceUpdateRequest) -> Result<ServiceView, Refusal> {
        self.send(Method::PATCH, &route("/v1/services/", service, ""), &request).await
    }

    async fn service_remove(&self, service: &str) -> Result<(), Refusal> {
        self.delete(&route("/v1/services/", service, "")).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<AttachReply, Refusal> {
        self.send(Method::POST, "/v1/endpoints", &request).await
    }

    async fn endpoint_drain(&self, endpoint: &str, request: DrainRequest) -> Result<DrainReply, Refusal> {
        let route = route("/v1/endpoints/", endpoint, "/drain");
        self.call_within(DRAIN_WAIT_MAX, Method::POST, &route, body_of(&request)?).await
    }

    async fn endpoint_drain_view(&self, endpoint: &str) -> Result<DrainView, Refusal> {
        self.get(&route("/v1/endpoints/", endpoint, "/drain")).await
    }

    async fn detach(&self, endpoint: &str, request: DetachRequest) -> Result<DrainReply, Refusal> {
        let route = route("/v1/endpoints/", endpoint, "");
        self.call_within(DRAIN_WAIT_MAX, Method::DELETE, &route, body_of(&request)?).await
    }

    async fn release(&self, endpoint: &str) -> Result<DrainReply, Refusal> {
        self.call(Method::POST, &route("/v1/endpoints/", endpoint, "/release"), Vec::new()).await
    }

    async fn endpoint_list(&self) -> Result<Vec<EndpointView>, Refusal> {
        self.get("/v1/endpoints").await
    }

    async fn endpoint_inspect(&self, endpoint: &str) -> Result<EndpointView, Refusal> {
        self.get(&route("/v1/endpoints/", endpoint, "")).await
    }

    async fn ipam_list(&self) -> Result<Vec<BlockView>, Refusal> {
        self.get("/v1/ipam/blocks").await
    }
}

fn body_of(request: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(request).map_err(|error| Refusal::internal(format!("cannot write the request: {error}")))
}

/// A route with a name that a person typed in the middle: whatever is not unreserved is percent-encoded (RFC 3986, 2.3),
/// so that no name can lead to another route.
fn route(before: &str, name: &str, after: &str) -> String {
    let mut route = before.to_owned();
    for byte in name.bytes() {
        // A dot stays out of the plain ones: `.` and `..` are path segments with a meaning (RFC 3986, 3.3).
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            route.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(route, "%{byte:02X}");
        }
    }
    route.push_str(after);
    route
}

fn refusal_of(status: u16, body: &[u8]) -> Refusal {
    let kind = RefusalKind::from_http_status(status);
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error, hint }) => Refusal { kind, message: error, hint },
        Err(_) => Refusal { kind, message: format!("the agent answered with HTTP status {status}"), hint: None },
    }
}

fn cannot_reach(socket: &Path, error: &io::Error) -> Refusal {
    let start = "is it running? start it with `weft agent`";
    let (why, hint) = match error.kind() {
        io::ErrorKind::NotFound => ("there is no such socket".to_owned(), start),
        io::ErrorKind::ConnectionRefused => ("nothing listens there".to_owned(), start),
        io::ErrorKind::PermissionDenied => ("permission denied".to_owned(), "run the command as root"),
        _ => (error.to_string(), start),
    };
    Refusal::unavailable(format!("cannot reach the agent at {}: {why}", socket.display())).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_to_another_route() {
        for (name, encoded) in
            [("web-1", "web-1"), ("net/web", "net%2Fweb"), ("..", "%2E%2E"), ("a b?c", "a%20b%3Fc"), ("é", "%C3%A9")]
        {
            assert_eq!(route("/v1/nodes/", name, "/labels"), format!("/v1/nodes/{encoded}/labels"));
        }
    }
}
