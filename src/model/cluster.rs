use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use ipnet::{IpNet, Ipv6Net};

use super::{
    Block, Draining, Endpoint, EndpointId, Fingerprint, Name, Network, NetworkId, Node, NodeId, Report, Service,
    ServiceId, Trust,
};

/// The IPv4 prefix from which networks are cut when nobody names another: `weft init --pool`. That of IPv6 is the cluster's own:
/// [`ClusterId::default_pool_v6`].
pub const DEFAULT_POOL: &str = "10.201.0.0/16";

/// A cluster's identity, 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// The IPv6 prefix from which networks are cut when nobody names another: unique local, its 40 bits of global id (RFC 4193,
    /// 3.1) the identity's first, and so random. It never holds what [`Network::OWN_V6`] keeps free.
    pub fn default_pool_v6(self) -> IpNet {
        let own = 0xfd77_6566_u128 << 96;
        let mut address = (0xfd_u128 << 120) | (self.0 >> 88 << 80);
        if address >> 96 == own >> 96 {
            address ^= 1 << 119;
        }
        IpNet::V6(Ipv6Net::new_assert(address.into(), 48))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| format!("{text:?} is not a cluster id of 32 hexadecimal digits"))
    }
}

/// What was decided at `weft init` and holds on every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// The cluster's identity.
    pub id: ClusterId,
    /// The UDP port of the tunnels.
    pub vxlan_port: u16,
    /// The VXLAN network identifier of all tunnels (RFC 7348, 5), 24 bits. One is enough: networks are told apart by
    /// their prefixes, which never overlap.
    pub vni: u32,
    /// Prefixes from which networks without a `--subnet` are cut.
    pub pools: Vec<IpNet>,
}

/// A record in the store that this agent cannot read. It disables its object alone, visibly: no
/// change of it is seen, and its last readable state stays in force where one is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// The key in the store.
    pub key: String,
    /// What is wrong with it, and the mend.
    pub reason: String,
}

/// What the store says, at one revision. It is immutable: a change makes a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The store's revision that this was read at.
    pub revision: u64,
    /// The settings of the whole.
    pub settings: ClusterSettings,
    /// All nodes that have joined and not been removed.
    pub nodes: BTreeMap<NodeId, Node>,
    /// The nodes whose lease lives; also one whose record cannot be used, and which is missing from [`Self::nodes`].
    pub alive: BTreeSet<NodeId>,
    /// What nodes say of themselves; gone with their lease.
    pub reports: BTreeMap<NodeId, Report>,
    /// What is on its way out of balancing, and the revision at which its record was last written: whoever works from this one
    /// or a later one has taken it out.
    pub drains: BTreeMap<Draining, u64>,
    /// All networks.
    pub networks: BTreeMap<NetworkId, Network>,
    /// All blocks by prefix; prefixes never overlap, whichever their network.
    pub blocks: BTreeMap<IpNet, Block>,
    /// All endpoints.
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// All services.
    pub services: BTreeMap<ServiceId, Service>,
    /// Whom it lets in besides its nodes.
    pub trust: Trust,
    /// Records that could not be read.
    pub unreadable: Vec<UnreadableRecord>,
}

impl Cluster {
    /// A cluster with settings and nothing else.
    pub fn empty(settings: ClusterSettings) -> Self {
        Self {
            revision: 0,
            settings,
            nodes: BTreeMap::new(),
            alive: BTreeSet::new(),
            reports: BTreeMap::new(),
            drains: BTreeMap::new(),
            networks: BTreeMap::new(),
            blocks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            services: BTreeMap::new(),
            trust: Trust::default(),
            unreadable: Vec::new(),
        }
    }

    /// Whether both ask the same of every kernel: they differ at most in their revision, in what nodes say of themselves,
    /// and in whom they let in.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        // A new field has to be named here: without it this does not build.
        let Self {
            revision: _,
            settings,
            nodes,
            alive,
            reports: _,
            drains: _,
            networks,
            blocks,
            endpoints,
            services,
            trust: _,
            unreadable,
        } = self;
        *settings == other.settings
            && *nodes == other.nodes
            && *alive == other.alive
            && *networks == other.networks
            && *blocks == other.blocks
            && *endpoints == other.endpoints
            && *services == other.services
            && *unreadable == other.unreadable
    }

    /// The key pairs of all who may speak to members: its nodes, and those on their way in.
    pub fn known_keys(&self) -> BTreeSet<Fingerprint> {
        let nodes = self.nodes.values().filter_map(|node| node.fingerprint);
        nodes.chain(self.trust.admitted.iter().copied()).collect()
    }

    /// The node of that name.
    pub fn node_named(&self, name: &Name) -> Option<&Node> {
        self.nodes.values().find(|node| node.name == *name)
    }

    /// The network of that name.
    pub fn network_named(&self, name: &Name) -> Option<&Network> {
        self.networks.values().find(|network| network.name == *name)
    }

    /// The service of that name.
    pub fn service_named(&self, name: &Name) -> Option<&Service> {
        self.services.values().find(|service| service.name == *name)
    }

    /// The endpoints on a node.
    pub fn endpoints_on(&self, node: NodeId) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().filter(move |endpoint| endpoint.node == node)
    }

    /// The replicas of a service, in the order of their ids.
    pub fn replicas_of(&self, service: ServiceId) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.values().filter(move |endpoint| endpoint.service == Some(service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_ipv6_pool_is_unique_local_and_follows_from_the_id() {
        let own: IpNet = Network::OWN_V6.parse().unwrap();
        for (id, pool) in [
            ("0123456789abcdef0123456789abcdef", "fd01:2345:6789::/48"),
            ("ffffffffffffffffffffffffffffffff", "fdff:ffff:ffff::/48"),
            ("77656612340000000000000000000000", "fdf7:6566:1234::/48"),
        ] {
            let found = id.parse::<ClusterId>().unwrap().default_pool_v6();
            assert_eq!(found, pool.parse().unwrap(), "{id}");
            assert!(!own.contains(&found) && !found.contains(&own));
        }
    }
}
