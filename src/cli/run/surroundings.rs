//! What a command finds about its network: resolver, hosts, links.

use std::{collections::BTreeMap, fmt::Write, fs, net::IpAddr};

use super::links::Link;
use crate::{
    api::wire::EndpointView,
    cli::{
        exec::Files,
        resolver::{RESOLV_CONF, resolv_conf},
    },
};

/// A command's files and the variables that are added to its environment.
pub(super) struct Surroundings {
    pub(super) files: Files,
    pub(super) environment: BTreeMap<String, String>,
}

impl Surroundings {
    /// Those of a command that is attached as `endpoint`.
    pub(super) fn of(endpoint: &EndpointView, links: &[Link]) -> Self {
        // A host without the file has no domains to complete names with.
        let of_host = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let files = Files { resolv_conf: resolv_conf(&endpoint.resolvers(), &of_host), hosts: hosts(endpoint, links) };
        Self { files, environment: links.iter().flat_map(|link| link.environment(&endpoint.name)).collect() }
    }
}

/// A hosts(5) file. Links come first: the first line that has a name counts, and a link's alias is what the person chose.
fn hosts(endpoint: &EndpointView, links: &[Link]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let mut line = |address: &dyn std::fmt::Display, names: &[&str]| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    };
    for link in links {
        let (vips, names): (&[IpAddr], Vec<&str>) = link.names();
        vips.iter().for_each(|vip| line(vip, &names));
    }
    endpoint.addresses.iter().for_each(|address| line(address, &[&endpoint.name]));
    text
}
