use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use tokio::{sync::Semaphore, task::AbortHandle};
use tracing::warn;

use super::{
    CountKey, Door, Handed, Limits, Place, PortCount, Spread, Table, Target, connection, count_key,
    counters::{Counters, Counts},
    datagrams, handover, listener,
    shares::Shares,
    spread::{Load, Turn},
    worker::Worker,
};
use crate::model::{Bind, EndpointId, L4};

/// Open files that are asked for; systemd's own upper limit (`DefaultLimitNOFILE=`).
const FILES_WANTED: u64 = 524_288;

/// The part of the files that is left to the rest of the process: its store, its nodes, the proxy's own listeners and pipes.
const FILES_LEFT: u64 = 8;

/// Connections at once, where the files would do for more: each takes some 2 KiB here and some more in the kernel.
const CONNECTIONS_MAX: u64 = 131_072;

/// How long doors may take to close; it is a few turns of each thread's loop.
const CLOSE_MAX: Duration = Duration::from_millis(200);

/// How the doors are after [`Proxy::apply`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Those that cannot be opened.
    pub troubles: Vec<Trouble>,
    /// Whether another look finds nothing else while the table stays: every door is open, and none is at a device, which may go.
    pub is_settled: bool,
}

/// A door that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Which one.
    pub place: Place,
    /// What failed and what to do, a sentence.
    pub message: String,
}

/// The proxy: its threads, its doors, its counters. Dropping it ends all of them.
#[derive(Debug)]
pub struct Proxy {
    workers: Vec<Worker>,
    shared: Shared,
    counters: Counters,
    state: Mutex<Doors>,
}

/// What every connection needs.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) limits: &'static Limits,
    pub(super) places: Arc<Semaphore>,
    pub(super) shares: Arc<Shares>,
}

/// A door and what lies behind it now.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) turn: Turn,
    behind: RwLock<Arc<Behind>>,
}

/// The replicas behind a door, with their loads in the same order.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) door: Door,
    pub(super) loads: Vec<Load>,
    /// Of the door's service: a place may pass from one service to another without being closed.
    pub(super) counts: Arc<Counts>,
}

