use serde::{Deserialize, Serialize};

/// What has entered a service at the node that answers, since its agent began. Above some thousand new connections a second a
/// sample.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceTraffic {
    /// The name of the node that counted.
    pub node: String,
    /// By its entrances.
    pub entrances: Vec<EntranceTraffic>,
    /// How often one of its replicas was ejected there.
    pub ejections: u64,
    /// How many drains of its replicas that node has seen begin.
    pub drains: u64,
}

/// What has come by one entrance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EntranceTraffic {
    /// `vip`, a published port such as `80/tcp`, or `80/tcp (proxy)` for what the agent carried of it.
    pub via: String,
    /// Connections begun.
    pub connections: u64,
    /// Bytes in both directions, of those over and those under way: with headers, and 0 where the kernel does not count; for the
    /// proxy without headers, told every few MiB and at the end.
    pub bytes: u64,
}

/// What a replica got from the node that answers, since its agent began.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReplicaTraffic {
    /// Connections begun.
    pub connections: u64,
    /// As [`EntranceTraffic::bytes`].
    pub bytes: u64,
    /// How often it was ejected there.
    pub ejections: u64,
}
