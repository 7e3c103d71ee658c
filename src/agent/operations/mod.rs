//! What can be asked of the agent, one room per noun. This file is the door: it finds the membership, hands the request on,
//! and sees that what must not stop midway runs in a task of its own.

mod attach;
pub(super) mod drain;
mod endpoints;
mod founding;
mod lookup;
mod membership;
mod names;
mod networks;
mod nodes;
pub(super) mod release;
mod services;
#[cfg(test)]
mod simulation;
mod status;
mod tokens;
mod traffic;
mod wish;

pub(super) use status::gather;

use std::sync::Arc;

use async_trait::async_trait;

use super::{Agent, identity::Identity, member::Member};
use crate::api::{
    Operations, Refusal,
    wire::{
        AttachReply, AttachRequest, Availability, BlockView, DetachRequest, DownReply, DrainReply, DrainRequest,
        DrainView, EndpointView, InitReply, InitRequest, JoinReply, JoinRequest, LeaveRequest, NetworkCreateReply,
        NetworkCreateRequest, NetworkView, NodeLabelRequest, NodeView, ReplicaView, ServiceCreateReply,
        ServiceCreateRequest, ServiceUpdateRequest, ServiceView, StatusView, TokenView,
    },
};

/// Runs to its end even if the client goes away meanwhile.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::spawn(work).await.map_err(|error| Refusal::internal(format!("the operation broke off: {error}")))?
}

impl Agent {
    async fn member(&self) -> Result<Arc<Member>, Refusal> {
        match self.standing().await {
            Standing::Running(member) => Ok(member),
            Standing::Stopped(why) => Err(stopped(why)),
            Standing::Outside => Err(Refusal::conflict("this node is not part of a cluster")
                .with_hint("`weft init` begins one, `weft join HOST:PORT --token TOKEN` joins one")),
        }
    }

    async fn standing(&self) -> Standing {
        if let Some(member) = self.membership().await {
            return Standing::Running(member);
        }
        let trouble = self.trouble().await;
        match Identity::load(&self.config.data_dir) {
            Ok(None) => Standing::Outside,
            Ok(Some(Identity { cluster, name, .. })) => {
                let why = trouble.unwrap_or_else(|| "the agent is just beginning or ending it".to_owned());
                Standing::Stopped(format!(
                    "this node is a member of the cluster {cluster} as {name}, but not running: {why}"
                ))
            }
            Err(error) => Standing::Stopped(format!("this node's membership is not running: {error:#}")),
        }
    }
}

/// Where this node stands.
enum Standing {
    /// In no cluster.
    Outside,
    /// In one, or in what may be one, but it does not run, and why.
    Stopped(String),
    /// In one.
    Running(Arc<Member>),
}

fn stopped(why: String) -> Refusal {
    Refusal::unavailable(why)
}

#[async_trait]
impl Operations for Arc<Agent> {
    async fn init(&self, request: InitRequest) -> Result<InitReply, Refusal> {
        let agent = Self::clone(self);
        to_the_end(async move { founding::init(&agent, request).await }).await
    }

    async fn join(&self, request: JoinRequest) -> Result<JoinReply, Refusal> {
        let agent = Self::clone(self);
        to_the_end(async move { membership::join(&agent, request).await }).await
    }

    async fn leave(&self, request: LeaveRequest) -> Result<(), Refusal> {
        let agent = Self::clone(self);
        to_the_end(async move { membership::leave(&agent, request).await }).await
    }

    async fn down(&self) -> Result<DownReply, Refusal> {
        let agent = Self::clone(self);
        to_the_end(async move { membership::down(&agent).await }).await
    }

    async fn token(&self) -> Result<TokenView, Refusal> {
        tokens::token(&*self.member().await?)
    }

    async fn token_rotate(&self) -> Result<TokenView, Refusal> {
        let member = self.member().await?;
        to_the_end(async move { tokens::rotate(&member).await }).await
    }

    async fn status(&self) -> Result<StatusView, Refusal> {
        Ok(status::status(self).await)
    }

    async fn node_list(&self) -> Result<Vec<NodeView>, Refusal> {
        nodes::list(&*self.member().await?)
    }

    async fn node_inspect(&self, node: &str) -> Result<NodeView, Refusal> {
        nodes::inspect(&*self.member().await?, node)
    }

