use std::collections::BTreeSet;

use super::{Member, lookup};
use crate::{
    agent::{
        configuration::{Decision, Fresh, configure, put},
        member::PEER_PORT,
        views,
    },
    api::{
        Refusal,
        wire::{
            PortKey, PortSpec, Protocol, ReplicaView, ServiceCreateReply, ServiceCreateRequest, ServiceUpdateRequest,
            ServiceView,
        },
    },
    ipam,
    model::{Cluster, Name, Network, Service, ServiceId},
    store::{Revision, Write, record},
};

/// Published ports of one service; a range of ports is another feature.
const PORTS_MAX: usize = 256;

pub(super) fn list(member: &Member) -> Result<Vec<ServiceView>, Refusal> {
    let cluster = lookup::cluster(member)?;
    let mut services: Vec<&Service> = cluster.services.values().collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(services.into_iter().map(|service| views::service(&cluster, &member.judgement(), service)).collect())
}

pub(super) fn inspect(member: &Member, name: &str) -> Result<ServiceView, Refusal> {
    let cluster = lookup::cluster(member)?;
    Ok(views::service(&cluster, &member.judgement(), lookup::service(&cluster, name)?))
}

pub(super) fn replicas(member: &Member, name: &str) -> Result<Vec<ReplicaView>, Refusal> {
    let cluster = lookup::cluster(member)?;
    let mut replicas = views::replicas(&cluster, &member.judgement(), lookup::service(&cluster, name)?);
    member.findings.explain(&mut replicas);
    Ok(replicas)
}

pub(super) async fn create(member: &Member, request: &ServiceCreateRequest) -> Result<ServiceCreateReply, Refusal> {
    let name = lookup::name(&request.name)?;
    let ((id, created), revision) = configure(&*member.store, |fresh| {
        let cluster = &fresh.cluster;
        if let Some(existing) = cluster.service_named(&name) {
            compare(cluster, existing, request)?;
            return Ok(Decision::Already((existing.id, false)));
        }
        let network = lookup::network(cluster, &request.network)?;
        let id = free_id(fresh)?;
        check_ports(cluster, network, &name, id, &request.ports)?;
        let vips = choose_vips(cluster, network)?;
        let ports = request.ports.iter().map(|port| port.clone().into()).collect();
        let service = Service::new(id, name.clone(), network.id, vips, ports);
        Ok(Decision::Write(vec![put(record::key_of_service(id), record::encode_service(&service))], (id, true)))
    })
    .await?;
    Ok(ServiceCreateReply { created, service: effective(member, id, revision).await? })
}

pub(super) async fn update(
    member: &Member,
    text: &str,
    request: &ServiceUpdateRequest,
) -> Result<ServiceView, Refusal> {
    let (id, revision) = configure(&*member.store, |fresh| {
        let cluster = &fresh.cluster;
        let before = lookup::service(cluster, text)?;
        let had: Vec<PortSpec> = before.ports.iter().map(|port| port.clone().into()).collect();
        let is_published = |key: &&PortKey| had.iter().any(|port| PortKey::from(*port) == **key);
        if let Some(key) = request.remove_ports.iter().find(|key| !is_published(key)) {
            return Err(Refusal::not_found(format!("{} does not publish the port {key}", before.name))
                .with_hint(format!("see `weft service inspect {}`", before.name)));
        }
        let ports = request.apply_to(&had);
        let network = cluster.networks.get(&before.network);
        let network = network.ok_or_else(|| Refusal::internal(format!("the network of {} is gone", before.name)))?;
        check_ports(cluster, network, &before.name, before.id, &ports)?;
        let after = Service { ports: ports.into_iter().map(Into::into).collect(), ..before.clone() };
        if after == *before {
            return Ok(Decision::Already(after.id));
        }
        Ok(Decision::Write(vec![put(record::key_of_service(after.id), record::encode_service(&after))], after.id))
    })
    .await?;
    effective(member, id, revision).await
}

pub(super) async fn remove(member: &Member, text: &str) -> Result<(), Refusal> {
    let (service, revision) = configure(&*member.store, |fresh| {
        let service = lookup::service(&fresh.cluster, text)?;
        let replicas = lookup::listed(fresh.cluster.replicas_of(service.id).map(|replica| &replica.name));
        if !replicas.is_empty() {
            return Err(Refusal::conflict(format!("the service {} is in use by endpoint {replicas}", service.name))
                .with_hint("detach its replicas first"));
        }
        Ok(Decision::Write(vec![Write::Delete { key: record::key_of_service(service.id) }], service.clone()))
    })
    .await?;
    put_back_if_needed(member, &service).await?;
    member.cluster_at(revision).await;
    member.reconciler.pass_with(revision.0).await;
    Ok(())
}

