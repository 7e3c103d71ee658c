//! Proxy mode beside `HAProxy` in TCP mode: both in one host's namespace, with the same number of threads, in front of the same
//! replica, each at a port of its own.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::{Host, Netns, Process, Topology, wait_until};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{Backlog, listen, setsockopt, sockopt},
};
use serde_json::Value;

use crate::{
    measure,
    report::{self, Goal, Pairs, Unit},
};

const ROUNDS: usize = 5;

const TIME: Duration = Duration::from_secs(3);

/// What `HAProxy` is called in the output, and as a program.
const OTHER: &str = "haproxy";

/// The replica's ports: short connections, those that stay, and iperf3's.
const SHORT: u16 = 8080;
const IDLE: u16 = 8081;
const BULK: u16 = 5201;

/// `HAProxy`'s ports are weft's and this.
const BESIDE: u16 = 1000;

/// As many as are asked for; fewer where the limit of open files is too low for a proxy to have so many.
const IDLE_CONNECTIONS: usize = 10_000;

/// Both ends of 10,000 connections are in this process, and `HAProxy` asks for two files a connection and some pipes.
const FILES: u64 = 40_000;

/// Long beside anything here.
const BOUND: Duration = Duration::from_secs(30);

/// Threads that answer short connections: more than wrk has under way, so that none waits for another's client.
const ANSWERERS: usize = 24;

/// Measures, or says why not.
pub(crate) fn run() -> Result<()> {
    let Ok(version) = Command::new(OTHER).arg("-v").output() else {
        println!(
            "proxy mode beside HAProxy: SKIPPED, there is no {OTHER} (Debian package haproxy; `cargo xtask setup`)\n"
        );
        return Ok(());
    };
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let mut files = FILES;
    if setrlimit(Resource::RLIMIT_NOFILE, files, hard.max(files)).is_err() {
        files = hard;
        setrlimit(Resource::RLIMIT_NOFILE, files, files).context("this process may not have more files open")?;
    }
    // Two files each in a proxy, an eighth left to the rest and a quarter more for HAProxy's pipes.
    let idle_connections = IDLE_CONNECTIONS.min(usize::try_from(files / 3)?);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    println!(
        "method: proxy mode beside {version}, TCP mode, splice-auto, {threads} threads each, one replica;\n        \
         {ROUNDS} rounds of {} s each, in turn, the first of a round changing; the ratio is taken within each round;\n        \
         {idle_connections} idle connections, as many as {files} open files allow of {IDLE_CONNECTIONS}\n",
        TIME.as_secs()
    );
    let topology = Topology::cluster(1)?;
    let host = topology.host(0);
    host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
    let ports: Vec<String> =
        [SHORT, IDLE, BULK].iter().map(|port| format!("--publish {port}:{port},mode=proxy")).collect();
    host.weft_ok(&format!("service create web --network blue {}", ports.join(" ")))?;
    let replica = host.attach("blue", "web-1", "--service web")?;
    answer_short(replica.netns())?;
    let idle = Idle::listen(replica.netns())?;
    let haproxy = start_haproxy(&topology, host, replica.address(), threads, idle_connections + 500)?;
    let sides = [(0, host.agent_pid()?), (BESIDE, haproxy.pid())];
    for (offset, _) in sides {
        for port in [SHORT, IDLE] {
            wait_until("the proxies answer", BOUND, || {
                topology.client().enter(|| Ok(TcpStream::connect_timeout(&host.at(port + offset), BOUND)?)).map(drop)
            })?;
        }
    }

    let [mut bulk, mut cost_bulk, mut rate, mut cost, mut grown, mut whole] = [(); 6].map(|()| Pairs::default());
    for round in 0..ROUNDS {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut values = [[0.0; 2]; 6];
        for side in order {
            let (offset, pid) = sides[side];
            let before = cpu_s(pid)?;
            let gbit = bulk_gbit_per_s(topology.client(), replica.netns(), host.at(BULK + offset))?;
            values[0][side] = gbit;
            values[1][side] = (cpu_s(pid)? - before) * 1e6 / (gbit * TIME.as_secs_f64());
        }
        for side in order {
            let (offset, pid) = sides[side];
            let (before, begun) = (cpu_s(pid)?, Instant::now());
            let per_s = measure::connects_per_s(topology.client(), host.at(SHORT + offset), TIME)?;
            let connections = per_s * begun.elapsed().as_secs_f64();
            values[2][side] = per_s;
            values[3][side] = (cpu_s(pid)? - before) * 1e6 / connections;
        }
        for side in order {
            let (offset, pid) = sides[side];
            let [before, after] = idle.hold(topology.client(), host.at(IDLE + offset), pid, idle_connections)?;
            values[4][side] = after - before;
            values[5][side] = after;
        }
        for (pairs, values) in
            [&mut bulk, &mut cost_bulk, &mut rate, &mut cost, &mut grown, &mut whole].into_iter().zip(values)
        {
            pairs.add(values);
        }
        if round == 0 {
            // The second round on, memory of connections before is there to be used again.
            report::beside(OTHER, "the first idle connections, growth", Unit::Mebibytes, &grown, Goal::AtMost(1.0));
            grown = Pairs::default();
        }
    }
    report::beside(OTHER, "bulk TCP through the proxy", Unit::GbitPerSecond, &bulk, Goal::AtLeast(1.0));
    report::beside(OTHER, "CPU per Gbit", Unit::Microseconds, &cost_bulk, Goal::AtMost(1.0));
    report::beside(OTHER, "new connections through the proxy", Unit::PerSecond, &rate, Goal::AtLeast(1.0));
    report::beside(OTHER, "CPU per connection", Unit::Microseconds, &cost, Goal::AtMost(1.0));
    report::beside(OTHER, "resident memory with them, the whole process", Unit::Mebibytes, &whole, Goal::AtMost(1.0));
    drop(haproxy);
    Ok(())
}

