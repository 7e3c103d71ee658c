//! Hosts that come and go, and the lives of their agents.

use std::{
    net::Ipv4Addr,
    sync::{Arc, LazyLock, PoisonError},
    time::SystemTime,
};

use super::{
    super::{
        edges::{FakeHost, Wire},
        executor::{Owner, step},
        ledger::Live,
    },
    Node, World,
};
use crate::{
    agent::{
        configuration::{Decision, configure, put},
        identity::Identity,
        member::{Member, OpenStore},
        operations::{membership, nodes},
    },
    model::{self, ClusterId},
    store::{StoreUrl, record},
    tls::{Authority, Credentials, NodeNames},
};

/// Nobody in the simulation shows any: one set does for all.
static CREDENTIALS: LazyLock<Arc<Credentials>> = LazyLock::new(|| {
    let names = NodeNames { cluster: "7".into(), node: "any".into(), underlay: Ipv4Addr::LOCALHOST.into() };
    Arc::new(Credentials::make(Authority::make("7").unwrap(), names, SystemTime::UNIX_EPOCH).unwrap())
});

impl World {
    pub(super) fn blank_host(&mut self) -> Node {
        let name = self.fresh_name("node");
        Node {
            underlay: Ipv4Addr::new(192, 0, 2, u8::try_from(self.named % 250 + 1).unwrap()).into(),
            host: Arc::new(FakeHost::new(&self.dice)),
            wire: Arc::new(Wire::new(&self.store, &self.dice, &self.touched)),
            identity: None,
            member: None,
            is_joining: false,
            crashes: Arc::default(),
            damages: Arc::default(),
            name,
        }
    }

    /// Starts the agent of a host, unless it runs; one that belongs to no cluster joins.
    pub(super) fn start(&mut self, index: Owner) {
        let node = &mut self.nodes[index];
        if node.member.is_some() || node.is_joining {
            return;
        }
        let Some(identity) = node.identity.clone() else { return self.join(index) };
        self.ledger.log(format!("{} starts", node.name));
        let opened = OpenStore { store: Arc::<Wire>::clone(&node.wire), embedded: None };
        let host = Arc::<FakeHost>::clone(&node.host);
        let (member, tasks) = Member::assemble(identity, Arc::clone(&CREDENTIALS), opened, host, &self.metrics);
        node.member = Some(member);
        for task in tasks {
            self.executor.spawn(index, None, task);
        }
    }

    fn join(&mut self, index: Owner) {
        let node = &mut self.nodes[index];
        node.is_joining = true;
        let (store, name, underlay) = (Arc::clone(&node.wire), node.name.parse().unwrap(), node.underlay);
        let joined = Arc::clone(&self.joined);
        self.operate(index, format!("join of {name}"), async move {
            let written = configure(&*store, |fresh| {
                let node = membership::newcomer(&fresh.cluster, &name, underlay)?;
                let write = put(record::key_of_node(node.id), record::encode_node(&node));
                Ok(Decision::Write(vec![write], node))
            });
            let written = written.await;
            // An agent may die before its identity is on disk.
            step().await;
            let found = written.as_ref().ok().map(|(node, _)| identity(node));
            joined.lock().unwrap_or_else(PoisonError::into_inner).push((index, found));
            written.map(|_| ())
        });
    }

    /// Starts the agents that have just joined; a host whose joining failed tries again under another name.
    pub(super) fn welcome(&mut self) {
        let joined = std::mem::take(&mut *self.joined.lock().unwrap_or_else(PoisonError::into_inner));
        for (index, identity) in joined {
            self.nodes[index].is_joining = false;
            self.nodes[index].identity = identity;
            if self.nodes[index].identity.is_none() {
                self.forsake(index);
            }
            self.start(index);
        }
    }

    /// A new host in place of one that nobody will hear of again.
    fn forsake(&mut self, index: Owner) {
        let blank = self.blank_host();
        let old = std::mem::replace(&mut self.nodes[index], blank);
        self.lost.push(old.name);
    }

    pub(super) fn crash_or_start(&mut self, index: Owner) {
        if self.nodes[index].member.is_none() {
            return self.start(index);
        }
        self.crash(index);
    }

    fn crash(&mut self, index: Owner) {
        let lost = self.executor.kill(index);
        let node = &mut self.nodes[index];
        node.member = None;
        *node.crashes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.ledger.log(format!("{} crashes; lost: {lost:?}", node.name));
        if std::mem::take(&mut node.is_joining) {
            self.forsake(index);
        }
    }

    /// The host is gone for good, with its kernel and its disk.
    pub(super) fn lose_host(&mut self, index: Owner) {
        if self.nodes[index].identity.is_none() || self.nodes.iter().filter(|node| node.member.is_some()).count() < 2 {
            return;
        }
        self.crash(index);
        self.ledger.log(format!("{} is gone for good", self.nodes[index].name));
        let mut told = self.ledger.told();
        let gone: Vec<Live> = told.live.extract_if(.., |_, live| live.owner == index).map(|(_, live)| live).collect();
        told.doubtful.extend(gone.into_iter().map(|live| live.name));
        drop(told);
        self.forsake(index);
    }

    pub(super) fn remove_lost(&mut self, index: Owner) {
        let Some(member) = self.member(index) else { return };
        let Some(name) = self.dice.pick(self.lost.clone()) else { return };
        self.operate(index, format!("node rm {name}"), async move { nodes::remove(&member, &name).await });
    }
}

pub(super) fn identity(node: &model::Node) -> Identity {
    Identity {
        cluster: ClusterId(7),
        node: node.id,
        name: node.name.clone(),
        underlay: node.underlay,
        store: StoreUrl::member("192.0.2.1:7780".to_owned()),
    }
}
