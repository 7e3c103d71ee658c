//! What every name means to whom: the cluster as a zone of names, and a question's answer from it.
//!
//! A container asks for what it can reach: the names of its own networks, and no others. [`Zone`] is built anew from each
//! cluster, beside the old one, which goes on answering meanwhile. Bytes and sockets are `dns`'s.
//!
//! | name | what it stands for |
//! |---|---|
//! | `SERVICE` | its VIPs; with `--endpoint-mode dnsrr` the replicas that take connections |
//! | `tasks.SERVICE` | the replicas that take connections |
//! | `ENDPOINT` | its addresses, unless it is still starting |
//! | `ALIAS` | all ready endpoints that carry it |
//! | `_PORT._tcp.SERVICE` | SRV: the replicas by name, with the port in the container |
//! | any of them and `.NETWORK` | the same in that network alone |
//!
//! A service goes before an endpoint of the same name, and that before an alias: nobody takes over a name by choosing an alias.
//! A name in several of the asker's networks is the one in the network of the lowest number, so that A and AAAA belong together.

mod answer;
mod reverse;
mod zone;

pub use answer::{Answer, Data, Kind, Question, TTL_S, turn};
pub use zone::Zone;
