//! Devices and what hangs on them.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    model::{Attachment, HostState, IPV6_MTU_MIN, LinkName, NextHop, Sysctl, VTEP_LINK},
    plan::Step,
};

/// Does a step that does not concern the table.
pub(super) fn apply(state: &mut HostState, live_namespaces: Option<&BTreeSet<u64>>, step: &Step) -> Result<(), String> {
    match step {
        Step::PutSysctl(sysctl, value) => {
            if let Some(device) = device_of(sysctl) {
                let exists = if device == VTEP_LINK {
                    state.vtep.is_some()
                } else {
                    state.links.keys().any(|name| name.as_str() == device)
                };
                require(exists, || format!("/proc/sys/{} does not exist: there is no device {device}", sysctl.0))?;
            }
            state.sysctls.insert(sysctl.clone(), value.clone());
        }
        Step::CreateVtep(vtep) => {
            let identity = |vtep: &crate::model::Vtep| (vtep.mac, vtep.vni, vtep.port, vtep.local);
            if state.vtep.as_ref().is_none_or(|present| identity(present) != identity(vtep)) {
                drop_vtep(state);
            }
            state.vtep = Some(*vtep);
        }
        Step::SetVtepMtu(mtu) => state.vtep.as_mut().ok_or_else(no_vtep)?.mtu = *mtu,
        Step::DeleteVtep => drop_vtep(state),
        Step::PutFdb(mac, underlay) => {
            require(state.vtep.is_some(), no_vtep)?;
            state.fdb.insert(*mac, *underlay);
        }
        Step::DeleteFdb(mac) => _ = state.fdb.remove(mac),
        Step::PutNeighbour(gateway, mac) => {
            require(state.vtep.is_some(), no_vtep)?;
            state.neighbours.insert(*gateway, *mac);
        }
        Step::DeleteNeighbour(gateway) => _ = state.neighbours.remove(gateway),
        Step::PutRoute(table, prefix, route) => {
            match &route.next_hop {
                NextHop::Tunnel(gateway) => {
                    require(state.vtep.is_some(), no_vtep)?;
                    // A kernel takes the route and drops the packets.
                    require(state.neighbours.contains_key(gateway), || {
                        format!("nobody resolves the gateway {gateway}")
                    })?;
                }
                NextHop::TunnelLink => require(state.vtep.is_some(), no_vtep)?,
                NextHop::Link(name) => {
                    require(state.links.contains_key(name), || format!("there is no device {name}"))?;
                }
                // There is always a `lo`.
                NextHop::Local | NextHop::Unreachable => {}
            }
            state.routes.insert((*table, *prefix), route.clone());
        }
        Step::DeleteRoute(table, prefix) => _ = state.routes.remove(&(*table, *prefix)),
        Step::AddPolicy(rule) => _ = state.policy.insert(*rule),
        Step::DeletePolicy(rule) => _ = state.policy.remove(rule),
        Step::CreateLink(name, attachment) => {
            require_alive(live_namespaces, attachment)?;
            require_ipv6_mtu(attachment)?;
            match state.links.get(name) {
                Some(present) if present == attachment => return Ok(()),
                Some(_) => return Err(format!("there is a device {name} already")),
                None => {}
            }
            let place = (attachment.netns.inode, &attachment.ifname);
            let is_taken = state.links.values().any(|link| (link.netns.inode, &link.ifname) == place);
            require(!is_taken, || format!("{} has a device {} already", attachment.netns.path, attachment.ifname))?;
            state.links.insert(name.clone(), attachment.clone());
        }
        Step::UpdateLink(name, attachment) => {
            require_alive(live_namespaces, attachment)?;
            let present = state.links.get_mut(name).ok_or_else(|| format!("there is no device {name}"))?;
            require(present.is_same_pair(attachment), || format!("the device {name} is another pair"))?;
            require_ipv6_mtu(attachment)?;
            *present = attachment.clone();
        }
        Step::DeleteLink(name) => drop_link(state, name),
        Step::ChangeRuleset(_) => return Err("this is no step for rows".to_owned()),
    }
    Ok(())
}

/// Removes a link and all that hangs on it.
pub(super) fn drop_link(state: &mut HostState, name: &LinkName) {
    state.links.remove(name);
    state.routes.retain(|_, route| route.next_hop != NextHop::Link(name.clone()));
    drop_settings(state, name.as_str());
}

/// Removes the tunnel device and all that hangs on it.
fn drop_vtep(state: &mut HostState) {
    state.vtep = None;
    state.fdb.clear();
    state.neighbours.clear();
    state.routes.retain(|_, route| !matches!(route.next_hop, NextHop::Tunnel(_) | NextHop::TunnelLink));
    drop_settings(state, VTEP_LINK);
}

fn drop_settings(state: &mut HostState, device: &str) {
    state.sysctls.retain(|sysctl, _| device_of(sysctl) != Some(device));
}

/// The device of ours that a setting belongs to.
fn device_of(sysctl: &Sysctl) -> Option<&str> {
    sysctl.0.split('/').find(|word| word.starts_with(LinkName::PREFIX))
}

fn no_vtep() -> String {
    format!("there is no device {VTEP_LINK}")
}

fn require_alive(live_namespaces: Option<&BTreeSet<u64>>, attachment: &Attachment) -> Result<(), String> {
    let netns = &attachment.netns;
    require(live_namespaces.is_none_or(|live| live.contains(&netns.inode)), || {
        format!("the namespace {} is gone", netns.path)
    })
}

/// A device with a smaller MTU has no IPv6 at all.
fn require_ipv6_mtu(attachment: &Attachment) -> Result<(), String> {
    let has_ipv6 = attachment.addresses.iter().any(IpAddr::is_ipv6);
    require(!has_ipv6 || attachment.mtu >= IPV6_MTU_MIN, || {
        format!("IPv6 needs an MTU of {IPV6_MTU_MIN} bytes, not {}", attachment.mtu)
    })
}

fn require(holds: bool, otherwise: impl Fn() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
