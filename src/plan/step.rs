use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Attachment, Chain, ChainName, LinkName, Mac, PolicyRule, Route, RouteTable, SetKey, SetName, SetValue, Sysctl, Vtep,
};

/// One thing to do to the kernel. Every step is idempotent: `Put` replaces what is there, `Delete` of what is not there
/// succeeds. A step that fails leaves things as they were, and the next pass plans it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write a kernel setting.
    PutSysctl(Sysctl, String),
    /// Make the tunnel device and set it up; one of another identity that has its name is replaced, one of the same gets its
    /// MTU and address in place.
    CreateVtep(Vtep),
    /// Change the tunnel device's MTU (bytes).
    SetVtepMtu(u32),
    /// Remove the tunnel device; its forwarding entries, neighbours and routes go with it.
    DeleteVtep,
    /// Send frames for a VTEP to an underlay address.
    PutFdb(Mac, IpAddr),
    /// Forget a VTEP.
    DeleteFdb(Mac),
    /// Resolve a gateway to a VTEP, permanently.
    PutNeighbour(IpAddr, Mac),
    /// Forget a gateway.
    DeleteNeighbour(IpAddr),
    /// Set the one route to a prefix in a table.
    PutRoute(RouteTable, IpNet, Route),
    /// Remove our route to a prefix in a table.
    DeleteRoute(RouteTable, IpNet),
    /// Add a policy rule.
    AddPolicy(PolicyRule),
    /// Remove a policy rule.
    DeletePolicy(PolicyRule),
    /// Make a veth pair: host side up; container side named, addressed, up, with its default routes. The alias is written last.
    CreateLink(LinkName, Attachment),
    /// Give the living pair ([`Attachment::is_same_pair`]) this MTU on both sides and this path in its alias. Its connections
    /// go on. One that fails midway leaves a pair that is observed with an MTU nobody wants, and so is planned again.
    UpdateLink(LinkName, Attachment),
    /// Remove a veth pair, both sides.
    DeleteLink(LinkName),
    /// Change the table in one transaction: all of it or nothing.
    ChangeRuleset(Vec<NftChange>),
}

/// One change within a transaction on the table `inet weft`, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftChange {
    /// Make the table, if it is not there.
    AddTable,
    /// Make a set or map, empty.
    AddSet(SetName),
    /// Make a chain, empty, with its hook if it has one.
    AddChain(ChainName),
    /// Give a chain exactly these rules instead of those it has.
    SetRules(ChainName, Chain),
    /// Add elements that are not there.
    AddElements(SetName, Vec<(SetKey, SetValue)>),
    /// Remove elements that are there.
    DeleteElements(SetName, Vec<(SetKey, SetValue)>),
    /// Remove a chain that no rule and no element points to, with its rules.
    DeleteChain(ChainName),
    /// Remove a set that no rule uses.
    DeleteSet(SetName),
    /// Remove the table and all in it.
    DeleteTable,
}
