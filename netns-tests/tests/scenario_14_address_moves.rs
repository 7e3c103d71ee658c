//! Scenario 14: an address moves to another node. `detach` on one, `attach --ip` with the same address on another, and a third
//! reaches it there within 100 ms of the attach's return, over TCP and UDP; measured at a client that asks throughout.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::{Host, Netns, Process, Topology, pause, scenario, start_replica, testkit::Answer, wait_until};

/// From the attach's return to the first answer of the address's new holder.
const REACHED_BOUND: Duration = Duration::from_millis(100);

/// How often the address moves; every move is measured.
const MOVES: usize = 8;

/// How long a question waits for its answer before the next is asked: long beside an answer's way (under 1 ms), short beside the
/// bound.
const PATIENCE: Duration = Duration::from_millis(10);

/// After this a holder that has not answered is held to be unreachable.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

#[test]
fn an_ipv4_address_moves() {
    scenario(3, |topology| moves(topology, "10.42.0.0/16", "10.42.7.7"));
}

#[test]
fn an_ipv6_address_moves() {
    scenario(3, |topology| moves(topology, "fd42:7::/48", "fd42:7:0:7::7"));
}

fn moves(topology: &Topology, subnet: &str, address: &str) -> Result<()> {
    topology.host(0).weft_ok(&format!("network create blue --subnet {subnet}"))?;
    for host in topology.hosts() {
        topology.wait_known(host, "network", "blue")?;
    }
    let client = topology.host(2).attach("blue", "client", "")?;
    let address: IpAddr = address.parse()?;
    let server = SocketAddr::new(address, 8080);
    let mut holder = Holder::make(topology.host(0), 0)?;
    holder.attach(address)?;
    let asking = [Over::Tcp, Over::Udp].map(|over| Asking::begin(client.netns(), server, over));
    let asking = asking.into_iter().collect::<Result<Vec<_>>>()?;
    for asking in &asking {
        asking.first_answer_of(&holder.name)?;
    }

    let mut slow = Vec::new();
    for number in 1..=MOVES {
        let next = Holder::make(topology.host(number % 2), number)?;
        holder.host.weft_ok(&format!("detach blue/{}", holder.name))?;
        let returned = next.attach(address)?;
        for asking in &asking {
            let took = asking.first_answer_of(&next.name)?.saturating_duration_since(returned);
            println!("move {number} to {}: reached over {:?} {took:?} after the attach", next.host.name(), asking.over);
            if took > REACHED_BOUND {
                slow.push(format!("move {number} over {:?}: {took:?}", asking.over));
            }
        }
        holder = next;
    }
    asking.into_iter().try_for_each(Asking::end)?;
    ensure!(slow.is_empty(), "later than {REACHED_BOUND:?}: {}", slow.join(", "));
    Ok(())
}

/// Who has the address, or will: a namespace in which a replica answers already.
struct Holder<'a> {
    host: &'a Host,
    name: String,
    netns: Netns,
    _replica: Process,
}

impl<'a> Holder<'a> {
    fn make(host: &'a Host, number: usize) -> Result<Self> {
        let name = format!("holder-{number}");
        let netns = Netns::create(format!("{}-{name}", host.netns().name()))?;
        let replica = start_replica(&netns, &name, 8080)?;
        Ok(Self { host, name, netns, _replica: replica })
    }

    /// Attaches it with the address; gives the moment at which that was done.
    fn attach(&self, address: IpAddr) -> Result<Instant> {
        let path = self.netns.path();
        self.host.weft_ok(&format!(
            "attach --netns {} --network blue --name {} --ip {address}",
            path.display(),
            self.name
        ))?;
        Ok(Instant::now())
    }
}

#[derive(Debug, Clone, Copy)]
enum Over {
    Tcp,
    Udp,
}

/// A client that asks again and again, and notes when each holder first answered.
struct Asking {
    over: Over,
    stop: Arc<AtomicBool>,
    first: Arc<Mutex<BTreeMap<String, Instant>>>,
    thread: JoinHandle<Result<()>>,
}

impl Asking {
    fn begin(netns: &Netns, server: SocketAddr, over: Over) -> Result<Self> {
        let (stop, first) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&first));
        let thread = netns.enter_detached(move || {
            // One socket throughout: whatever the kernel remembers of it must not stand in the way.
            let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(server)?;
            while !stopped.load(Ordering::Relaxed) {
                let answer = match over {
                    Over::Tcp => ask_tcp(server),
                    Over::Udp => ask_udp(&socket),
                };
                match answer {
                    Ok(answer) => {
                        let mut first = noted.lock().unwrap_or_else(PoisonError::into_inner);
                        first.entry(answer.replica).or_insert_with(Instant::now);
                        drop(first);
                        pause(Duration::from_millis(1));
                    }
                    // Refused at once, as between two holders: the next question waits as long as an answer would have.
                    Err(_) => pause(Duration::from_millis(1)),
                }
            }
            Ok(())
        })?;
        Ok(Self { over, stop, first, thread })
    }

    fn first_answer_of(&self, name: &str) -> Result<Instant> {
        wait_until(format!("{name} answers over {:?}", self.over), ANSWER_BOUND, || {
            let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            first.get(name).copied().with_context(|| format!("only {:?} have answered", first.keys()))
        })
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the client failed"))?
    }
}

fn ask_tcp(server: SocketAddr) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"hello\n")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    Answer::parse(&line)
}

fn ask_udp(socket: &UdpSocket) -> Result<Answer> {
    socket.send(b"hello")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    Answer::parse(&String::from_utf8_lossy(&buffer[..length]))
}
