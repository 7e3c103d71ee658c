//! Which address an endpoint gets: `ipam` chooses, the store's compare-and-swap makes it true.
//!
//! Inside its own blocks a node assigns without asking anybody. One lock per node orders its own attaches; other nodes
//! are kept off by the block's key, and by the address's own key in the last resort.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::configuration::{put, store_refusal};
use crate::{
    api::Refusal,
    ipam,
    model::{Block, Cluster, Network, NodeId, Subnet},
    store::{Compare, Outcome, Revision, Store, Transaction, record},
};

/// Tries against other nodes that claim blocks of the same network at the same moment.
const CLAIMS_MAX: usize = 32;

/// What this node remembers about its blocks. Losing it costs a look at the store.
#[derive(Debug, Default)]
pub(super) struct Addressing {
    /// This node's blocks and the version of their keys.
    blocks: BTreeMap<IpNet, (u16, Revision)>,
    /// The address last assigned from each block.
    last: BTreeMap<IpNet, IpAddr>,
    /// Whether the answer to a publication was lost, and nothing newer has been seen since.
    is_doubtful: bool,
}

/// An address, and what must hold when it is published.
#[derive(Debug, Clone)]
pub(super) struct Assigned {
    /// The address.
    pub(super) address: IpAddr,
    /// That its block is still ours, or its network still there.
    pub(super) condition: Compare,
}

/// What is known when an address is chosen.
pub(super) struct Situation<'a> {
    /// This node.
    pub(super) me: NodeId,
    /// The newest cluster.
    pub(super) cluster: &'a Cluster,
    /// The network.
    pub(super) network: &'a Network,
    /// Addresses that somebody has, be they published or not.
    pub(super) taken: &'a BTreeSet<IpAddr>,
}

impl Addressing {
    /// One address per family of the network; `wanted` is taken for its family.
    pub(super) async fn assign(
        &mut self,
        store: &dyn Store,
        situation: &Situation<'_>,
        wanted: Option<IpAddr>,
    ) -> Result<Vec<Assigned>, Refusal> {
        let mut assigned = Vec::new();
        for subnet in &situation.network.subnets {
            let address = match wanted.filter(|wanted| subnet.prefix.contains(wanted)) {
                Some(wanted) => self.check_wanted(store, situation, subnet, wanted).await?,
                None => self.choose(store, situation, subnet).await?,
            };
            assigned.push(address);
        }
        Ok(assigned)
    }

    /// Forgets what is known of the blocks, after a publication has shown it to be wrong.
    pub(super) fn forget(&mut self) {
        self.blocks.clear();
    }

    /// A publication may have been carried out, or not.
    pub(super) fn doubt(&mut self) {
        self.is_doubtful = true;
    }

    /// Whether there is such a publication.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// Whatever was carried out has been seen.
    pub(super) fn end_doubt(&mut self) {
        self.is_doubtful = false;
    }

    async fn choose(
        &mut self,
        store: &dyn Store,
        situation: &Situation<'_>,
        subnet: &Subnet,
    ) -> Result<Assigned, Refusal> {
        let mut looked = false;
        loop {
            for (block, version) in self.own_blocks(situation.network, subnet) {
                let last = self.last.get(&block).copied();
                if let Some(address) = ipam::choose_address(subnet, block, situation.taken, last) {
                    self.last.insert(block, address);
                    let key = record::key_of_block(situation.network.id, block);
                    return Ok(Assigned { address, condition: Compare::Unchanged(key, version) });
                }
            }
            if !looked {
                // After a restart the memory is empty, not the store.
                looked = true;
                if self.look(store, situation).await? {
                    continue;
                }
            }
            if !self.claim(store, situation, subnet).await? {
                return self.borrow(store, situation, subnet).await;
            }
        }
    }

    async fn check_wanted(
        &mut self,
        store: &dyn Store,
        situation: &Situation<'_>,
        subnet: &Subnet,
        wanted: IpAddr,
    ) -> Result<Assigned, Refusal> {
        if !subnet.is_assignable(wanted) {
            return Err(Refusal::invalid(format!(
                "cannot give out {wanted}: it is the first or last address of {}",
                subnet.prefix
            )));
        }
        if subnet.vip_range().contains(&wanted) {
            return Err(Refusal::invalid(format!(
                "cannot give out {wanted}: {} is for the VIPs of services",
                subnet.vip_range()
            )));
        }
        let key = record::key_of_endpoint(situation.network.id, wanted);
        if let Some(record) = situation.cluster.unreadable.iter().find(|record| record.key == key) {
            return Err(Refusal::conflict(format!(
                "cannot give out {wanted}: the record {key} has it, and cannot be read ({})",
                record.reason
            )));
        }
        if situation.taken.contains(&wanted) {
            return Err(Refusal::conflict(format!("cannot give out {wanted}: another endpoint has it"))
                .with_hint("see `weft endpoint ls`"));
        }
        self.look(store, situation).await?;
        let own = self.own_blocks(situation.network, subnet).into_iter().find(|(block, _)| block.contains(&wanted));
        let condition = match own {
            Some((block, version)) => Compare::Unchanged(record::key_of_block(situation.network.id, block), version),
            None => network_unchanged(store, situation.network).await?,
        };
        Ok(Assigned { address: wanted, condition })
    }

    fn own_blocks(&self, network: &Network, subnet: &Subnet) -> Vec<(IpNet, Revision)> {
        self.blocks
            .iter()
            .filter(|(block, (id, _))| *id == network.id.get() && subnet.prefix.contains(&block.network()))
            .map(|(block, (_, version))| (*block, *version))
            .collect()
    }