impl Front {
    /// What lies behind the door by the newest table; whoever has waited asks again.
    pub(super) fn behind(&self) -> Arc<Behind> {
        Arc::clone(&self.behind.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_behind(&self, behind: Arc<Behind>) {
        *self.behind.write().unwrap_or_else(PoisonError::into_inner) = behind;
    }

    /// Leads to nobody from here on, not even who has been accepted already and has no replica yet.
    fn lead_nowhere(&self) {
        let was = self.behind();
        let door = Door { targets: vec![], spread: Spread::InTurn([].into()), ..was.door.clone() };
        self.put_behind(Arc::new(Behind { door, loads: vec![], counts: Arc::clone(&was.counts) }));
    }
}

impl Behind {
    /// Whether a replica still lies here, at the same addresses and port.
    pub(super) fn leads_to(&self, target: &Target) -> bool {
        let Target { id, addresses, port, weight: _ } = target;
        self.door.targets.iter().any(|has| (has.id, has.port) == (*id, *port) && has.addresses == *addresses)
    }
}

#[derive(Debug, Default)]
struct Doors {
    handed: Handed,
    open: BTreeMap<Place, Open>,
    loads: HashMap<EndpointId, Weak<std::sync::atomic::AtomicU32>>,
}

#[derive(Debug)]
struct Open {
    front: Arc<Front>,
    tasks: Vec<AbortHandle>,
    /// One that is bound to a device, to see whether it still is: a device may go and come back as another.
    bound: Option<TcpListener>,
}

/// Closes doors and waits until their sockets are closed, so that their places can be opened again at once.
fn close(doors: Vec<Open>) {
    for open in &doors {
        open.front.lead_nowhere();
    }
    let tasks: Vec<AbortHandle> = doors.into_iter().flat_map(|open| open.tasks).collect();
    for task in &tasks {
        task.abort();
    }
    let begun = Instant::now();
    while !tasks.iter().all(AbortHandle::is_finished) && begun.elapsed() < CLOSE_MAX {
        // Nobody unparks it: the threads that end the tasks know nothing of this one.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

impl Proxy {
    /// Starts the threads; nothing listens yet. `handed` are the sockets of a previous process.
    pub fn start(handed: Handed) -> io::Result<Self> {
        let files = raise_file_limit();
        // Two sockets each.
        let connections = ((files - files / FILES_LEFT) / 2).min(CONNECTIONS_MAX);
        Self::start_bounded(handed, usize::try_from(connections).unwrap_or(Semaphore::MAX_PERMITS))
    }

    /// As [`Self::start`], for so many connections at once, whatever the limit of open files.
    pub fn start_bounded(handed: Handed, places: usize) -> io::Result<Self> {
        Ok(Self {
            workers: Worker::start_all()?,
            shared: Shared {
                limits: &Limits::DEFAULT,
                places: Arc::new(Semaphore::new(places)),
                shares: Shares::of(places),
            },
            counters: Counters::default(),
            state: Mutex::new(Doors { handed, ..Doors::default() }),
        })
    }

    /// Opens the doors that the table has, closes those that it has not, and changes what lies behind the others. What cannot
    /// be opened is returned and is tried again by the next call. A door of a host's address that this host has not is no
    /// trouble: another node has it. Sockets of a previous process that the table has no use for are closed.
    ///
    /// It blocks while doors close, some milliseconds.
    pub fn apply(&self, table: &Table) -> Applied {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Doors { handed, open, loads } = &mut *state;
        loads.retain(|_, load| load.strong_count() > 0);
        let wanted: BTreeMap<Place, &Door> = table.doors.iter().map(|door| (door.place, door)).collect();
        let stays = |place: &Place, open: &Open| {
            wanted.contains_key(place)
                && open.bound.as_ref().is_none_or(|listener| listener::is_bound(listener, *place))
        };
        let leaving: Vec<Place> =
            open.iter().filter(|(place, open)| !stays(place, open)).map(|(place, _)| *place).collect();
        for place in leaving.iter().filter(|place| place.protocol == L4::Tcp) {
            handover::forget(&place.to_string());
        }
        close(leaving.iter().filter_map(|place| open.remove(place)).collect());
        let mut applied = Applied { troubles: vec![], is_settled: true };
        for (place, door) in wanted {
            applied.is_settled &= !matches!(place.bind, Bind::Device(_));
            if open.get(&place).is_some_and(|open| open.front.behind().door == *door) {
                continue;
            }
            let mut load = |id| {
                let known = loads.get(&id).and_then(Weak::upgrade);
                known.unwrap_or_else(|| {
                    let load = Load::default();
                    loads.insert(id, Arc::downgrade(&load));
                    load
                })
            };
            let behind = Arc::new(Behind {
                loads: door.targets.iter().map(|target| load(target.id)).collect(),
                counts: self.counters.of(count_key(&door.service, place.port, place.protocol)),
                door: door.clone(),
            });
            if let Some(open) = open.get(&place) {
                open.front.put_behind(behind);
                continue;
            }
            match self.open(behind, handed) {
                Ok(opened) => drop(open.insert(place, opened)),
                Err(error) => {
                    applied.is_settled = false;
                    if !is_elsewhere(place, &error) {
                        applied.troubles.push(Trouble { place, message: sentence(door, &error) });
                    }
                }
            }
        }
        handed.drop_rest();
        self.counters.keep(&table.known);
        applied
    }

    /// The counters of every port, by service and port.
    pub fn counts(&self) -> BTreeMap<CountKey, PortCount> {
        self.counters.read()
    }

    fn open(&self, behind: Arc<Behind>, handed: &mut Handed) -> io::Result<Open> {
        let place = behind.door.place;
        let front = Arc::new(Front { turn: Turn::default(), behind: RwLock::new(behind) });
        let mut bound = None;
        let tasks = match place.protocol {
            L4::Tcp => {
                let listener = match handed.take(place) {
                    Some(listener) if listener::is_bound(&listener, place) => listener,
                    stale => {
                        if stale.is_some() {
                            // Otherwise the service manager would keep it beside the new one, by the same name.
                            handover::forget(&place.to_string());
                            drop(stale);
                        }
                        let listener = listener::listen_at(place)?;
                        handover::keep(place, &listener);
                        listener
                    }
                };
                let tasks = self.accept_everywhere(&listener, &front)?;
                bound = matches!(place.bind, Bind::Device(_)).then_some(listener);
                tasks
            }
            L4::Udp => {
                // Rare, small and bounded: one thread will do.
                let socket = listener::receive_at(place)?;
                let task = datagrams::relay(socket, Arc::clone(&front), self.shared.limits);
                self.workers.first().map(|worker| worker.handle().spawn(task).abort_handle()).into_iter().collect()
            }
            L4::Sctp => return Err(io::Error::from(Errno::EPROTONOSUPPORT)),
        };
        Ok(Open { front, tasks, bound })
    }

    /// Lets every thread accept from one socket: whoever is free takes the next connection.
    fn accept_everywhere(&self, listener: &TcpListener, front: &Arc<Front>) -> io::Result<Vec<AbortHandle>> {
        // A socket that was handed over may come from a process that blocked on it.
        listener.set_nonblocking(true)?;
        self.workers
            .iter()
            .map(|worker| {
                let task = connection::accept(listener.try_clone()?, Arc::clone(front), self.shared.clone());
                Ok(worker.handle().spawn(task).abort_handle())
            })
            .collect()
    }
}

/// Whether an address is just not this host's.
fn is_elsewhere(place: Place, error: &io::Error) -> bool {
    let is_one = matches!(place.bind, Bind::Address(_) | Bind::Device(_));
    is_one && [Errno::EADDRNOTAVAIL, Errno::ENODEV].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

fn sentence(door: &Door, error: &io::Error) -> String {
    let Door { place: Place { bind, port, protocol }, service, beside_kernel, .. } = door;
    let at = match bind {
        Bind::Any => "every address".to_owned(),
        Bind::Address(address) => address.to_string(),
        Bind::Device(device) => format!("the device {device}"),
    };
    let what = format!("the service {service} does not answer at {at}, port {port}/{protocol}, of this node");
    match (error.kind(), beside_kernel) {
        (io::ErrorKind::AddrInUse, true) => format!(
            "{what}: a program of this host has the port. What comes to the host's other addresses the kernel gives to the \
             service all the same, so only loopback reaches the program: end it, let it listen at another port, or publish \
             another port"
        ),
        (io::ErrorKind::AddrInUse, false) => {
            format!("{what}: a program of this host has the port; end it or publish another port")
        }
        _ => format!("{what}: {error}"),
    }
}

/// Raises the limit of open files as far as is wanted or allowed, and returns it.
fn raise_file_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    for (soft_wanted, hard_wanted) in [(FILES_WANTED.max(soft), FILES_WANTED.max(hard)), (hard, hard)] {
        if setrlimit(Resource::RLIMIT_NOFILE, soft_wanted, hard_wanted).is_ok() {
            return soft_wanted;
        }
    }
    warn!("the limit of open files stays at {soft}: the proxy can carry some {} connections", soft / 4);
    soft
}
