//! Which ports a service publishes: what is wished, what the cluster chooses, what stands in the way.

use std::{collections::BTreeSet, num::NonZeroU16};

use crate::{
    agent::member::PEER_PORT,
    api::{
        Refusal,
        wire::{PortKey, PortSpec, ServiceUpdateRequest},
    },
    model::{Bind, Cluster, Family, L4, Name, Network, PortMode, PublishedPort, ServiceId},
};

/// The device that every host has for itself.
const LOOPBACK: &str = "lo";

/// Published ports of one service; a range of ports is another feature.
const PORTS_MAX: usize = 256;

/// `asked`, with what the cluster has chosen before (among `had`) where the choice is left to it and the wish is still the
/// same. Whatever is still to be chosen has the port 0.
pub(super) fn keep_choices(had: &[PortSpec], asked: &[PortSpec]) -> Vec<PortSpec> {
    let is_asked_for = |port: &PortSpec| asked.iter().any(|other| other == port);
    let mut free: Vec<&PortSpec> = had.iter().filter(|port| !is_asked_for(port)).collect();
    let keep = |wish: &PortSpec| match free.iter().position(|port| port.is_choice_for(wish)) {
        Some(index) => free.swap_remove(index).clone(),
        None => wish.clone(),
    };
    asked.iter().map(keep).collect()
}

/// The ports of a service that had `had`, changed as asked for; [`keep_choices`] tells what of them is still to be chosen.
pub(super) fn changed(had: &[PortSpec], name: &Name, request: &ServiceUpdateRequest) -> Result<Vec<PortSpec>, Refusal> {
    let mut stay = had.to_vec();
    for key in &request.remove_ports {
        let Some(port) = key.find(had) else {
            let several: Vec<String> = key.candidates(had).map(ToString::to_string).collect();
            let refusal = Refusal::not_found(format!("{name} does not publish the port {key}"));
            return Err(match several.as_slice() {
                [] => refusal.with_hint(format!("see `weft service inspect {name}`")),
                _ => refusal.with_hint(format!("it publishes {}: say which", several.join(", "))),
            });
        };
        stay.retain(|other| other != port);
    }
    Ok(keep_choices(&stay, &request.apply_to(had)))
}

/// Chooses every port that is left to the cluster: the lowest of the range that no service has with that protocol.
pub(super) fn choose(cluster: &Cluster, id: ServiceId, asked: &[PortSpec]) -> Result<Vec<PublishedPort>, Refusal> {
    let others = cluster.services.values().filter(|service| service.id != id).flat_map(|service| &service.ports);
    let mut taken: BTreeSet<(L4, u16)> = others.map(|port| (port.protocol, port.published.get())).collect();
    taken.extend(asked.iter().map(|port| (port.protocol.into(), port.published)));
    let choice = |port: &PortSpec| {
        if let Some(published) = NonZeroU16::new(port.published) {
            return Ok(port.at(published));
        }
        let protocol = L4::from(port.protocol);
        let is_free = |published: &u16| {
            !taken.contains(&(protocol, *published)) && own_use(cluster, protocol, *published).is_none()
        };
        let published = PublishedPort::CHOSEN.into_iter().find(is_free).and_then(NonZeroU16::new);
        let published = published.ok_or_else(|| {
            let (first, last) = (PublishedPort::CHOSEN.start(), PublishedPort::CHOSEN.end());
            Refusal::conflict(format!(
                "cannot choose a port for {port}: {first} to {last}/{protocol} are all published"
            ))
            .with_hint("say a port below or above, or remove a service that publishes one of them")
        })?;
        taken.insert((protocol, published.get()));
        Ok(port.at(published))
    };
    asked.iter().map(choice).collect()
}

