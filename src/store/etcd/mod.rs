//! The etcd v3 protocol, both ends of it: [`EtcdClient`] speaks to an etcd cluster or to another node's agent, and
//! [`EtcdServer`] serves an embedded store to other nodes and to `etcdctl`.
//!
//! The messages are written by hand and the services without generated code, so that no `protoc` is needed to build. gRPC and
//! protobuf are named in this folder only.

mod client;
mod convert;
mod kv;
mod lease;
mod messages;
mod rpc;
mod server;
mod watch;

pub use client::EtcdClient;
pub use server::EtcdServer;