fn start_haproxy(
    topology: &Topology,
    host: &Host,
    replica: IpAddr,
    threads: usize,
    connections: usize,
) -> Result<Process> {
    let listens = [SHORT, IDLE, BULK].map(|port| {
        format!(
            "listen p{port}\n  bind [::]:{} v4v6\n  server replica {}\n",
            port + BESIDE,
            SocketAddr::new(replica, port)
        )
    });
    let config = format!(
        "global\n  nbthread {threads}\n  maxconn {connections}\n\
         defaults\n  mode tcp\n  option splice-auto\n  maxconn {connections}\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n{}",
        listens.concat()
    );
    let path = topology.folder().join("haproxy.cfg");
    fs::write(&path, config).with_context(|| format!("{} cannot be written", path.display()))?;
    let mut command = Command::new(OTHER);
    command.arg("-db").arg("-f").arg(&path).stdin(Stdio::null());
    host.netns().start(OTHER, command)
}

/// User and system time of a process so far (`utime` and `stime`, `proc_pid_stat(5)`), in units of 10 ms.
fn cpu_s(pid: i32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a proxy has ended")?;
    // Behind the name, which may have spaces: the state is the first word, the times are the 12th and 13th.
    let (_, behind) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let times: Vec<f64> = behind.split_whitespace().skip(11).take(2).filter_map(|word| word.parse().ok()).collect();
    ensure!(times.len() == 2, "no times in {stat:?}");
    Ok(times.iter().sum::<f64>() / 100.0)
}

fn bulk_gbit_per_s(from: &Netns, to: &Netns, server: SocketAddr) -> Result<f64> {
    let mut command = Command::new("iperf3");
    command.args(["--server", "--one-off", "--port", &BULK.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let listener = to.start("iperf3's server", command)?;
    wait_until("iperf3's server listens", BOUND, || {
        ensure!(to.exec("ss -H -l -t -n")?.contains(&format!(":{BULK} ")), "it does not");
        Ok(())
    })?;
    let mut command = Command::new("iperf3");
    command.args(["--json", "--client", &server.ip().to_string(), "--port", &server.port().to_string()]);
    command.args(["--time", &TIME.as_secs().to_string()]);
    let output = from.output(&mut command)?;
    drop(listener);
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 printed no JSON")?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.ok_or_else(|| anyhow!("iperf3 failed: {}", report["error"]))? / 1e9)
}

fn listener(netns: &Netns, port: u16) -> Result<TcpListener> {
    let listener = netns.enter(|| Ok(TcpListener::bind(("::", port))?))?;
    // Again, with more room than the standard library asks for.
    listen(&listener, Backlog::new(4096)?)?;
    Ok(listener)
}

/// One request, one answer, closed by the replica: as little as a connection can be. Ends with the process.
fn answer_short(netns: &Netns) -> Result<()> {
    let listener = listener(netns, SHORT)?;
    for _ in 0..ANSWERERS {
        let listener = listener.try_clone()?;
        std::thread::spawn(move || {
            let mut request = [0; 4096];
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.set_nodelay(true);
                // A connection that only looks is closed at once.
                if stream.read(&mut request).is_ok_and(|len| len > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                }
            }
        });
    }
    Ok(())
}

/// The replica's side of connections that stay.
struct Idle {
    accepted: Mutex<mpsc::Receiver<TcpStream>>,
}

impl Idle {
    fn listen(netns: &Netns) -> Result<Self> {
        let listener = listener(netns, IDLE)?;
        let (sender, accepted) = mpsc::sync_channel(2 * IDLE_CONNECTIONS);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if sender.send(stream).is_err() {
                    break;
                }
            }
        });
        Ok(Self { accepted: Mutex::new(accepted) })
    }

    /// A proxy's resident memory without and with the connections, each of which has carried a few bytes both ways.
    fn hold(&self, client: &Netns, proxy: SocketAddr, pid: i32, count: usize) -> Result<[f64; 2]> {
        while self.accepted.lock().unwrap_or_else(PoisonError::into_inner).try_recv().is_ok() {}
        let before = measure::resident_mib(pid)?;
        let mut pairs = Vec::new();
        client.enter(|| {
            let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            for _ in 0..count {
                let mut ours = TcpStream::connect_timeout(&proxy, BOUND)?;
                let mut theirs = accepted.recv_timeout(BOUND).context("the replica gets a connection")?;
                // The replica resets it later, so that neither proxy is left with ports in TIME_WAIT.
                setsockopt(&theirs, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
                ours.write_all(b"ping")?;
                theirs.read_exact(&mut [0; 4])?;
                theirs.write_all(b"pong")?;
                ours.read_exact(&mut [0; 4])?;
                pairs.push((theirs, ours));
            }
            Ok(())
        })?;
        let after = measure::resident_mib(pid)?;
        let (theirs, ours): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        drop(theirs);
        for mut stream in ours {
            stream.set_read_timeout(Some(BOUND))?;
            let _ = stream.read(&mut [0; 1]);
        }
        Ok([before, after])
    }
}