/// Refuses ports that cannot be published, or not by this service.
pub(super) fn check(
    cluster: &Cluster,
    network: &Network,
    name: &Name,
    id: ServiceId,
    ports: &[PublishedPort],
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
    for (index, port) in ports.iter().enumerate() {
        check_mode(network, port)?;
        let key = PortKey::from(port);
        if let Some(other) = ports.iter().take(index).find(|other| other.conflicts_with(port)) {
            let other = PortKey::from(other);
            return Err(Refusal::invalid(if other == key {
                format!("the port {key} is published twice by {name}")
            } else {
                format!("the ports {other} and {key} of {name} answer at the same place")
            }));
        }
        if let Some(purpose) = own_use(cluster, port.protocol, port.published.get()) {
            return Err(Refusal::conflict(format!(
                "the port {key} cannot be published: on every node it is {purpose}"
            )));
        }
        let others = cluster.services.values().filter(|service| service.id != id);
        let holder = others.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        if let Some((holder, theirs)) = holder.into_iter().find(|(_, theirs)| theirs.conflicts_with(port)) {
            let theirs = PortKey::from(theirs);
            return Err(Refusal::conflict(if theirs == key {
                format!("the port {key} is published by the service {} already", holder.name)
            } else {
                format!(
                    "the port {key} answers where {theirs} does, which the service {} publishes already",
                    holder.name
                )
            }));
        }
    }
    Ok(())
}

/// Refuses what the carrier of a port's connections cannot do.
fn check_mode(network: &Network, port: &PublishedPort) -> Result<(), Refusal> {
    let key = PortKey::from(port);
    match (&port.mode, port.bind) {
        (_, Bind::Device(device)) if device.as_str() == LOOPBACK => {
            let published = port.published;
            Err(Refusal::invalid(format!("the port {key} cannot be published at the device {LOOPBACK}: by it a host reaches itself alone"))
                .with_hint(format!("publish 127.0.0.1:{published} or [::1]:{published} for the nodes themselves, or {published} for everybody")))
        }
        (PortMode::Proxy(_), _) if port.protocol != L4::Tcp => {
            Err(Refusal::invalid(format!("the port {key} cannot be proxied: mode=proxy carries TCP alone")))
        }
        (PortMode::Kernel, Bind::Address(address))
            if !network.subnets.iter().any(|subnet| subnet.prefix.addr().is_ipv4() == address.is_ipv4()) =>
        {
            Err(Refusal::conflict(format!(
                "the port {key} would lead to nobody: the network {} has no IPv{}",
                network.name,
                Family::of(address).digit()
            ))
            .with_hint("mode=proxy carries connections from one IP version to the other"))
        }
        (PortMode::Proxy(_) | PortMode::Kernel, _) => Ok(()),
    }
}

