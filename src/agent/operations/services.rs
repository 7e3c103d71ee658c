//! What can be asked about services. Nothing runs here by itself: each function lives as long as its request.

mod ports;
mod settings;

use std::{collections::BTreeSet, net::IpAddr};

use super::{Member, lookup, names};
use crate::{
    agent::{
        configuration::{Decision, Fresh, configure, put},
        views,
    },
    api::{
        Refusal,
        wire::{PortSpec, ReplicaView, ServiceCreateReply, ServiceCreateRequest, ServiceUpdateRequest, ServiceView},
    },
    ipam,
    model::{Cluster, EndpointMode, Network, Service, ServiceId},
    store::{Revision, Write, record},
};

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
        names::check_service(cluster, network, &name)?;
        let id = free_id(fresh)?;
        let ports = ports::choose(cluster, id, &request.ports)?;
        ports::check(cluster, network, &name, id, &ports)?;
        let service = settings::as_wished(Service::new(id, name.clone(), network.id, vec![], ports), request)?;
        settings::check(&service)?;
        let service = Service { vips: vips(cluster, network, &service)?, ..service };
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
        let network = network_of(cluster, before)?;
        let asked = ports::changed(&specs(before), &before.name, request)?;
        let ports = ports::choose(cluster, before.id, &asked)?;
        ports::check(cluster, network, &before.name, before.id, &ports)?;
        let after = Service { ports, ..settings::changed(before, request)? };
        settings::check(&after)?;
        let after = Service { vips: vips(cluster, network, &after)?, ..after };
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
        let network = network_of(cluster, service)?;
        ports::check(cluster, network, &service.name, service.id, &service.ports)?;
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
    let Service { name, network, .. } = existing;
    let differs = |what: &str, has: &str, asked: &str| {
        Refusal::conflict(format!("the service {name} exists with {what}: it has {has}, asked for was {asked}"))
    };
    let network = views::network_name(cluster, *network);
    if network != request.network {
        return Err(differs("another network", &network, &request.network).with_hint(format!(
            "a service stays in its network: choose another name, or `weft service rm {name}` first"
        )));
    }
    let has = specs(existing);
    let asked = ports::keep_choices(&has, &request.ports);
    let [has, asked]: [BTreeSet<PortSpec>; 2] = [has, asked].map(|ports| ports.into_iter().collect());
    let change = || format!("`weft service update {name}` changes them");
    if has != asked {
        let list = |ports: &BTreeSet<PortSpec>| match ports.len() {
            0 => "none".to_owned(),
            _ => ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        return Err(differs("other published ports", &list(&has), &list(&asked)).with_hint(change()));
    }
    let wished = settings::as_wished(existing.clone(), request)?;
    match settings::difference(existing, &wished) {
        Some((what, has, asked)) => Err(differs(what, &has, &asked).with_hint(change())),
        None => Ok(()),
    }
}

fn specs(service: &Service) -> Vec<PortSpec> {
    service.ports.iter().map(|port| port.clone().into()).collect()
}

fn network_of<'a>(cluster: &'a Cluster, service: &Service) -> Result<&'a Network, Refusal> {
    let network = cluster.networks.get(&service.network);
    network.ok_or_else(|| Refusal::internal(format!("the network of {} is gone", service.name)))
}

/// The VIPs that a service shall have: those it has, new ones, or none, as its name stands for them or not.
fn vips(cluster: &Cluster, network: &Network, service: &Service) -> Result<Vec<IpAddr>, Refusal> {
    match service.endpoint_mode {
        EndpointMode::Dnsrr => Ok(Vec::new()),
        EndpointMode::Vip if service.vips.is_empty() => choose_vips(cluster, network),
        EndpointMode::Vip => Ok(service.vips.clone()),
    }
}

fn choose_vips(cluster: &Cluster, network: &Network) -> Result<Vec<IpAddr>, Refusal> {
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
