//! What people ask of agents.

use std::{
    net::IpAddr,
    num::NonZeroU16,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;

use super::{Live, NAMESPACES, Owner, World, laws::sends_to};
use crate::{
    agent::{
        configuration::{Decision, Fresh, configure, put, read},
        member::Member,
        operations::{attach, drain, endpoints, networks, nodes, services},
    },
    api::wire::{
        AttachRequest, Availability, DetachRequest, DrainRequest, NetnsTarget, NetworkCreateRequest, PortSpec,
        Protocol, ServiceCreateRequest, ServiceUpdateRequest,
    },
    model::{EndpointId, HealthCheck, LinkName, NextHop, Probe, Route, RouteTable, Service},
    store::record,
};

impl World {
    pub(super) fn attach(&mut self, index: Owner) {
        let Some(member) = self.member(index) else { return };
        let busy: Vec<String> = self.executor.operations().map(str::to_owned).collect();
        let again = self.dice.strikes(300).then(|| {
            let told = self.ledger.told();
            let idle = told.wished.iter().filter(|(name, (owner, _))| {
                *owner == index
                    && !told.live.values().any(|live| live.name == **name)
                    && !busy.iter().any(|operation| operation.contains(&format!(" {name} ")))
            });
            self.dice.pick(idle.map(|(_, (_, request))| request.clone()))
        });
        let request = match again.flatten() {
            Some(request) => request,
            None => match self.wish(&member) {
                Some(request) => request,
                None => return,
            },
        };
        let name = request.name.clone().unwrap();
        let NetnsTarget::Path(path) = request.netns.clone() else { return };
        let node = &self.nodes[index];
        let (host, damages) = (Arc::clone(&node.host), Arc::clone(&node.damages));
        if host.inspect(&path).is_none() {
            host.make_namespace(&path);
        }
        {
            let mut told = self.ledger.told();
            told.wished.insert(name.clone(), (index, request.clone()));
            told.doubtful.insert(name.clone());
        }
        let ledger = self.ledger.clone();
        let count = move || *damages.lock().unwrap_or_else(PoisonError::into_inner);
        let before = count();
        let inode = host.inspect(&path);
        self.operate(index, format!("attach {name}"), async move {
            let reply = attach::attach(&member, request).await?;
            let id: EndpointId = reply.endpoint.id.parse().unwrap();
            let addresses: Vec<IpAddr> = reply.endpoint.addresses.iter().map(|text| text.parse().unwrap()).collect();
            if host.inspect(&path) != inode {
                // It was released meanwhile, or will be.
                return Ok(());
            }
            let link = LinkName::of_endpoint(id);
            let state = host.kernel.state();
            let is_whole = state.links.contains_key(&link)
                && addresses.iter().all(|address| {
                    let route = state.routes.get(&(RouteTable::MAIN, (*address).into()));
                    route == Some(&Route { next_hop: NextHop::Link(link.clone()) })
                });
            let network =
                member.cluster().and_then(|cluster| cluster.endpoints.get(&id).map(|endpoint| endpoint.network));
            let mut told = ledger.told();
            if !is_whole && count() == before {
                told.broken.push(format!("{name} was answered as attached, and has no link or no route"));
            }
            match network {
                Some(network) => {
                    told.log.push(format!("{name} is {id} with {addresses:?}"));
                    told.live.insert(id, Live { name: name.clone(), owner: index, path, network, addresses });
                    told.doubtful.remove(&name);
                }
                None => told.log.push(format!("{name} was answered as attached, and is not in sight")),
            }
            Ok(())
        });
    }

    fn wish(&mut self, member: &Member) -> Option<AttachRequest> {
        let cluster = member.cluster()?;
        let network = self.dice.pick(cluster.networks.values().cloned())?;
        let of_network = cluster.services.values().filter(|service| service.network == network.id);
        let service = self.dice.pick(of_network.map(|service| service.name.to_string()));
        let service = service.filter(|_| self.dice.strikes(600));
        let ip = self.dice.strikes(150).then(|| {
            let subnet = self.dice.pick(network.subnets.iter().copied()).unwrap();
            let number = self.dice.below(60);
            match subnet.prefix.network() {
                IpAddr::V4(base) => IpAddr::V4((u32::from(base) + u32::try_from(number).unwrap()).into()),
                IpAddr::V6(base) => IpAddr::V6((u128::from(base) + number as u128).into()),
            }
        });
        let name = self.fresh_name("endpoint");
        let path = format!("/run/netns/{}", self.dice.below(NAMESPACES));
        Some(AttachRequest {
            netns: NetnsTarget::Path(path),
            network: network.name.to_string(),
            ifname: format!("eth{}", self.named),
            name: Some(name),
            aliases: vec![],
            service,
            ip: ip.map(|ip| ip.to_string()),
            weight: NonZeroU16::new(u16::try_from(1 + self.dice.below(3)).unwrap()).unwrap(),
            loopback_up: self.dice.strikes(500),
        })
    }

    pub(super) fn detach(&mut self, index: Owner) {
        let Some(member) = self.member(index) else { return };
        let mut told = self.ledger.told();
        let own = told.live.iter().filter(|(_, live)| live.owner == index);
        let Some(id) = self.dice.pick(own.map(|(id, _)| *id)) else { return };
        let Some(live) = told.live.remove(&id) else { return };
        told.doubtful.insert(live.name.clone());
        drop(told);
        let (ledger, host) = (self.ledger.clone(), Arc::clone(&self.nodes[index].host));
        let Live { name, addresses, .. } = live;
        let force = self.dice.strikes(100);
        let still_sends = self.still_sends(addresses);
        self.operate(index, format!("detach {name}"), async move {
            let reply = endpoints::detach(&member, &id.to_string(), DetachRequest { force }).await?;
            let mut told = ledger.told();
            told.doubtful.remove(&name);
            told.drained.remove(&id);
            if reply.warnings.is_empty() && !force {
                told.broken
                    .extend(still_sends().map(|node| format!("{name} was detached, and {node} still sends there")));
            }
            told.log.extend(reply.warnings);
            if host.kernel.state().links.contains_key(&LinkName::of_endpoint(id)) {
                told.broken.push(format!("{name} was answered as detached, and still has its link"));
            }
            Ok(())
        });
    }

    /// Tells a node that lives now, has lived ever since, and sends connections of a service to one of the addresses
    /// although nobody has it any more.
    fn still_sends(&self, addresses: Vec<IpAddr>) -> impl FnOnce() -> Option<String> + Send + 'static {
        let store = Arc::clone(&self.store);
        let look = move || read(&*store).now_or_never().unwrap().ok().map(|fresh| fresh.cluster);
        let alive = look().map(|cluster| cluster.alive).unwrap_or_default();
        let deaths = |crashes: &Arc<Mutex<u64>>| *crashes.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .filter_map(|node| {
                let id = node.member.as_ref()?.me();
                let (host, crashes) = (Arc::clone(&node.host), Arc::clone(&node.crashes));
                alive.contains(&id).then(|| (id, node.name.clone(), host, deaths(&crashes), crashes))
            })
            .collect();
        move || {
            let cluster = look()?;
            let is_free = |address: &IpAddr| cluster.endpoints.values().all(|other| !other.addresses.contains(address));
            let lives = nodes
                .into_iter()
                .filter(|(id, _, _, before, crashes)| cluster.alive.contains(id) && deaths(crashes) == *before);
            let mut sending = lives.filter(|(_, _, host, _, _)| {
                let state = host.kernel.state();
                addresses.iter().filter(|address| is_free(address)).any(|address| sends_to(&state, *address))
            });
            sending.next().map(|(_, name, _, _, _)| name)
        }
    }

    /// Drains an endpoint of whichever node.
    pub(super) fn drain(&mut self, index: Owner) {
        let Some(member) = self.member(index) else { return };
        let Some(id) = self.dice.pick(self.ledger.told().live.keys().copied()) else { return };
        let ledger = self.ledger.clone();
        let request = DrainRequest { timeout: self.dice.strikes(300).then_some(Duration::from_millis(500).into()) };
        self.operate(index, format!("endpoint drain {id}"), async move {
            let reply = drain::endpoint(&member, &id.to_string(), request).await?;
            let mut told = ledger.told();
            told.drained.insert(id);
            told.log.extend(reply.warnings);
            Ok(())
        });
    }

    /// Clients of an endpoint come or go.
    pub(super) fn connect(&mut self) {
        let told = self.ledger.told();
        let Some(live) = self.dice.pick(told.live.values()) else { return };
        let open = u32::try_from(self.dice.below(3)).unwrap();
        self.nodes[live.owner].host.kernel.set_open_connections(live.addresses[0], open);
    }

    pub(super) fn create_network(&mut self, index: Owner) {
        let Some(member) = self.member(index) else { return };
        let name = self.fresh_name("network");
        // Small ones run out of blocks, then of addresses.
        let mut subnets = match self.dice.below(4) {
            0 => vec![],
            1 => vec![format!("10.{}.0.0/26", 1 + self.dice.below(3))],
            2 => vec![format!("fd00:{}::/122", 1 + self.dice.below(3))],
            _ => vec![format!("10.{}.0.0/24", 1 + self.dice.below(5))],
        };
        let ipv6 = self.dice.strikes(300);
        if ipv6 && subnets.len() == 1 && self.dice.strikes(500) && !subnets[0].contains(':') {
            subnets.push(format!("fd00:{}::/120", 4 + self.dice.below(3)));
        }
        let mtu = self.dice.strikes(200).then_some(1300);
        let request = NetworkCreateRequest { name, subnets, ipv6, internal: self.dice.strikes(200), mtu };
        self.operate(index, format!("network create {} {:?}", request.name, request.subnets), async move {
            networks::create(&member, &request).await.map(|_| ())
        });
    }

    pub(super) fn remove_network(&mut self, index: Owner) {
        let Some(member) = self.member(index) else { return };
        let cluster = member.cluster().unwrap();
        let Some(name) = self.dice.pick(cluster.networks.values().map(|network| network.name.to_string())) else {
            return;
        };
        self.remove(index, format!("network rm {name}"), async move { networks::remove(&member, &name).await });
    }

    fn ports(&self) -> Vec<PortSpec> {
        let target = NonZeroU16::new(80).unwrap();
        let protocol = if self.dice.strikes(500) { Protocol::Tcp } else { Protocol::Udp };
        (0..self.dice.below(3))
            .map(|_| PortSpec::new(u16::try_from(8000 + self.dice.below(6)).unwrap(), target, protocol))
            .collect()
    }

    pub(super) fn create_service(&mut self, index: Owner) {
        let Some(member) = self.member(index) else { return };
        let cluster = member.cluster().unwrap();
        let networks = cluster.networks.values().map(|network| network.name.to_string());
        let Some(network) = self.dice.pick(networks) else { return };
        let request = ServiceCreateRequest {
            name: self.fresh_name("service"),
            network,
            ports: self.ports(),
            ..ServiceCreateRequest::default()
        };
        self.operate(index, format!("service create {} in {}", request.name, request.network), async move {
            services::create(&member, &request).await.map(|_| ())
        });
    }

    pub(super) fn update_service(&mut self, index: Owner) {
        let Some((member, name)) = self.some_service(index) else { return };
        let request = ServiceUpdateRequest { ports: Some(self.ports()), ..ServiceUpdateRequest::default() };
        self.operate(index, format!("service update {name}"), async move {
            services::update(&member, &name, &request).await.map(|_| ())
        });
    }

    /// A service gains, changes or loses its health check.
    pub(super) fn change_check(&mut self, index: Owner) {
        let Some((member, name)) = self.some_service(index) else { return };
        let health = self.dice.strikes(700).then(|| HealthCheck {
            probe: Probe::Tcp,
            port: NonZeroU16::new(80),
            interval: Duration::from_millis(self.dice.pick([500, 2000]).unwrap()),
            timeout: HealthCheck::TIMEOUT_DEFAULT,
            rise: u8::try_from(1 + self.dice.below(2)).unwrap(),
            fall: u8::try_from(1 + self.dice.below(3)).unwrap(),
        });
        self.operate(index, format!("service update {name}: {health:?}"), async move {
            let name = name.parse().unwrap();
            let decide = |fresh: &Fresh| {
                let Some(service) = fresh.cluster.service_named(&name) else { return Ok(Decision::Already(())) };
                let service = Service { health: health.clone(), ..service.clone() };
                let write = put(record::key_of_service(service.id), record::encode_service(&service));
                Ok(Decision::Write(vec![write], ()))
            };
            configure(&*member.store, decide).await.map(|_| ())
        });
    }

    pub(super) fn remove_service(&mut self, index: Owner) {
        let Some((member, name)) = self.some_service(index) else { return };
        self.remove(index, format!("service rm {name}"), async move { services::remove(&member, &name).await });
    }

    fn some_service(&self, index: Owner) -> Option<(Arc<Member>, String)> {
        let member = self.member(index)?;
        let cluster = member.cluster()?;
        let name = self.dice.pick(cluster.services.values().map(|service| service.name.to_string()))?;
        Some((member, name))
    }

    pub(super) fn set_availability(&mut self, index: Owner) {
        let Some(member) = self.member(index) else { return };
        let cluster = member.cluster().unwrap();
        let Some(name) = self.dice.pick(cluster.nodes.values().map(|node| node.name.to_string())) else { return };
        let wanted = if self.dice.strikes(400) { Availability::Drain } else { Availability::Active };
        self.operate(index, format!("node update {name} to {wanted:?}"), async move {
            nodes::set_availability(&member, &name, wanted).await.map(|_| ())
        });
    }
}
