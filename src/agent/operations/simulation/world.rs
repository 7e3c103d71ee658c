//! The simulated cluster: hosts, the store that they share, and what happens to them.

mod faults;
mod people;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};

use super::{
    dice::Dice,
    edges::{FakeHost, Touched, Wire},
    executor::{Executor, Owner, step},
    laws,
    ledger::{Ledger, Live},
};
use crate::{
    agent::{
        configuration::{Decision, configure, put},
        identity::{Identity, StoreUrl},
        member::{Member, OpenStore},
        metrics::Metrics,
        operations::{founding, membership, nodes},
    },
    api::{Refusal, RefusalKind},
    kernel::Faults,
    model::{self, Cluster, ClusterId, ClusterSettings},
    peer::Token,
    store::{Revision, Store as _, Watch, memory::MemoryStore, record},
};

/// Namespaces of one host; some attaches share one with different devices.
const NAMESPACES: usize = 6;
/// Steps between two changes of fortune, at most.
const STRIDE_MAX: usize = 12;
/// Time in which everything must come to rest: the longest retry is 5 s, the longest wait of an operation 15 s, and an
/// operation may wait for a few of them one after the other.
const REST_MAX: Duration = Duration::from_mins(3);
/// The least time that counts as rest: a periodic look (10 s) has found nothing to do.
const REST_MIN: Duration = Duration::from_secs(12);
/// Steps without time passing after which nobody will ever rest.
const STEPS_MAX: usize = 200_000;

/// How each attempt to join ended, until somebody looks.
type Joined = Arc<Mutex<Vec<(Owner, Option<Identity>)>>>;

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) store: Arc<MemoryStore>,
    pub(super) nodes: Vec<Node>,
    pub(super) ledger: Ledger,
    executor: Executor,
    touched: Touched,
    /// The store's records, followed.
    pub(super) seen: record::State,
    watch: Watch,
    metrics: Arc<Metrics>,
    joined: Joined,
    /// Nodes whose records are to be removed: their hosts are lost, or their joining failed.
    lost: Vec<String>,
    named: usize,
    /// Part of a second that the store has not been told of, in milliseconds.
    rest_ms: u64,
}

/// One host, with or without a running agent.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) host: Arc<FakeHost>,
    /// The agent's memory.
    pub(super) member: Option<Arc<Member>>,
    wire: Arc<Wire>,
    /// The agent's disk.
    identity: Option<Identity>,
    underlay: IpAddr,
    is_joining: bool,
    /// How often its agent has died.
    crashes: Arc<Mutex<u64>>,
    /// How often its kernel was damaged.
    damages: Arc<Mutex<u64>>,
}

impl World {
    /// A cluster of one, and hosts that may join it.
    pub(super) fn new(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let store = Arc::default();
        let (records, watch) = follow(&store);
        let mut world = Self {
            store,
            seen: records,
            watch,
            nodes: Vec::new(),
            ledger: Ledger::default(),
            executor: Executor::default(),
            touched: Touched::default(),
            metrics: Arc::new(Metrics::new().unwrap()),
            joined: Arc::default(),
            lost: Vec::new(),
            named: 0,
            rest_ms: 0,
            dice,
        };
        for _ in 0..3 + world.dice.below(6) {
            let host = world.blank_host();
            world.nodes.push(host);
        }
        let settings = ClusterSettings {
            id: ClusterId(7),
            vxlan_port: 7789,
            vni: 7789,
            pools: vec!["10.201.0.0/16".parse().unwrap(), "fd01:2345:6789::/48".parse().unwrap()],
        };
        let first = &world.nodes[0];
        let me = membership::newcomer(&Cluster::empty(settings.clone()), &first.name.parse().unwrap(), first.underlay)
            .unwrap();
        founding::begin(&*world.store, &settings, &me).now_or_never().unwrap().unwrap();
        world.nodes[0].identity = Some(identity(&me));
        world.start(0);
        world
    }

