//! The simulated cluster: hosts, the store that they share, and what happens to them.

mod faults;
mod hosts;
mod people;
mod rest;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};

use self::hosts::identity;
use super::{
    dice::Dice,
    edges::{FakeHost, Touched, Wire},
    executor::{Executor, Owner},
    laws,
    ledger::{Ledger, Live},
};
use crate::{
    agent::{
        identity::Identity,
        member::Member,
        metrics::Metrics,
        operations::{founding, membership},
    },
    api::{Refusal, RefusalKind},
    model::{Cluster, ClusterId, ClusterSettings, JoinToken},
    store::{Revision, Store as _, Watch, memory::MemoryStore, record},
};

/// Namespaces of one host; some attaches share one with different devices.
const NAMESPACES: usize = 6;
/// Steps between two changes of fortune, at most.
const STRIDE_MAX: usize = 12;

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
        let token = JoinToken { hash: [1; 32], sealed: vec![2] };
        founding::begin(&*world.store, &settings, &me, &token).now_or_never().unwrap().unwrap();
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
