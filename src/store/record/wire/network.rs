//! Networks and their blocks.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Record, VERSION, check_prefix, network_id, node_id, one_per_family, parse_name};
use crate::model::{Block, Network, Subnet};

#[derive(Serialize, Deserialize)]
pub(in super::super) struct NetworkRecord {
    v: u32,
    id: u16,
    name: String,
    subnets: Vec<SubnetRecord>,
    #[serde(default)]
    internal: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct SubnetRecord {
    prefix: IpNet,
    block_len: u8,
}

impl From<&Network> for NetworkRecord {
    fn from(network: &Network) -> Self {
        let Network { id, name, subnets, internal, mtu } = network;
        let subnet = |Subnet { prefix, block_len }: &Subnet| SubnetRecord { prefix: *prefix, block_len: *block_len };
        Self {
            v: VERSION,
            id: id.get(),
            name: name.to_string(),
            subnets: subnets.iter().map(subnet).collect(),
            internal: *internal,
            mtu: *mtu,
        }
    }
}

impl Record for NetworkRecord {
    type Model = Network;

    const KIND: &'static str = "network";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<Network, String> {
        let Self { v: _, id, name, subnets, internal, mtu } = self;
        if subnets.is_empty() {
            return Err("it has no prefix".to_owned());
        }
        one_per_family(subnets.iter().map(|subnet| subnet.prefix.addr()), "prefixes")?;
        for SubnetRecord { prefix, block_len } in &subnets {
            check_prefix(*prefix)?;
            if *block_len < prefix.prefix_len() || *block_len > prefix.max_prefix_len() {
                return Err(format!("{prefix} cannot be cut into blocks of /{block_len}"));
            }
        }
        Ok(Network {
            id: network_id(id)?,
            name: parse_name(&name)?,
            subnets: subnets
                .into_iter()
                .map(|SubnetRecord { prefix, block_len }| Subnet { prefix, block_len })
                .collect(),
            internal,
            mtu,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(in super::super) struct BlockRecord {
    v: u32,
    network: u16,
    prefix: IpNet,
    owner: u16,
}

impl From<&Block> for BlockRecord {
    fn from(block: &Block) -> Self {
        let Block { network, prefix, owner } = block;
        Self { v: VERSION, network: network.get(), prefix: *prefix, owner: owner.get() }
    }
}

impl Record for BlockRecord {
    type Model = Block;

    const KIND: &'static str = "block";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<Block, String> {
        let Self { v: _, network, prefix, owner } = self;
        check_prefix(prefix)?;
        Ok(Block { network: network_id(network)?, prefix, owner: node_id(owner)? })
    }
}