    /// Learns this node's blocks of the network from the store; whether there were any new ones.
    async fn look(&mut self, store: &dyn Store, situation: &Situation<'_>) -> Result<bool, Refusal> {
        let before = self.blocks.len();
        for (block, version) in blocks_of(store, situation.network).await?.blocks_of(situation.network.id) {
            if block.owner == situation.me {
                self.blocks.insert(block.prefix, (situation.network.id.get(), version));
            }
        }
        Ok(self.blocks.len() > before)
    }

    /// Claims one more block; `false` if none is free.
    async fn claim(&mut self, store: &dyn Store, situation: &Situation<'_>, subnet: &Subnet) -> Result<bool, Refusal> {
        for _ in 0..CLAIMS_MAX {
            let taken = blocks_of(store, situation.network).await?.claimed_in(situation.network.id).collect();
            let Some(prefix) = ipam::choose_block(subnet, situation.me, &taken) else { return Ok(false) };
            let block = Block { network: situation.network.id, prefix, owner: situation.me };
            let key = record::key_of_block(situation.network.id, prefix);
            let compares = vec![Compare::Absent(key.clone()), network_unchanged(store, situation.network).await?];
            let transaction = Transaction { compares, writes: vec![put(key, record::encode_block(&block))] };
            if let Outcome::Committed(version) = store.commit(transaction).await.map_err(store_refusal)? {
                self.blocks.insert(prefix, (situation.network.id.get(), version));
                return Ok(true);
            }
        }
        Err(Refusal::unavailable(format!(
            "other nodes were faster at {CLAIMS_MAX} blocks of {}",
            situation.network.name
        ))
        .with_hint("try again"))
    }

    /// One address out of somebody else's block: all are claimed, not all are full.
    async fn borrow(&self, store: &dyn Store, situation: &Situation<'_>, subnet: &Subnet) -> Result<Assigned, Refusal> {
        let blocks = situation.cluster.blocks.values().filter(|block| block.network == situation.network.id);
        let blocks = blocks.map(|block| block.prefix).filter(|block| subnet.prefix.contains(block));
        let Some(address) = ipam::choose_borrowed(subnet, blocks, situation.taken) else {
            return Err(Refusal::conflict(format!(
                "no address is free in {}, network {}",
                subnet.prefix, situation.network.name
            ))
            .with_hint("detach what is not needed, or create a network with a larger --subnet"));
        };
        Ok(Assigned { address, condition: network_unchanged(store, situation.network).await? })
    }
}

async fn blocks_of(store: &dyn Store, network: &Network) -> Result<record::State, Refusal> {
    let snapshot = store.snapshot(&record::prefix_of_blocks(network.id)).await.map_err(store_refusal)?;
    Ok(record::State::from_snapshot(&snapshot))
}

/// The condition that a network is still as it was seen; another one may have its number by now.
async fn network_unchanged(store: &dyn Store, network: &Network) -> Result<Compare, Refusal> {
    let key = record::key_of_network(network.id);
    let snapshot = store.snapshot(&key).await.map_err(store_refusal)?;
    let seen = record::encode_network(network);
    match snapshot.entries.into_iter().find(|entry| entry.key == key && entry.value == seen) {
        Some(entry) => Ok(Compare::Unchanged(key, entry.version)),
        None => Err(Refusal::not_found(format!("the network {} has just been removed", network.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ClusterId, ClusterSettings, NetworkId, UnreadableRecord},
        store::memory::MemoryStore,
    };

    /// A store with one network and `records` besides, as node 1 sees it.
    async fn assign(records: &[(&str, &[u8])], wanted: Option<&str>) -> Result<Vec<Assigned>, Refusal> {
        let subnet = ipam::subnet("10.9.0.0/24".parse().unwrap()).unwrap();
        let id = NetworkId::new(3).unwrap();
        let network = Network { id, name: "blue".parse().unwrap(), subnets: vec![subnet], internal: false, mtu: None };
        let store = MemoryStore::new();
        let mut writes = vec![put(record::key_of_network(id), record::encode_network(&network))];
        writes.extend(records.iter().map(|(key, value)| put(format!("{}{key}", record::PREFIX), value.to_vec())));
        store.commit(Transaction { compares: vec![], writes }).await.unwrap();
        let settings = ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 77, pools: vec![] };
        let mut cluster = Cluster::empty(settings);
        cluster.unreadable = records
            .iter()
            .map(|(key, _)| UnreadableRecord { key: format!("{}{key}", record::PREFIX), reason: "torn".to_owned() })
            .collect();
        let me = NodeId::new(1).unwrap();
        let situation = Situation { me, cluster: &cluster, network: &network, taken: &BTreeSet::new() };
        Addressing::default().assign(&store, &situation, wanted.map(|wanted| wanted.parse().unwrap())).await
    }

    #[tokio::test]
    async fn an_unreadable_block_is_somebody_elses() {
        let first = assign(&[], None).await.unwrap()[0].address;
        assert_eq!(first.to_string(), "10.9.0.1");
        let second = assign(&[("blocks/3/10.9.0.0_28", b"{")], None).await.unwrap()[0].address;
        assert!(!"10.9.0.0/28".parse::<IpNet>().unwrap().contains(&second), "{second}");
    }

    #[tokio::test]
    async fn an_unreadable_endpoint_is_named_to_who_wants_its_address() {
        let refusal = assign(&[("endpoints/3/10.9.0.7", b"{")], Some("10.9.0.7")).await.unwrap_err();
        assert!(refusal.message.contains("/endpoints/3/10.9.0.7"), "{refusal}");
        assert!(assign(&[("endpoints/3/10.9.0.7", b"{")], Some("10.9.0.8")).await.is_ok());
    }
}
