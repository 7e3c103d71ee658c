//! What holds for the whole cluster.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Record, VERSION, check_prefix};
use crate::model::ClusterSettings;

#[derive(Serialize, Deserialize)]
pub(in super::super) struct ClusterRecord {
    v: u32,
    id: String,
    vxlan_port: u16,
    vni: u32,
    #[serde(default)]
    pools: Vec<IpNet>,
}

impl From<&ClusterSettings> for ClusterRecord {
    fn from(settings: &ClusterSettings) -> Self {
        let ClusterSettings { id, vxlan_port, vni, pools } = settings;
        Self { v: VERSION, id: id.to_string(), vxlan_port: *vxlan_port, vni: *vni, pools: pools.clone() }
    }
}

impl Record for ClusterRecord {
    type Model = ClusterSettings;

    const KIND: &'static str = "cluster";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<ClusterSettings, String> {
        let Self { v: _, id, vxlan_port, vni, pools } = self;
        if vxlan_port == 0 {
            return Err("0 is not a UDP port".to_owned());
        }
        // RFC 7348, 5: the identifier has 24 bits.
        if vni >= 1 << 24 {
            return Err(format!("the VNI {vni} has more than 24 bits"));
        }
        pools.iter().try_for_each(|pool| check_prefix(*pool))?;
        Ok(ClusterSettings { id: id.parse()?, vxlan_port, vni, pools })
    }
}

#[derive(Serialize, Deserialize)]
pub(in super::super) struct GenerationRecord {
    v: u32,
    generation: u64,
}

impl GenerationRecord {
    pub(in super::super) fn new(generation: u64) -> Self {
        Self { v: VERSION, generation }
    }
}

impl Record for GenerationRecord {
    type Model = u64;

    const KIND: &'static str = "generation";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<u64, String> {
        Ok(self.generation)
    }
}
