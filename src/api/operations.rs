use async_trait::async_trait;

use super::{
    Refusal,
    wire::{
        AttachReply, AttachRequest, Availability, BlockView, DetachRequest, DownReply, DrainReply, DrainRequest,
        DrainView, EndpointView, InitReply, InitRequest, JoinReply, JoinRequest, LeaveRequest, NetworkCreateReply,
        NetworkCreateRequest, NetworkView, NodeLabelRequest, NodeView, ReplicaView, ServiceCreateReply,
        ServiceCreateRequest, ServiceUpdateRequest, ServiceView, StatusView, TokenView,
    },
};

/// Everything that can be asked of an agent. The agent implements it, the server hands requests to it, and the client is
/// the same trait at the other end of the socket.
///
/// Calls may arrive at the same time, and run to their end even when their client goes away; an implementation bounds how
/// long it waits for the store. Names come as they were typed: the implementation checks them and answers
/// [`Refusal::invalid`]. Before `init` or `join`, everything but these two, `status` and `down` answers
/// [`Refusal::conflict`] with the hint to call one of them.
///
/// A node is called by its name or number; a network or service by its name; an endpoint by its id, by its name if
/// that is unique in the cluster, or by `NETWORK/NAME`. A name that is not there is [`Refusal::not_found`].
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// Makes this node the first of a new cluster. Once more with the same words succeeds with `created: false`.
    async fn init(&self, request: InitRequest) -> Result<InitReply, Refusal>;

    /// Makes this node one of a cluster. Once more for the same cluster succeeds with `created: false`.
    async fn join(&self, request: JoinRequest) -> Result<JoinReply, Refusal>;

    /// Takes this node out of its cluster. Refused while it has endpoints or holds the store that others use, unless
    /// forced.
    async fn leave(&self, request: LeaveRequest) -> Result<(), Refusal>;

    /// Removes everything of weft from this host's kernel; the records stay.
    async fn down(&self) -> Result<DownReply, Refusal>;

    /// The secret that lets a node join, and the command that uses it.
    async fn token(&self) -> Result<TokenView, Refusal>;

    /// Puts a new secret in the place of the old one, which lets nobody in from then on.
    async fn token_rotate(&self) -> Result<TokenView, Refusal>;

    /// How the agent is; works in and out of a cluster and with the store away.
    async fn status(&self) -> Result<StatusView, Refusal>;

    /// All nodes by name.
    async fn node_list(&self) -> Result<Vec<NodeView>, Refusal>;

    /// One node.
    async fn node_inspect(&self, node: &str) -> Result<NodeView, Refusal>;

    /// Whether a node's replicas take new connections. Idempotent.
    async fn node_set_availability(&self, node: &str, availability: Availability) -> Result<NodeView, Refusal>;

    /// How far the drain of a node is: who has confirmed it, and what is still open to its replicas.
    async fn node_drain_view(&self, node: &str) -> Result<DrainView, Refusal>;

    /// Sets and removes labels of a node; those not named stay. Idempotent.
    async fn node_label(&self, node: &str, request: NodeLabelRequest) -> Result<NodeView, Refusal>;

    /// Forgets a node that is gone for good, with its blocks and endpoints. Refused while it is alive.
    async fn node_remove(&self, node: &str) -> Result<(), Refusal>;

    /// Makes a network. Once more with the same words succeeds with `created: false`.
    async fn network_create(&self, request: NetworkCreateRequest) -> Result<NetworkCreateReply, Refusal>;

    /// All networks by name.
    async fn network_list(&self) -> Result<Vec<NetworkView>, Refusal>;

    /// One network.
    async fn network_inspect(&self, network: &str) -> Result<NetworkView, Refusal>;

    /// Removes a network. Refused while endpoints or services use it; the message names them.
    async fn network_remove(&self, network: &str) -> Result<(), Refusal>;

    /// Makes a service. Once more with the same words succeeds with `created: false`.
    async fn service_create(&self, request: ServiceCreateRequest) -> Result<ServiceCreateReply, Refusal>;

    /// All services by name.
    async fn service_list(&self) -> Result<Vec<ServiceView>, Refusal>;

    /// The replicas of a service by endpoint name.
    async fn service_replicas(&self, service: &str) -> Result<Vec<ReplicaView>, Refusal>;

    /// One service.
    async fn service_inspect(&self, service: &str) -> Result<ServiceView, Refusal>;

    /// Changes a service; what is not named stays. Idempotent.
    async fn service_update(&self, service: &str, request: ServiceUpdateRequest) -> Result<ServiceView, Refusal>;

    /// Removes a service. Refused while endpoints are its replicas; the message names them.
    async fn service_remove(&self, service: &str) -> Result<(), Refusal>;

    /// Attaches a network namespace of this host to a network; done when the container can speak. Once more with the
    /// same words succeeds with `created: false`.
    async fn attach(&self, request: AttachRequest) -> Result<AttachReply, Refusal>;

    /// Takes an endpoint, of whichever node, out of balancing for good: waits until every live node has confirmed that it sends no
    /// new connections, then until those that are open have finished or their time has passed. It stays attached. Idempotent.
    async fn endpoint_drain(&self, endpoint: &str, request: DrainRequest) -> Result<DrainReply, Refusal>;

    /// How far the drain of an endpoint is.
    async fn endpoint_drain_view(&self, endpoint: &str) -> Result<DrainView, Refusal>;

    /// Drains an endpoint of this node as [`Self::endpoint_drain`] does, unless forced, then takes it off its network and
    /// frees its address. Cut off in the middle it can be repeated.
    async fn detach(&self, endpoint: &str, request: DetachRequest) -> Result<DrainReply, Refusal>;

    /// The same for an endpoint whose namespace is about to end, and with it its connections, which are not waited for: done
    /// when its name and address are free. The link goes with the namespace, or a moment later.
    async fn release(&self, endpoint: &str) -> Result<DrainReply, Refusal>;

    /// All endpoints of the cluster by network and name.
    async fn endpoint_list(&self) -> Result<Vec<EndpointView>, Refusal>;

    /// One endpoint.
    async fn endpoint_inspect(&self, endpoint: &str) -> Result<EndpointView, Refusal>;

    /// All blocks by network and prefix.
    async fn ipam_list(&self) -> Result<Vec<BlockView>, Refusal>;
}
