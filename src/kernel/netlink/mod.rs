//! The kernel's network by rtnetlink(7): devices, forwarding entries, neighbours, routes, policy rules.
//!
//! **How it lives.** [`Rtnetlink`] has one socket with one thread that drives it, which ends when it is dropped; nothing is kept in
//! the process that a restart could lose. It speaks for the network namespace of the thread that opened it. A step that
//! is dropped midway may be done all the same, and a veth pair half made, which the next look shows. [`Changes`] has a
//! socket of its own and neither thread nor task.
//!
//! **What is odd.** A row that is ours by its place but not as we make them must neither look right nor stay unseen. It is
//! reported under its key with a value that nobody wants, so that the plan puts the right one or removes it: a tunnel
//! device with a VNI of more than 24 bits; a forwarding entry or route to `0.0.0.0`; a neighbour with the MAC
//! `00:00:00:00:00:00`; a policy rule `goto 0`; a veth attached to no
//! namespace. A pair whose MTU is not certain has the MTU 0, so that it is mended as it lives.

mod link;
mod neighbour;
mod notify;
mod pair;
mod route;
mod rule;
mod socket;
mod underlay;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use self::{
    route::Strays,
    socket::{Refusal, Socket},
};
use super::KernelError;
use crate::{
    model::{HostState, LinkName, Mac, VTEP_LINK},
    plan::Step,
};

pub use self::{notify::Changes, route::ROUTE_METRIC, underlay::LocalPrefix};

/// The rtnetlink part of the kernel, in the network namespace of the thread that opened it.
pub struct Rtnetlink {
    socket: Socket,
    seen: Mutex<Seen>,
    /// The devices that the way to the other nodes was found to lead over; [`Changes`] heeds them whatever their kind.
    underlay: Arc<Mutex<BTreeSet<u32>>>,
}

/// What the last look found that later steps need. Losing it costs nothing but a look.
#[derive(Default)]
struct Seen {
    /// The index of the tunnel device, which most rows name. The kernel does not give an index to another device soon
    /// (`dev_index_reserve` counts upwards), so that an old one is refused and never names a wrong device.
    vtep: Option<u32>,
    /// What a mere replace would not bring to order; the step that concerns it removes it.
    stray_routes: Strays,
    odd_forwarding: BTreeSet<Mac>,
}

impl Rtnetlink {
    /// Opens it in the calling thread's network namespace; the threads that use it need not be there. Changes need
    /// `CAP_NET_ADMIN`, veth pairs `CAP_SYS_ADMIN` too.
    pub fn open() -> Result<Self, KernelError> {
        let socket = Socket::open().map_err(|error| KernelError::new("open an rtnetlink socket", error))?;
        Ok(Self { socket, seen: Mutex::default(), underlay: Arc::default() })
    }

    /// All rows of ours but settings and the rule set, which are left empty.
    pub async fn observe(&self) -> Result<HostState, KernelError> {
        let fail =
            |what: &'static str| move |refusal: Refusal| KernelError::new(format!("read the kernel's {what}"), refusal);
        let links = link::all(&self.socket).await.map_err(fail("devices"))?;
        let names: HashMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
        let vtep = links.iter().find(|link| link.name == VTEP_LINK);
        let (fdb, neighbours) = match vtep {
            Some(vtep) => (
                neighbour::forwarding_entries(&self.socket, vtep.index).await.map_err(fail("forwarding entries"))?,
                neighbour::permanent_neighbours(&self.socket, vtep.index).await.map_err(fail("neighbours"))?,
            ),
            None => (BTreeMap::new(), BTreeMap::new()),
        };
        let (routes, stray_routes) = route::ours(&self.socket, &names).await.map_err(fail("routes"))?;
        let odd_forwarding =
            fdb.iter().filter(|(_, underlay)| **underlay == neighbour::NO_UNDERLAY).map(|(mac, _)| *mac).collect();
        let (address, address6) = match vtep {
            Some(vtep) => self.vtep_addresses(vtep.index).await.map_err(fail("addresses"))?,
            None => (Ipv4Addr::UNSPECIFIED, None),
        };
        *self.seen() = Seen { vtep: vtep.map(|vtep| vtep.index), stray_routes, odd_forwarding };
        Ok(HostState {
            vtep: vtep.map(|vtep| vtep.vtep(address, address6)),
            fdb,
            neighbours,
            routes,
            policy: rule::ours(&self.socket).await.map_err(fail("policy rules"))?,
            links: links
                .iter()
                .filter_map(|link| Some((LinkName::from_kernel(&link.name)?, link.attachment())))
                .collect(),
            ..HostState::default()
        })
    }

