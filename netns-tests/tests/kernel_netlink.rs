//! The rtnetlink edge against the real kernel: each row goes in, is seen by the `ip` and `bridge` tools, is observed as it was
//! wanted, goes in again, and goes out again; what is not ours stays and is not seen.

#[cfg(test)]
#[path = "kernel_netlink/drift.rs"]
mod drift;
#[cfg(test)]
#[path = "kernel_netlink/host.rs"]
mod host;
#[cfg(test)]
#[path = "kernel_netlink/pair.rs"]
mod pair;
#[cfg(test)]
#[path = "kernel_netlink/resolver.rs"]
mod resolver;
#[cfg(test)]
#[path = "kernel_netlink/routes.rs"]
mod routes;
#[cfg(test)]
#[path = "kernel_netlink/rows.rs"]
mod rows;
#[cfg(test)]
#[path = "kernel_netlink/socket.rs"]
mod socket;
#[cfg(test)]
#[path = "kernel_netlink/support.rs"]
mod support;