/// Undoes a removal that an attach has crossed. A replica's publication asserts its service's key, so that whoever
/// slipped in is there by now; and a number that a replica names is not given away.
async fn put_back_if_needed(member: &Member, service: &Service) -> Result<(), Refusal> {
    let (replicas, _) = configure(&*member.store, |fresh| {
        let cluster = &fresh.cluster;
        let replicas = lookup::listed(cluster.replicas_of(service.id).map(|replica| &replica.name));
        if replicas.is_empty() || cluster.services.contains_key(&service.id) {
            return Ok(Decision::Already(replicas));
        }
        let network = cluster.networks.get(&service.network);
        let network = network.ok_or_else(|| Refusal::internal(format!("the network of {} is gone", service.name)))?;
        let ports: Vec<PortSpec> = service.ports.iter().map(|port| port.clone().into()).collect();
        check_ports(cluster, network, &service.name, service.id, &ports)?;
        if cluster.service_named(&service.name).is_some() {
            return Err(Refusal::conflict(format!("another service {} was created meanwhile", service.name)));
        }
        let mut service = service.clone();
        if cluster.services.values().any(|other| other.vips.iter().any(|vip| service.vips.contains(vip))) {
            service.vips = choose_vips(cluster, network)?;
        }
        let write = put(record::key_of_service(service.id), record::encode_service(&service));
        Ok(Decision::Write(vec![write], replicas))
    })
    .await?;
    match replicas.as_str() {
        "" => Ok(()),
        replicas => Err(Refusal::conflict(format!("the service {} is in use by endpoint {replicas}", service.name))
            .with_hint("detach its replicas first")),
    }
}

/// The service as it is once this node's kernel knows it too.
async fn effective(member: &Member, id: ServiceId, revision: Revision) -> Result<ServiceView, Refusal> {
    let cluster = member.cluster_at(revision).await.map_or_else(|| lookup::cluster(member), Ok)?;
    member.reconciler.pass_with(revision.0).await;
    let service = cluster.services.get(&id).ok_or_else(|| Refusal::not_found("the service has just been removed"))?;
    Ok(views::service(&cluster, &member.judgement(), service))
}

fn compare(cluster: &Cluster, existing: &Service, request: &ServiceCreateRequest) -> Result<(), Refusal> {
    let Service { name, network, ports, .. } = existing;
    let differs = |what: &str, has: &str, asked: &str| {
        Refusal::conflict(format!("the service {name} exists with {what}: it has {has}, asked for was {asked}"))
    };
    let network = views::network_name(cluster, *network);
    if network != request.network {
        return Err(differs("another network", &network, &request.network).with_hint(format!(
            "a service stays in its network: choose another name, or `weft service rm {name}` first"
        )));
    }
    let has: BTreeSet<PortSpec> = ports.iter().map(|port| port.clone().into()).collect();
    let asked: BTreeSet<PortSpec> = request.ports.iter().copied().collect();
    if has != asked {
        let list = |ports: &BTreeSet<PortSpec>| match ports.len() {
            0 => "none".to_owned(),
            _ => ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        return Err(differs("other published ports", &list(&has), &list(&asked))
            .with_hint(format!("`weft service update {name}` changes them")));
    }
    Ok(())
}

fn check_ports(
    cluster: &Cluster,
    network: &Network,
    name: &Name,
    id: ServiceId,
    ports: &[PortSpec],
) -> Result<(), Refusal> {
    if ports.len() > PORTS_MAX {
        return Err(Refusal::invalid(format!("{name} would publish {} ports; {PORTS_MAX} is the most", ports.len())));
    }
    if network.internal && !ports.is_empty() {
        return Err(Refusal::conflict(format!(
            "the network {} is internal: its services cannot be published to the outside",
            network.name
        )));
    }
    let mut seen = BTreeSet::new();
    for port in ports {
        let key = PortKey::from(*port);
        if !seen.insert(key) {
            return Err(Refusal::invalid(format!("the port {key} is published twice by {name}")));
        }
        if let Some(purpose) = own_use(cluster, key) {
            return Err(Refusal::conflict(format!(
                "the port {key} cannot be published: on every node it is {purpose}"
            )));
        }
        let holder =
            cluster.services.values().filter(|service| service.id != id).find(|service| {
                service.ports.iter().any(|theirs| PortKey::from(PortSpec::from(theirs.clone())) == key)
            });
        if let Some(holder) = holder {
            return Err(Refusal::conflict(format!(
                "the port {key} is published by the service {} already",
                holder.name
            )));
        }
    }
    Ok(())
}

/// What weft itself needs a port of each node for. Published, it would be taken from that: nodes would lose each other.
fn own_use(cluster: &Cluster, key: PortKey) -> Option<&'static str> {
    match key.protocol {
        Protocol::Tcp => (key.published.get() == PEER_PORT).then_some("the one for the store and for joining nodes"),
        Protocol::Sctp => None,
        Protocol::Udp => (key.published.get() == cluster.settings.vxlan_port).then_some("the tunnels' (VXLAN)"),
    }
}

fn choose_vips(cluster: &Cluster, network: &Network) -> Result<Vec<std::net::IpAddr>, Refusal> {
    let taken = cluster.services.values().flat_map(|service| service.vips.iter().copied()).collect();
    let choose = |subnet| {
        ipam::choose_vip(subnet, &taken).ok_or_else(|| {
            Refusal::conflict(format!("no VIP is free in {} of the network {}", subnet.vip_range(), network.name))
        })
    };
    network.subnets.iter().map(choose).collect()
}

/// A number that no service has, be its record readable or not, and that no endpoint still names.
fn free_id(fresh: &Fresh) -> Result<ServiceId, Refusal> {
    let endpoints = fresh.cluster.endpoints.values();
    let named: BTreeSet<ServiceId> = endpoints.filter_map(|endpoint| endpoint.service).collect();
    let is_free = |id: ServiceId| fresh.records.version_of(&record::key_of_service(id)).is_none();
    let mut free = (1..=u16::MAX).filter_map(ServiceId::new).filter(|id| is_free(*id) && !named.contains(id));
    free.next().ok_or_else(|| Refusal::conflict("the cluster has as many services as it can number"))
}