    /// Does one step that is rtnetlink's; the others are refused.
    pub async fn apply(&self, step: &Step) -> Result<(), KernelError> {
        match step {
            Step::CreateVtep(vtep) => self.create_vtep(*vtep).await,
            Step::SetVtepMtu(mtu) => self.set_vtep_mtu(*mtu).await,
            Step::DeleteVtep => self.delete_link(VTEP_LINK).await,
            Step::PutFdb(mac, underlay) => self.put_fdb(*mac, *underlay).await,
            Step::DeleteFdb(mac) => self.delete_fdb(*mac).await,
            Step::PutNeighbour(gateway, mac) => self.put_neighbour(*gateway, *mac).await,
            Step::DeleteNeighbour(gateway) => self.delete_neighbour(*gateway).await,
            Step::PutRoute(table, prefix, route) => self.put_route(*table, *prefix, route).await,
            Step::DeleteRoute(table, prefix) => self.delete_route(*table, *prefix).await,
            Step::AddPolicy(rule) => self.add_policy(*rule).await,
            Step::DeletePolicy(rule) => self.delete_policy(*rule).await,
            Step::CreateLink(name, attachment) => self.create_link(name, attachment).await,
            Step::UpdateLink(name, attachment) => self.update_link(name, attachment).await,
            Step::DeleteLink(name) => self.delete_link(name.as_str()).await,
            Step::PutSysctl(..) | Step::ChangeRuleset(_) => {
                Err(KernelError::new(format!("do {step:?}"), "it is not a matter of rtnetlink"))
            }
        }
    }

    /// The index of a device; nothing if there is none of this name.
    async fn index_of(&self, name: &str) -> Result<Option<u32>, Refusal> {
        Ok(link::by_name(&self.socket, name).await?.map(|link| link.index))
    }

    /// The index of the tunnel device; nothing if there is none.
    async fn vtep_index(&self) -> Result<Option<u32>, Refusal> {
        let known = self.seen().vtep;
        if known.is_some() {
            return Ok(known);
        }
        let index = self.index_of(VTEP_LINK).await?;
        self.seen().vtep = index;
        Ok(index)
    }

    /// The index of the tunnel device, without which `action` cannot be done.
    async fn need_vtep(&self, action: &str) -> Result<u32, KernelError> {
        match self.vtep_index().await {
            Ok(Some(index)) => Ok(index),
            Ok(None) => Err(KernelError::new(action, format!("there is no tunnel device {VTEP_LINK}"))),
            Err(refusal) => Err(KernelError::new(action, refusal)),
        }
    }

    /// Changes rows that may name the tunnel device; the result is that of the last. If the kernel knows no such device, its
    /// index is looked up anew the next time.
    async fn change_rows(&self, requests: impl IntoIterator<Item = (RouteNetlinkMessage, u16)>) -> Result<(), Refusal> {
        let last = self.socket.change_each(requests).await.pop().unwrap_or(Ok(()));
        if last.as_ref().is_err_and(|refusal| refusal.is(Errno::ENODEV)) {
            self.seen().vtep = None;
        }
        last
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Each change of it is one assignment: a panic elsewhere does not spoil it.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