    async fn node_set_availability(&self, node: &str, availability: Availability) -> Result<NodeView, Refusal> {
        nodes::set_availability(&*self.member().await?, node, availability).await
    }

    async fn node_drain_view(&self, node: &str) -> Result<DrainView, Refusal> {
        drain::view_of_node(&*self.member().await?, node)
    }

    async fn node_label(&self, node: &str, request: NodeLabelRequest) -> Result<NodeView, Refusal> {
        nodes::label(&*self.member().await?, node, &request).await
    }

    async fn node_remove(&self, node: &str) -> Result<(), Refusal> {
        let (member, node) = (self.member().await?, node.to_owned());
        to_the_end(async move { nodes::remove(&member, &node).await }).await
    }

    async fn network_create(&self, request: NetworkCreateRequest) -> Result<NetworkCreateReply, Refusal> {
        networks::create(&*self.member().await?, &request).await
    }

    async fn network_list(&self) -> Result<Vec<NetworkView>, Refusal> {
        networks::list(&*self.member().await?)
    }

    async fn network_inspect(&self, network: &str) -> Result<NetworkView, Refusal> {
        networks::inspect(&*self.member().await?, network)
    }

    async fn network_remove(&self, network: &str) -> Result<(), Refusal> {
        let (member, network) = (self.member().await?, network.to_owned());
        to_the_end(async move { networks::remove(&member, &network).await }).await
    }

    async fn service_create(&self, request: ServiceCreateRequest) -> Result<ServiceCreateReply, Refusal> {
        services::create(&*self.member().await?, &request).await
    }

    async fn service_list(&self) -> Result<Vec<ServiceView>, Refusal> {
        services::list(&*self.member().await?)
    }

    async fn service_replicas(&self, service: &str) -> Result<Vec<ReplicaView>, Refusal> {
        let member = self.member().await?;
        Ok(traffic::with_replicas(&member, &self.proxies, services::replicas(&member, service)?).await)
    }

    async fn service_inspect(&self, service: &str) -> Result<ServiceView, Refusal> {
        let member = self.member().await?;
        Ok(traffic::with_service(&member, &self.proxies, services::inspect(&member, service)?).await)
    }

    async fn service_update(&self, service: &str, request: ServiceUpdateRequest) -> Result<ServiceView, Refusal> {
        services::update(&*self.member().await?, service, &request).await
    }

    async fn service_remove(&self, service: &str) -> Result<(), Refusal> {
        services::remove(&*self.member().await?, service).await
    }

    async fn attach(&self, request: AttachRequest) -> Result<AttachReply, Refusal> {
        let member = self.member().await?;
        to_the_end(async move { attach::attach(&member, request).await }).await
    }

    async fn endpoint_drain(&self, endpoint: &str, request: DrainRequest) -> Result<DrainReply, Refusal> {
        let (member, endpoint) = (self.member().await?, endpoint.to_owned());
        to_the_end(async move { drain::endpoint(&member, &endpoint, request).await }).await
    }

    async fn endpoint_drain_view(&self, endpoint: &str) -> Result<DrainView, Refusal> {
        drain::view_of_endpoint(&*self.member().await?, endpoint)
    }

    async fn detach(&self, endpoint: &str, request: DetachRequest) -> Result<DrainReply, Refusal> {
        let (member, endpoint) = (self.member().await?, endpoint.to_owned());
        to_the_end(async move { endpoints::detach(&member, &endpoint, request).await }).await
    }

    async fn release(&self, endpoint: &str) -> Result<DrainReply, Refusal> {
        let (member, endpoint) = (self.member().await?, endpoint.to_owned());
        to_the_end(async move { endpoints::release(&member, &endpoint).await }).await
    }

    async fn endpoint_list(&self) -> Result<Vec<EndpointView>, Refusal> {
        endpoints::list(&*self.member().await?)
    }

    async fn endpoint_inspect(&self, endpoint: &str) -> Result<EndpointView, Refusal> {
        endpoints::inspect(&*self.member().await?, endpoint)
    }

    async fn ipam_list(&self) -> Result<Vec<BlockView>, Refusal> {
        let cluster = lookup::cluster(&*self.member().await?)?;
        Ok(super::views::blocks(&cluster))
    }
}