/// What weft itself needs a port of each node for. Published, it would be taken from that: nodes would lose each other.
fn own_use(cluster: &Cluster, protocol: L4, published: u16) -> Option<&'static str> {
    match protocol {
        L4::Tcp => (published == PEER_PORT).then_some("the one for the store and for joining nodes"),
        L4::Sctp => None,
        L4::Udp => (published == cluster.settings.vxlan_port).then_some("the tunnels' (VXLAN)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClusterId, ClusterSettings, NetworkId, Service, Subnet};

    fn specs(words: &str) -> Vec<PortSpec> {
        words.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    fn published(words: &str) -> Vec<PublishedPort> {
        specs(words).iter().map(|port| port.at(NonZeroU16::new(port.published).unwrap())).collect()
    }

    fn network(prefix: &str) -> Network {
        Network {
            id: NetworkId::new(1).unwrap(),
            name: "blue".parse().unwrap(),
            subnets: vec![Subnet { prefix: prefix.parse().unwrap(), block_len: 26 }],
            internal: false,
            mtu: None,
        }
    }

    /// With a service `web` that publishes these, and the tunnels at 30001/udp.
    fn cluster(words: &str) -> Cluster {
        let settings = ClusterSettings { id: ClusterId(1), vxlan_port: 30001, vni: 1, pools: vec![] };
        let mut cluster = Cluster::empty(settings);
        let id = ServiceId::new(1).unwrap();
        let ports = published(words);
        let service = Service::new(id, "web".parse().unwrap(), NetworkId::new(1).unwrap(), vec![], ports);
        cluster.services.insert(id, service);
        cluster
    }

    fn told(ports: &[PublishedPort]) -> String {
        ports.iter().map(|port| PortSpec::from(port.clone()).to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn choices_are_kept_as_long_as_the_wish_is_the_same() {
        for (had, asked, kept) in [
            ("30007:80", "0:80", "30007:80"),
            ("30007:80", "0:81", "0:81"),
            ("30007:80", "0:80/udp", "0:80/udp"),
            ("30007:80", "0:80 0:80", "30007:80 0:80"),
            ("30007:80 30008:80", "0:80 0:80", "30007:80 30008:80"),
            ("30007:80", "30007:80 0:80", "30007:80 0:80"),
            ("8080:80", "0:80", "0:80"),
            ("192.0.2.1:30007:80", "0:80", "0:80"),
        ] {
            let now = keep_choices(&specs(had), &specs(asked));
            let (now, kept): (BTreeSet<_>, _) = (now.into_iter().collect(), specs(kept));
            assert_eq!(now, kept.into_iter().collect(), "{had} asked {asked}");
        }
    }

    #[test]
    fn the_lowest_free_port_is_chosen() {
        for (theirs, asked, chosen) in [
            ("80:80", "0:80", "30000:80/tcp"),
            ("30000:80", "0:80", "30001:80/tcp"),
            ("30000:80", "0:80/udp", "30000:80/udp"),
            ("30000:80/udp", "0:80/udp", "30002:80/udp"),
            ("eth0:30000:80", "0:80 0:80", "30001:80/tcp 30002:80/tcp"),
            ("80:80", "0:80 30000:81", "30001:80/tcp 30000:81/tcp"),
        ] {
            let ports = choose(&cluster(theirs), ServiceId::new(2).unwrap(), &specs(asked)).unwrap();
            assert_eq!(told(&ports), chosen, "{theirs} asked {asked}");
        }
    }

    #[test]
    fn a_full_range_is_told() {
        let every = PublishedPort::CHOSEN.map(|port| format!("{port}:80")).collect::<Vec<_>>().join(" ");
        let refused = choose(&cluster(&every), ServiceId::new(2).unwrap(), &specs("0:80")).unwrap_err();
        assert!(refused.message.contains("30000 to 32767/tcp are all published"), "{refused}");
        assert!(choose(&cluster(&every), ServiceId::new(1).unwrap(), &specs("0:80")).is_ok());
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        for (theirs, asked, error) in [
            ("80:80", "81:80 80:80/udp", ""),
            ("80:80", "80:90", "the port 80/tcp is published by the service web already"),
            ("192.0.2.1:80:80", "80:90", "answers where 192.0.2.1:80/tcp does, which the service web"),
            ("192.0.2.1:80:80", "192.0.2.2:80:90 eth0:80:90", ""),
            ("90:80", "81:80 81:90", "the port 81/tcp is published twice by shop"),
            ("90:80", "81:80 eth0:81:90", "the ports 81/tcp and eth0:81/tcp of shop answer at the same place"),
            ("90:80", "7780:80", "7780/tcp cannot be published"),
            ("90:80", "127.0.0.1:7780:80", "7780/tcp cannot be published"),
            ("90:80", "30001:80/udp", "the tunnels' (VXLAN)"),
            ("90:80", "80:80/udp,mode=proxy", "mode=proxy carries TCP alone"),
            ("90:80", "[2001:db8::1]:80:80", "the network blue has no IPv6"),
            ("90:80", "[2001:db8::1]:80:80,mode=proxy", ""),
            ("90:80", "lo:80:80", "cannot be published at the device lo"),
            ("90:80", "lo:80:80,mode=proxy", "cannot be published at the device lo"),
            ("90:80", "lo0:80:80 127.0.0.1:80:80", ""),
        ] {
            let (name, id) = ("shop".parse().unwrap(), ServiceId::new(2).unwrap());
            let outcome = check(&cluster(theirs), &network("10.9.0.0/16"), &name, id, &published(asked));
            match outcome {
                Ok(()) => assert_eq!(error, "", "{asked}"),
                Err(refused) => assert!(!error.is_empty() && refused.message.contains(error), "{asked}: {refused}"),
            }
        }
    }

    #[test]
    fn a_port_is_taken_away_by_what_tells_it_from_the_others() {
        let had = specs("eth0:80:80 eth1:80:80 53:53/udp 30007:80");
        let name = "web".parse().unwrap();
        let ask = |key: &str| ServiceUpdateRequest {
            remove_ports: vec![key.parse().unwrap()],
            ..ServiceUpdateRequest::default()
        };
        assert_eq!(changed(&had, &name, &ask("eth0:80")).unwrap(), had[1..]);
        assert_eq!(changed(&had, &name, &ask("53/udp")).unwrap().len(), 3);
        let refused = changed(&had, &name, &ask("80")).unwrap_err();
        assert!(refused.hint.unwrap().contains("eth0:80:80/tcp, eth1:80:80/tcp: say which"));
        assert!(changed(&had, &name, &ask("81")).unwrap_err().message.contains("does not publish the port 81/tcp"));
    }
}