    /// Lives through good and bad days, and rests after each.
    pub(super) async fn live(&mut self) -> Result<(), String> {
        for day in 1..=3 {
            self.ledger.log(format!("day {day}"));
            for _ in 0..60 {
                self.act().await;
                for _ in 0..self.dice.below(STRIDE_MAX) {
                    if !self.executor.step(&self.dice) {
                        break;
                    }
                    self.welcome();
                    self.check()?;
                }
            }
            self.rest().await?;
            laws::check_at_rest(self)?;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        if !self.touched.take() {
            return Ok(());
        }
        self.follow();
        laws::check_always(self)
    }

    /// Brings what is seen of the store up to date.
    fn follow(&mut self) {
        loop {
            match self.watch.next().now_or_never() {
                Some(Some(Ok(changes))) => self.seen.apply(&changes),
                Some(_) => (self.seen, self.watch) = follow(&self.store),
                None => return,
            }
        }
    }

    /// Ends all faults, brings every agent back, and waits until there is nothing left to do.
    async fn rest(&mut self) -> Result<(), String> {
        self.ledger.log("rest");
        for index in 0..self.nodes.len() {
            self.nodes[index].wire.heal();
            self.nodes[index].host.kernel.set_faults(Faults::None);
            self.nodes[index].host.kernel.fail_observations(0);
            self.nodes[index].host.sicken(0);
            self.nodes[index].host.isolate(0);
            self.start(index);
        }
        let mut rested = Duration::ZERO;
        loop {
            let mut steps = 0;
            while self.executor.step(&self.dice) {
                self.welcome();
                self.check()?;
                steps += 1;
                if steps > STEPS_MAX {
                    return Err("the agents never come to rest".to_owned());
                }
            }
            let restless = self.restless();
            match restless {
                None if rested >= REST_MIN => return self.stay_quiet().await,
                Some(why) if rested >= REST_MAX => return Err(format!("no rest after {REST_MAX:?}: {why}")),
                _ => {}
            }
            self.pass_time(500).await;
            rested += Duration::from_millis(500);
        }
    }

    /// Nobody writes into the store of a cluster in which nothing happens: no report leads to the next.
    async fn stay_quiet(&mut self) -> Result<(), String> {
        let before = self.revision();
        for _ in 0..24 {
            self.pass_time(500).await;
            while self.executor.step(&self.dice) {}
        }
        match self.revision() - before {
            0 => Ok(()),
            writes => Err(format!("{writes} writes within 12 s of a cluster at rest")),
        }
    }

    /// What keeps the cluster from rest.
    fn restless(&self) -> Option<String> {
        if let Some(operation) = self.executor.operations().next() {
            return Some(format!("{operation} has not ended"));
        }
        let snapshot = self.store.snapshot(record::PREFIX).now_or_never()?.ok()?;
        for node in &self.nodes {
            let Some(member) = &node.member else { continue };
            let alive = record::key_of_alive(member.me());
            if !snapshot.entries.iter().any(|entry| entry.key == alive) {
                return Some(format!("{} gives no sign of life", node.name));
            }
            let Some(pass) = member.reconciler.last_pass() else {
                return Some(format!("{} has never looked at its kernel", node.name));
            };
            if Revision(pass.revision) < snapshot.revision {
                return Some(format!("{} is behind the store", node.name));
            }
            if let Some(failure) = pass.failures.first() {
                return Some(format!("{}: {}", node.name, failure.message));
            }
            if let Some(silent) = member.judgement().silent.first() {
                return Some(format!("{} takes {silent:?} for silent", node.name));
            }
            let cluster = member.cluster()?;
            let is_sick = |state| matches!(state, model::EndpointState::Starting | model::EndpointState::Unhealthy);
            if let Some(sick) = cluster.endpoints_on(member.me()).find(|each| is_sick(each.state)) {
                return Some(format!("{} of {} is {}", sick.name, node.name, sick.state.as_str()));
            }
            if let Some(bereft) = pass.bereft.first() {
                return Some(format!("{}: {bereft} has no namespace", node.name));
            }
        }
        None
    }

    async fn pass_time(&mut self, milliseconds: u64) {
        tokio::time::advance(Duration::from_millis(milliseconds)).await;
        self.rest_ms += milliseconds;
        let seconds = self.rest_ms / 1000;
        self.rest_ms %= 1000;
        self.store.advance(u32::try_from(seconds).unwrap());
    }

    /// Something happens.
    async fn act(&mut self) {
        let index = self.dice.below(self.nodes.len());
        match self.dice.below(100) {
            11..13 => self.disturb_probes(index),
            13..15 => self.change_check(index),
            0..11 => {
                let milliseconds = self.dice.pick([10, 100, 500, 1000, 3000, 12_000]).unwrap();
                self.ledger.log(format!("{milliseconds} ms pass"));
                self.pass_time(milliseconds).await;
            }
            // Several at once, on the same node and on others.
            15..37 => (0..=self.dice.below(5)).for_each(|_| self.attach(self.dice.below(self.nodes.len()))),
            37..39 => self.drain(index),
            39 => self.connect(),
            40..51 => (0..=self.dice.below(3)).for_each(|_| self.detach(self.dice.below(self.nodes.len()))),
            51..56 => self.create_network(index),
            56..58 => self.remove_network(index),
            58..63 => self.create_service(index),
            63..66 => self.update_service(index),
            66..68 => self.remove_service(index),
            68..71 => self.set_availability(index),
            71..78 => self.crash_or_start(index),
            78..83 => self.disturb_store(index),
            83..87 => self.disturb_kernel(index),
            87..90 => self.damage(index),
            90..92 => self.end_namespace(index),
            92..94 => self.end_leases(),
            94..96 => self.store.compact(Revision(self.revision())),
            96..98 => self.lose_host(index),
            _ => self.remove_lost(index),
        }
    }

    fn revision(&self) -> u64 {
        self.store.snapshot(record::PREFIX).now_or_never().unwrap().unwrap().revision.0
    }

    fn fresh_name(&mut self, kind: &str) -> String {
        self.named += 1;
        format!("{kind}{}", self.named)
    }

    fn blank_host(&mut self) -> Node {
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
    fn start(&mut self, index: Owner) {
        let node = &mut self.nodes[index];
        if node.member.is_some() || node.is_joining {
            return;
        }
        let Some(identity) = node.identity.clone() else { return self.join(index) };
        self.ledger.log(format!("{} starts", node.name));
        let opened = OpenStore { store: Arc::<Wire>::clone(&node.wire), embedded: None };
        let host = Arc::<FakeHost>::clone(&node.host);
        let (member, tasks) = Member::assemble(identity, opened, host, &self.metrics);
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
    fn welcome(&mut self) {
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

    fn crash_or_start(&mut self, index: Owner) {
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
    fn lose_host(&mut self, index: Owner) {
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

    fn remove_lost(&mut self, index: Owner) {
        let Some(member) = self.member(index) else { return };
        let Some(name) = self.dice.pick(self.lost.clone()) else { return };
        self.operate(index, format!("node rm {name}"), async move { nodes::remove(&member, &name).await });
    }

    fn member(&self, index: Owner) -> Option<Arc<Member>> {
        self.nodes[index].member.clone().filter(|member| member.cluster().is_some())
    }

    /// Lets an agent do something that somebody asked of it.
    fn operate(
        &mut self,
        index: Owner,
        what: String,
        work: impl Future<Output = Result<(), Refusal>> + Send + 'static,
    ) {
        let what = format!("{what} on {}", self.nodes[index].name);
        self.ledger.log(format!("{what} begins"));
        let (ledger, told, touched) = (self.ledger.clone(), what.clone(), self.touched.clone());
        let work = async move {
            let done = work.await;
            touched.set();
            match done {
                Ok(()) => ledger.log(format!("{told}: done")),
                Err(refusal) => ledger.log(format!("{told}: {refusal}")),
            }
        };
        self.executor.spawn(index, Some(what), Box::pin(work));
    }

    /// Lets an agent remove something; without a plain answer nobody knows how far it came.
    fn remove(&mut self, index: Owner, what: String, work: impl Future<Output = Result<(), Refusal>> + Send + 'static) {
        let told = self.fresh_name("removal");
        self.ledger.told().unsure.insert(told.clone());
        let ledger = self.ledger.clone();
        self.operate(index, what, async move {
            let done = work.await;
            let is_plain = match done.as_ref().map_err(|refusal| refusal.kind) {
                Ok(()) | Err(RefusalKind::Conflict | RefusalKind::NotFound) => true,
                Err(RefusalKind::Unavailable | RefusalKind::Internal | RefusalKind::Invalid) => false,
            };
            if is_plain {
                ledger.told().unsure.remove(&told);
            }
            done
        });
    }
}

fn follow(store: &MemoryStore) -> (record::State, Watch) {
    let snapshot = store.snapshot(record::PREFIX).now_or_never().unwrap().unwrap();
    let watch = store.watch(record::PREFIX, snapshot.revision).now_or_never().unwrap().unwrap();
    (record::State::from_snapshot(&snapshot), watch)
}

fn identity(node: &model::Node) -> Identity {
    Identity {
        cluster: ClusterId(7),
        node: node.id,
        name: node.name.clone(),
        underlay: node.underlay,
        store: StoreUrl::Etcd(vec!["192.0.2.1:7780".to_owned()]),
        cluster_key: vec![1],
        token: Token::new(&[1], [2; 20]),
    }
}
