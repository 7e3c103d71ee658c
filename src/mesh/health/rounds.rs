use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::Pulse;
use crate::mesh::source::{GOLDEN, mix};
use crate::model::{Cluster, Endpoint, EndpointId, EndpointState, HealthCheck, L4, NodeId, Service};

/// How often a replica is asked that has not been ready yet, so that it need not wait for its first connections longer than it
/// has to; and how many times, about 10 s: one that takes longer is asked at its check's own pace.
const STARTING_INTERVAL: Duration = Duration::from_millis(200);
const STARTING_TIMES: u32 = 50;

/// The replicas of one node that have a health check, and when each of them is asked.
///
/// Times are counted from whatever moment the caller likes, always the same. A replica is never asked twice at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rounds {
    replicas: BTreeMap<EndpointId, Replica>,
    /// The replicas that are not being asked, by the time at which they are to be.
    due: BTreeSet<(Duration, EndpointId)>,
    /// Those that have no check, and still the state of one that has.
    unchecked: BTreeSet<EndpointId>,
    /// Those whose check has no port to ask.
    portless: BTreeSet<EndpointId>,
    asked_ever: u64,
}

/// A replica to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The replica.
    pub replica: EndpointId,
    /// What is asked, and how long the answer may take.
    pub check: HealthCheck,
    /// Where it is asked: at the replica's address of its network's first family. One state stands for both families, and a
    /// program that listens on one of them alone is no rare thing.
    pub target: SocketAddr,
    /// Tells this question's answer from those to earlier ones.
    ticket: u64,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The replica takes connections.
    Good,
    /// It does not, and what is wrong.
    Bad(String),
    /// It was not asked, for a reason that says nothing about it.
    NotAsked(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Replica {
    check: HealthCheck,
    target: SocketAddr,
    pulse: Pulse,
    /// When it was last asked.
    asked: Duration,
    /// The question that waits for its answer.
    open: Option<u64>,
    /// Whether that question is not the one that would be asked now.
    is_outdated: bool,
    /// When it is to be asked next.
    due: Duration,
    /// Answers so far.
    answers: u32,
    /// What was wrong with the last answer, if it was bad.
    fault: Option<String>,
}

impl Rounds {
    /// Takes over which replicas node `me` has, and how each is checked. One that is new begins in the state that its record
    /// has: what was ready before this agent began stays ready until it fails.
    pub fn follow(&mut self, cluster: &Cluster, me: NodeId, now: Duration) {
        self.unchecked.clear();
        self.portless.clear();
        let mut present = BTreeSet::new();
        for endpoint in cluster.endpoints_on(me).filter(|endpoint| endpoint.state != EndpointState::Draining) {
            // A service that cannot be read may have a check.
            let service = match endpoint.service {
                Some(id) => match cluster.services.get(&id) {
                    Some(service) => Some(service),
                    None => continue,
                },
                None => None,
            };
            let Some((service, check)) = service.and_then(|service| Some((service, service.health.as_ref()?))) else {
                if endpoint.state != EndpointState::Ready {
                    self.unchecked.insert(endpoint.id);
                }
                continue;
            };
            match target(endpoint, service, check) {
                Some(target) => {
                    present.insert(endpoint.id);
                    self.take_up(endpoint, check, target, now);
                }
                None => _ = self.portless.insert(endpoint.id),
            }
        }
        self.replicas.retain(|id, _| present.contains(id));
        self.due.retain(|(_, id)| present.contains(id));
    }

    fn take_up(&mut self, endpoint: &Endpoint, check: &HealthCheck, target: SocketAddr, now: Duration) {
        let id = endpoint.id;
        // Where an agent has just begun, or a service has got another check, many replicas come at once: those that are ready
        // can wait.
        let first = |state| match state {
            EndpointState::Ready => now + part(check.interval, chance(id, 0)),
            EndpointState::Starting | EndpointState::Unhealthy | EndpointState::Draining => now,
        };
        match self.replicas.get_mut(&id) {
            Some(replica) if replica.check == *check && replica.target == target => {}
            Some(replica) => {
                (replica.check, replica.target, replica.answers) = (check.clone(), target, 0);
                if replica.open.is_some() {
                    // Its answer says nothing about the new question, but has to come before that is asked.
                    replica.is_outdated = true;
                    return;
                }
                self.due.remove(&(replica.due, id));
                replica.due = first(replica.pulse.state());
                self.due.insert((replica.due, id));
            }
            None => {
                let due = first(endpoint.state);
                let replica = Replica {
                    check: check.clone(),
                    target,
                    pulse: Pulse::new(endpoint.state),
                    asked: now,
                    open: None,
                    is_outdated: false,
                    due,
                    answers: 0,
                    fault: None,
                };
                self.replicas.insert(id, replica);
                self.due.insert((due, id));
            }
        }
    }

    /// When the next question is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The next question, if one is due by `now`.
    pub fn ask(&mut self, now: Duration) -> Option<Question> {
        let (_, id) = self.due.first().copied().filter(|(due, _)| *due <= now)?;
        self.due.pop_first();
        let replica = self.replicas.get_mut(&id)?;
        self.asked_ever += 1;
        replica.open = Some(self.asked_ever);
        replica.asked = now;
        let (check, target) = (replica.check.clone(), replica.target);
        Some(Question { replica: id, check, target, ticket: self.asked_ever })
    }

    /// The answer to a question. Gives the replica's new state if that has changed by it. Answers to questions that nobody asks
    /// any more are passed over.
    pub fn answer(&mut self, question: &Question, answer: Answer) -> Option<EndpointState> {
        let id = question.replica;
        let replica = self.replicas.get_mut(&id).filter(|replica| replica.open == Some(question.ticket))?;
        let before = replica.pulse.state();
        replica.open = None;
        if std::mem::take(&mut replica.is_outdated) {
            replica.due = replica.asked;
            self.due.insert((replica.due, id));
            return None;
        }
        replica.answers = replica.answers.saturating_add(1);
        (replica.pulse, replica.fault) = match answer {
            Answer::Good => (replica.pulse.after(true, &replica.check), None),
            Answer::Bad(fault) => (replica.pulse.after(false, &replica.check), Some(fault)),
            Answer::NotAsked(fault) => (replica.pulse, Some(fault)),
        };
        let is_young = before == EndpointState::Starting && replica.answers <= STARTING_TIMES;
        let usual = replica.check.interval.max(HealthCheck::INTERVAL_MIN);
        let interval = if is_young { usual.min(STARTING_INTERVAL) } else { usual };
        // A tenth of the interval around it keeps replicas apart that were attached at the same moment.
        replica.due = replica.asked + interval * 19 / 20 + part(interval / 10, chance(id, replica.answers));
        self.due.insert((replica.due, id));
        let after = replica.pulse.state();
        (after != before).then_some(after)
    }

    /// The state that each replica should have in the store, for all about which there is something to say.
    pub fn verdicts(&self) -> BTreeMap<EndpointId, EndpointState> {
        let checked = self.replicas.iter().map(|(id, replica)| (*id, replica.pulse.state()));
        checked.chain(self.unchecked.iter().map(|id| (*id, EndpointState::Ready))).collect()
    }

    /// What is wrong with a replica, if its last answer was bad.
    pub fn fault_of(&self, id: EndpointId) -> Option<&str> {
        self.replicas.get(&id)?.fault.as_deref()
    }

    /// What is wrong with each replica whose last answer was bad, or that cannot be asked.
    pub fn faults(&self) -> BTreeMap<EndpointId, String> {
        let failed = self.replicas.iter().filter_map(|(id, replica)| Some((*id, replica.fault.clone()?)));
        let portless = self
            .portless
            .iter()
            .map(|id| (*id, "its health check has no port to ask: the service publishes no TCP port".to_owned()));
        failed.chain(portless).collect()
    }
}

fn target(endpoint: &Endpoint, service: &Service, check: &HealthCheck) -> Option<SocketAddr> {
    let published = || service.ports.iter().find(|port| port.protocol == L4::Tcp).map(|port| port.target);
    let port = check.port.or_else(published)?;
    Some(SocketAddr::new(*endpoint.addresses.first()?, port.get()))
}

/// A number that follows from a replica and a turn, evenly spread: chance enough to keep questions apart.
fn chance(id: EndpointId, turn: u32) -> u16 {
    let [low, high, ..] = mix(id.0 ^ u64::from(turn).wrapping_mul(GOLDEN)).to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// So many 65,536ths of a span.
fn part(span: Duration, chance: u16) -> Duration {
    span * u32::from(chance) / (1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ClusterId, ClusterSettings, Name, NetnsRef, Network, NetworkId, Probe, PublishedPort, ServiceId, Subnet,
    };
    use EndpointState::{Draining, Ready, Starting, Unhealthy};

    const INTERVAL: Duration = Duration::from_secs(2);

    fn me() -> NodeId {
        NodeId::new(1).unwrap()
    }

    fn check(probe: Probe) -> HealthCheck {
        HealthCheck { probe, port: None, interval: INTERVAL, timeout: Duration::from_secs(1), rise: 1, fall: 2 }
    }

    /// A cluster with one service with a check, and replicas in these states on this node.
    fn cluster(states: &[EndpointState]) -> Cluster {
        let settings = ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 77, pools: vec![] };
        let mut cluster = Cluster::empty(settings);
        let network = NetworkId::new(1).unwrap();
        let subnets = vec![Subnet { prefix: "10.9.0.0/16".parse().unwrap(), block_len: 26 }];
        let name = |text: &str| text.parse::<Name>().unwrap();
        let blue = Network { id: network, name: name("blue"), subnets, internal: false, mtu: None };
        cluster.networks.insert(network, blue);
        let id = ServiceId::new(1).unwrap();
        let port = |number: u16| std::num::NonZeroU16::new(number).unwrap();
        let ports =
            vec![PublishedPort::new(port(53), port(5353), L4::Udp), PublishedPort::new(port(80), port(8080), L4::Tcp)];
        let service =
            Service { health: Some(check(Probe::Tcp)), ..Service::new(id, name("web"), network, vec![], ports) };
        cluster.services.insert(id, service);
        for (number, state) in (1..).zip(states) {
            let address = std::net::Ipv4Addr::from(0x0a09_0000 + number).into();
            let endpoint = Endpoint {
                id: EndpointId(u64::from(number)),
                network,
                addresses: vec![address],
                name: name(&format!("web-{number}")),
                aliases: vec![],
                node: me(),
                service: Some(id),
                state: *state,
                weight: 1,
                netns: NetnsRef { path: format!("/run/netns/{number}"), inode: number.into() },
                ifname: "eth0".into(),
                fault: None,
            };
            cluster.endpoints.insert(endpoint.id, endpoint);
        }
        cluster
    }

    fn state_of(rounds: &Rounds, number: u64) -> Option<EndpointState> {
        rounds.verdicts().get(&EndpointId(number)).copied()
    }

    /// All questions until `end`, each answered at once; gives the times at which each replica was asked.
    fn run(
        rounds: &mut Rounds,
        end: Duration,
        answer: impl Fn(EndpointId) -> Answer,
    ) -> BTreeMap<EndpointId, Vec<Duration>> {
        let mut asked: BTreeMap<EndpointId, Vec<Duration>> = BTreeMap::new();
        while let Some(due) = rounds.next_due().filter(|due| *due <= end) {
            let question = rounds.ask(due).unwrap();
            asked.entry(question.replica).or_default().push(due);
            rounds.answer(&question, answer(question.replica));
        }
        asked
    }

    #[test]
    fn a_new_replica_is_asked_often_until_it_is_ready() {
        let mut rounds = Rounds::default();
        rounds.follow(&cluster(&[Starting]), me(), Duration::ZERO);
        let asked = run(&mut rounds, Duration::from_secs(5), |_| Answer::Bad("refused".to_owned()));
        assert!((23..=28).contains(&asked[&EndpointId(1)].len()), "{asked:?}");
        assert_eq!(state_of(&rounds, 1), Some(Starting));
        assert_eq!(rounds.faults()[&EndpointId(1)], "refused");
        let question = rounds.ask(rounds.next_due().unwrap()).unwrap();
        assert_eq!(question.target, "10.9.0.1:8080".parse().unwrap());
        assert_eq!(rounds.answer(&question, Answer::Good), Some(Ready));
        assert!(rounds.faults().is_empty());
        let asked = run(&mut rounds, Duration::from_secs(105), |_| Answer::Good);
        assert!((48..=52).contains(&asked[&EndpointId(1)].len()), "{asked:?}");
    }

    #[test]
    fn one_that_never_gets_ready_is_asked_at_its_own_pace_in_the_end() {
        let mut rounds = Rounds::default();
        rounds.follow(&cluster(&[Starting]), me(), Duration::ZERO);
        run(&mut rounds, Duration::from_secs(20), |_| Answer::Bad(String::new()));
        let late = run(&mut rounds, Duration::from_mins(2), |_| Answer::Bad(String::new()));
        assert!((48..=52).contains(&late[&EndpointId(1)].len()), "{late:?}");
    }

    #[test]
    fn an_agent_that_begins_asks_its_ready_replicas_one_after_the_other() {
        let mut rounds = Rounds::default();
        rounds.follow(&cluster(&[Ready; 1000]), me(), Duration::ZERO);
        assert!(rounds.verdicts().values().all(|state| *state == Ready));
        let asked = run(&mut rounds, INTERVAL, |_| Answer::Good);
        assert!(asked.len() >= 1000 - 2);
        let mut in_tenths = [0; 21];
        for time in asked.values().flatten() {
            in_tenths[usize::try_from(time.as_millis() / 100).unwrap()] += 1;
        }
        // 50 each on average.
        assert!(in_tenths.iter().all(|count| *count < 100), "{in_tenths:?}");
    }

    #[test]
    fn a_replica_waits_for_its_answer_and_others_do_not_wait_for_it() {
        let mut rounds = Rounds::default();
        rounds.follow(&cluster(&[Starting, Starting]), me(), Duration::ZERO);
        let now = Duration::from_secs(1000);
        let (first, second) = (rounds.ask(now).unwrap(), rounds.ask(now).unwrap());
        assert_ne!(first.replica, second.replica);
        assert_eq!((rounds.ask(now), rounds.next_due()), (None, None));
        assert_eq!(rounds.answer(&second, Answer::Good), Some(Ready));
        assert_eq!(rounds.ask(now + INTERVAL * 2).unwrap().replica, second.replica);
        assert_eq!(rounds.answer(&second, Answer::Good), None, "answered twice");
        assert_eq!(rounds.answer(&first, Answer::Good), Some(Ready));
    }

    #[test]
    fn a_check_may_change_come_and_go() {
        let mut rounds = Rounds::default();
        let mut cluster = cluster(&[Ready, Starting, Unhealthy, Draining]);
        let service = *cluster.services.keys().next().unwrap();
        let set = |cluster: &mut Cluster, health| cluster.services.get_mut(&service).unwrap().health = health;
        let checked = BTreeMap::from([(EndpointId(1), Ready), (EndpointId(2), Starting), (EndpointId(3), Unhealthy)]);
        rounds.follow(&cluster, me(), Duration::ZERO);
        assert_eq!(rounds.verdicts(), checked);
        let first = rounds.ask(INTERVAL).unwrap();
        let old = [first.clone(), rounds.ask(INTERVAL).unwrap(), rounds.ask(INTERVAL).unwrap()];
        set(&mut cluster, Some(check(Probe::Http { path: "/".into(), status: 200..=399 })));
        rounds.follow(&cluster, me(), INTERVAL);
        // Never two questions at once, and an answer to the old one is none to the new one.
        assert_eq!(rounds.ask(INTERVAL * 9), None);
        for question in &old {
            assert_eq!(rounds.answer(question, Answer::Good), None);
        }
        assert_eq!(rounds.verdicts(), checked);
        assert!(matches!(rounds.ask(INTERVAL * 9).unwrap().check.probe, Probe::Http { .. }));

        set(&mut cluster, None);
        rounds.follow(&cluster, me(), INTERVAL * 9);
        assert_eq!(rounds.verdicts(), BTreeMap::from([(EndpointId(2), Ready), (EndpointId(3), Ready)]));
        assert_eq!(rounds.next_due(), None);

        // What is ready stays so until it fails.
        cluster
            .endpoints
            .values_mut()
            .filter(|endpoint| endpoint.state != Draining)
            .for_each(|endpoint| endpoint.state = Ready);
        set(&mut cluster, Some(check(Probe::Tcp)));
        rounds.follow(&cluster, me(), INTERVAL * 10);
        assert!(rounds.verdicts().values().all(|state| *state == Ready));
        run(&mut rounds, INTERVAL * 13, |id| if id.0 == 1 { Answer::Bad(String::new()) } else { Answer::Good });
        assert_eq!((state_of(&rounds, 1), state_of(&rounds, 2)), (Some(Unhealthy), Some(Ready)));
    }

    #[test]
    fn nothing_is_said_where_nothing_can_be_asked() {
        let mut rounds = Rounds::default();
        let mut cluster = cluster(&[Starting, Ready]);
        let service = *cluster.services.keys().next().unwrap();
        cluster.services.get_mut(&service).unwrap().ports.truncate(1);
        rounds.follow(&cluster, me(), Duration::ZERO);
        assert_eq!((rounds.verdicts().len(), rounds.next_due()), (0, None));
        assert_eq!(rounds.faults().len(), 2);
        // A service that cannot be read may have a check.
        cluster.services.clear();
        rounds.follow(&cluster, me(), Duration::ZERO);
        assert_eq!((rounds.verdicts().len(), rounds.faults().len()), (0, 0));
        // Other nodes' replicas are other nodes' affair.
        rounds.follow(&super::tests::cluster(&[Starting]), NodeId::new(2).unwrap(), Duration::ZERO);
        assert_eq!(rounds.verdicts().len(), 0);
    }
}
