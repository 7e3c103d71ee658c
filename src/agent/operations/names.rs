//! Names that the nodes answer for: each stands for one thing in its network.

use super::lookup;
use crate::{
    api::Refusal,
    model::{Cluster, Endpoint, Name, Network},
};

/// `tasks.SERVICE` names a service's replicas, and `NAME.NETWORK` a thing of a network.
const RESERVED: &str = "tasks";

/// Refuses a service's name that an endpoint of its network goes by.
pub(super) fn check_service(cluster: &Cluster, network: &Network, name: &Name) -> Result<(), Refusal> {
    check_reserved(name)?;
    let known_so = |endpoint: &&Endpoint| endpoint.name == *name || endpoint.aliases.contains(name);
    let endpoints: Vec<&Name> =
        endpoints_in(cluster, network).filter(known_so).map(|endpoint| &endpoint.name).collect();
    match endpoints.as_slice() {
        [] => Ok(()),
        _ => Err(Refusal::conflict(format!(
            "the name {name} is that of the endpoint {} in the network {} already",
            lookup::listed(endpoints),
            network.name
        ))
        .with_hint("choose another name: a name stands for one thing")),
    }
}

/// Refuses an endpoint's name and aliases where one is a service's name, or a name would be another endpoint's alias. Several
/// endpoints may share an alias.
pub(super) fn check_endpoint(
    cluster: &Cluster,
    network: &Network,
    name: &Name,
    aliases: &[Name],
) -> Result<(), Refusal> {
    let taken = |what: &str, word: &Name, by: String| {
        Err(Refusal::conflict(format!("the {what} {word} is that of {by} in the network {} already", network.name))
            .with_hint("choose another: a name stands for one thing"))
    };
    let words = std::iter::once(("name", name)).chain(aliases.iter().map(|alias| ("alias", alias)));
    for (what, word) in words {
        check_reserved(word)?;
        if let Some(service) = cluster.service_named(word).filter(|service| service.network == network.id) {
            return taken(what, word, format!("the service {}", service.name));
        }
    }
    for other in endpoints_in(cluster, network).filter(|other| other.name != *name) {
        if other.aliases.contains(name) {
            return taken("name", name, format!("the endpoint {}, as an alias,", other.name));
        }
        if aliases.contains(&other.name) {
            return taken("alias", &other.name, format!("the endpoint {}", other.name));
        }
    }
    Ok(())
}

fn check_reserved(name: &Name) -> Result<(), Refusal> {
    if name.as_str() == RESERVED {
        return Err(Refusal::invalid(format!(
            "the name {name} cannot be given: {RESERVED}.SERVICE stands for the replicas of a service"
        )));
    }
    Ok(())
}

fn endpoints_in<'a>(cluster: &'a Cluster, network: &Network) -> impl Iterator<Item = &'a Endpoint> {
    let network = network.id;
    cluster.endpoints.values().filter(move |endpoint| endpoint.network == network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ClusterId, ClusterSettings, EndpointId, EndpointState, NetnsRef, NetworkId, NodeId, Service, ServiceId,
    };

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn network(number: u16, text: &str) -> Network {
        let id = NetworkId::new(number).unwrap();
        Network { id, name: name(text), subnets: vec![], internal: false, mtu: None }
    }

    /// The service `web` in the network 1, and an endpoint `db` with the alias `store` in each of two networks.
    fn cluster() -> Cluster {
        let settings = ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 1, pools: vec![] };
        let mut cluster = Cluster::empty(settings);
        let (id, first) = (ServiceId::new(1).unwrap(), NetworkId::new(1).unwrap());
        cluster.services.insert(id, Service::new(id, name("web"), first, vec![], vec![]));
        for number in 1..=2 {
            let id = EndpointId(number.into());
            let endpoint = Endpoint {
                id,
                network: NetworkId::new(number).unwrap(),
                addresses: vec![],
                name: name("db"),
                aliases: vec![name("store")],
                node: NodeId::new(1).unwrap(),
                service: None,
                state: EndpointState::Ready,
                weight: 1,
                netns: NetnsRef { path: "/a".into(), inode: 1 },
                ifname: "eth0".into(),
                fault: None,
            };
            cluster.endpoints.insert(id, endpoint);
        }
        cluster
    }

    #[test]
    fn a_name_stands_for_one_thing_of_its_network() {
        let (cluster, blue, red) = (cluster(), network(1, "blue"), network(2, "red"));
        let told = |outcome: Result<(), Refusal>| outcome.map_err(|refused| refused.message).err().unwrap_or_default();
        for (asked, error) in [
            ("shop", ""),
            ("db", "the name db is that of the endpoint db in the network blue already"),
            ("store", "the name store is that of the endpoint db in the network blue already"),
            ("tasks", "tasks.SERVICE stands for"),
        ] {
            let told = told(check_service(&cluster, &blue, &name(asked)));
            assert!(if error.is_empty() { told.is_empty() } else { told.contains(error) }, "{asked}: {told}");
        }
        for (network, asked, aliases, error) in [
            (&blue, "x", "y store", ""),
            (&blue, "db", "store", ""),
            (&blue, "web", "", "the name web is that of the service web in the network blue already"),
            (&blue, "x", "y web", "the alias web is that of the service web in the network blue already"),
            (&blue, "store", "", "the name store is that of the endpoint db, as an alias, in the network blue already"),
            (&blue, "x", "db", "the alias db is that of the endpoint db in the network blue already"),
            (&blue, "x", "tasks", "tasks.SERVICE stands for"),
            (&red, "web", "web", ""),
        ] {
            let aliases: Vec<Name> = aliases.split_whitespace().map(name).collect();
            let told = told(check_endpoint(&cluster, network, &name(asked), &aliases));
            assert!(if error.is_empty() { told.is_empty() } else { told.contains(error) }, "{asked}: {told}");
        }
    }
}
