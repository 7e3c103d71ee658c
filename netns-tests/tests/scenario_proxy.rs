//! Proxy mode: the PROXY protocol to the replica byte for byte and from a named peer, the fewest connections, replicas that die
//! and drain, clients that mean no good, and a restart of the agent under load.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use netns_tests::{
    CLIENT, CLIENT6, Container, Host, Netns, Topology, scenario,
    testkit::{Hold, Load, ask},
    wait_until,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Long beside any path within one machine.
const BOUND: Duration = Duration::from_secs(5);

/// From a change on one node to every node's doors.
const CONVERGE_BOUND: Duration = Duration::from_secs(10);

#[test]
fn the_client_is_told_byte_for_byte() {
    scenario(2, |topology| {
        let host = topology.host(0);
        host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        host.weft_ok(
            "service create web --network blue --publish 81:8081,mode=proxy,proxy-protocol=v1 \
             --publish 82:8081,mode=proxy,proxy-protocol=v2 \
             --publish 83:8081,mode=proxy,proxy-protocol=v1,proxy-from=192.0.2.100/32,proxy-from=2001:db8::100/128",
        )?;
        topology.wait_known(topology.host(1), "service", "web")?;
        // On the other node: the connection takes the tunnel, and the client's address is known by the header alone.
        let replica = topology.host(1).attach("blue", "web-1", "--service web")?;
        let listener = replica.netns().enter(|| Ok(TcpListener::bind("[::]:8081")?))?;
        wait_answers(topology.client(), host.at(81))?;
        drain_queue(&listener)?;

        for (address, client) in [(host.address(), IpAddr::from(CLIENT)), (host.address6(), CLIENT6.into())] {
            let version_1 = |from: SocketAddr, to: SocketAddr| {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
            };
            for (port, header) in [(81, &version_1 as &dyn Fn(_, _) -> _), (82, &version_2)] {
                let stream = connect(topology.client(), SocketAddr::new(address, port))?;
                let (from, to) = (stream.local_addr()?, stream.peer_addr()?);
                ensure!(from.ip() == client, "the client is {from}");
                told(&listener, &stream, &header(from, to)).with_context(|| format!("{to}"))?;
            }
            // From a named peer the header is believed and passed on, whichever family it speaks of.
            for (sent, passed) in [
                (
                    &b"PROXY TCP4 203.0.113.7 203.0.113.8 4711 443\r\n"[..],
                    &b"PROXY TCP4 203.0.113.7 203.0.113.8 4711 443\r\n"[..],
                ),
                (
                    &version_2("[2001:db8::7]:4711".parse()?, "[2001:db8::8]:443".parse()?),
                    b"PROXY TCP6 2001:db8::7 2001:db8::8 4711 443\r\n",
                ),
                (b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN\r\n"),
                (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", b"PROXY UNKNOWN\r\n"),
            ] {
                let mut stream = connect(topology.client(), SocketAddr::new(address, 83))?;
                stream.write_all(sent)?;
                told(&listener, &stream, passed).with_context(|| String::from_utf8_lossy(sent).into_owned())?;
            }
        }
        // From anybody else it is not even read: what it sends is data behind its own header.
        let mut stream = connect(host.netns(), host.at(83))?;
        stream.write_all(b"PROXY UNKNOWN\r\n")?;
        let (from, to) = (stream.local_addr()?, stream.peer_addr()?);
        let header = format!("PROXY TCP4 {} {} {} {}\r\nPROXY UNKNOWN\r\n", from.ip(), to.ip(), from.port(), to.port());
        told(&listener, &stream, header.as_bytes())?;
        bad_headers(topology, host, &listener)
    });
}

/// Truncated, wrong and endless headers end their own connection, are counted, and touch nobody else's.
fn bad_headers(topology: &Topology, host: &Host, listener: &TcpListener) -> Result<()> {
    let before = failures(host, "header")?;
    let slow: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect(topology.client(), host.at(83))?;
            stream.write_all(b"PROXY TCP4 203.0.113.7")?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    let mut truncated = connect(topology.client(), host.at(83))?;
    truncated.write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0")?;
    truncated.shutdown(std::net::Shutdown::Write)?;
    ended(&truncated).context("a header that was cut off")?;
    let mut wrong = connect(topology.client(), host.at(83))?;
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    ended(&wrong).context("no header at all")?;

    let begun = Instant::now();
    let mut good = connect(topology.client(), host.at(83))?;
    good.write_all(b"PROXY UNKNOWN\r\n")?;
    told(listener, &good, b"PROXY UNKNOWN\r\n")?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "the good client waited {} ms", begun.elapsed().as_millis());
    for stream in &slow {
        stream.set_read_timeout(Some(CONVERGE_BOUND))?;
        ended(stream).context("a header that never ends")?;
    }
    let counted = failures(host, "header")? - before;
    ensure!((counted - 202.0).abs() < 0.5, "{counted} refused headers were counted");
    Ok(())
}

#[test]
fn the_fewest_connections_are_chosen() {
    scenario(2, |topology| {
        let host = topology.host(0);
        let replicas = proxied_web(topology, "--lb least-conn", 3)?;
        // Six that stay, exactly two each.
        let held = Hold::start(topology.client(), &[host.at(80)], 6)?;
        wait_until("the held connections talk", BOUND, || {
            ensure!(held.exchanges() >= 12, "{} exchanges", held.exchanges());
            Ok(())
        })?;
        for replica in &replicas {
            let open = connections_of(replica)?;
            ensure!(open == 2, "{} has {open} of 6 connections", replica.name());
        }
        let text = host.metrics()?;
        let open = "weft_proxy_connections{port=\"80/tcp\",service=\"web\"} 6";
        ensure!(text.lines().any(|line| line == open), "{text}");
        let report = held.stop();
        ensure!(report.broken.is_empty(), "{report:?}");
        a_dead_replica_is_passed_over(topology, replicas)
    });
}

/// A replica whose program is gone refuses; every request is answered by another.
fn a_dead_replica_is_passed_over(topology: &Topology, mut replicas: Vec<Container>) -> Result<()> {
    let host = topology.host(0);
    drop(replicas[2].stop_program());
    topology.client().enter(|| {
        for turn in 0..30 {
            let answer = ask(host.at(80), BOUND).with_context(|| format!("request {turn}"))?;
            ensure!(answer.replica != "web-3", "the dead one answered");
        }
        Ok(())
    })?;
    // Without any the client is told at once, by a RST.
    for replica in &mut replicas[..2] {
        drop(replica.stop_program());
    }
    let begun = Instant::now();
    match connect(topology.client(), host.at(80)) {
        Ok(stream) => ended(&stream)?,
        // The RST may overtake the caller.
        Err(error) => {
            let kind = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
            ensure!(kind == Some(ErrorKind::ConnectionReset), "{error:#}");
        }
    }
    ensure!(begun.elapsed() < Duration::from_secs(1), "it took {} ms", begun.elapsed().as_millis());
    Ok(())
}

#[test]
fn a_draining_replica_keeps_its_connections() {
    scenario(2, |topology| {
        let host = topology.host(0);
        let replicas = proxied_web(topology, "", 2)?;
        let held = Hold::start(topology.client(), &[host.at(80)], 4)?;
        let (reports, _) = (connections_of(&replicas[0])?, connections_of(&replicas[1])?);
        ensure!(reports == 2, "{reports} of 4 connections");
        // Its node takes no new connections, and waits for those that came by the other node's proxy.
        let drained = topology.host(1);
        let mut drain = host.start_weft("drain", &["node", "drain", drained.name(), "--timeout", "300s"])?;
        wait_until("new connections go to the other replica alone", CONVERGE_BOUND, || {
            topology.client().enter(|| {
                for _ in 0..6 {
                    let answer = ask(host.at(80), BOUND)?;
                    ensure!(answer.replica == "web-1", "{} answered", answer.replica);
                }
                Ok(())
            })
        })?;
        let before = held.exchanges();
        wait_until("the held connections go on", BOUND, || {
            ensure!(held.exchanges() > before + 40, "{} exchanges", held.exchanges() - before);
            Ok(())
        })?;
        // Counted where the replica is, on another host than the proxy or on the same.
        for replica in ["web-2", "web-1"] {
            let told = host.weft(&format!("endpoint drain {replica} --timeout 1s"))?;
            let open = format!("2 connections to {replica} were still open after 1s");
            ensure!(told.stderr.contains(&open), "{told:?}");
        }
        ensure!(drain.ended()?.is_none(), "the drain did not wait: {}", host.output_of("drain"));
        let report = held.stop();
        ensure!(report.broken.is_empty(), "{report:?}");
        ensure!(drain.wait(CONVERGE_BOUND)?.success(), "{}", host.output_of("drain"));
        let said = host.output_of("drain");
        ensure!(said == format!("node {} drained", drained.name()), "{said:?}");
        Ok(())
    });
}

/// The listening sockets outlive the agent: whoever comes while it is away waits for the next one. What the dead one carried is
/// lost, and only that.
#[test]
fn a_restart_refuses_nobody() {
    scenario(2, |topology| {
        let _replicas = proxied_web(topology, "", 2)?;
        topology.host_mut(0).stop_agent()?;
        topology.host_mut(0).start_managed_agent()?;
        let host = topology.host(0);
        wait_answers(topology.client(), host.at(80))?;
        let load = Load::start(topology.client(), vec![host.at(80)], 200)?;
        for round in 0..3 {
            let (pid, before) = (host.managed_pid()?, load.so_far().requests);
            wait_until("the load goes on", CONVERGE_BOUND, || {
                let requests = load.so_far().requests - before;
                ensure!(requests > 300, "{requests} requests");
                Ok(())
            })?;
            // In the middle of whatever it does, and once in the ordinary way.
            kill(Pid::from_raw(pid), if round == 2 { Signal::SIGTERM } else { Signal::SIGKILL })?;
            wait_until("the next agent runs", CONVERGE_BOUND, || {
                ensure!(host.managed_pid()? != pid, "it does not");
                host.weft_ok("status").map(drop)
            })?;
        }
        let before = load.so_far();
        wait_until("the load goes on after the last restart", CONVERGE_BOUND, || {
            let requests = load.so_far().requests - before.requests;
            ensure!(requests > 300, "{requests} requests");
            Ok(())
        })?;
        let report = load.stop()?;
        println!("under three restarts: {report:?}");
        let refused: Vec<_> = report.errors.iter().filter(|(error, _)| error.contains("connecting to")).collect();
        ensure!(refused.is_empty(), "refused or not answered: {refused:?}");
        // Those under way at a kill; 200 a second of some milliseconds each.
        ensure!(report.failed <= 3 * 20, "{report:?}");
        Ok(())
    });
}

/// Network `blue` and the service `web`, proxied at 80, with replicas on both hosts in turn.
fn proxied_web(topology: &Topology, words: &str, count: usize) -> Result<Vec<Container>> {
    let first = topology.host(0);
    first.weft_ok("network create blue --subnet 10.42.0.0/16")?;
    first.weft_ok(&format!("service create web --network blue --publish 80:8080,mode=proxy {words}"))?;
    let mut replicas = Vec::new();
    for number in 0..count {
        let host = topology.host(number % topology.hosts().len());
        topology.wait_known(host, "service", "web")?;
        replicas.push(host.serve("blue", &format!("web-{}", number + 1), "--service web", 8080)?);
    }
    let names: Vec<&str> = replicas.iter().map(Container::name).collect();
    topology.wait_balanced(80, &names)?;
    Ok(replicas)
}

fn connect(from: &Netns, to: SocketAddr) -> Result<TcpStream> {
    let stream = from.enter(|| Ok(TcpStream::connect_timeout(&to, BOUND)?)).with_context(|| format!("to {to}"))?;
    stream.set_read_timeout(Some(BOUND))?;
    Ok(stream)
}

fn wait_answers(from: &Netns, to: SocketAddr) -> Result<()> {
    wait_until(format!("{to} is open"), CONVERGE_BOUND, || {
        let stream = connect(from, to)?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        match (&stream).read(&mut [0; 1]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => bail!("{other:?}"),
        }
    })
}

/// Lets go of what was accepted before.
fn drain_queue(listener: &TcpListener) -> Result<()> {
    listener.set_nonblocking(true)?;
    while listener.accept().is_ok() {}
    listener.set_nonblocking(false)?;
    Ok(())
}

/// What the replica gets first is exactly `wanted`; then data goes both ways.
fn told(listener: &TcpListener, mut client: &TcpStream, wanted: &[u8]) -> Result<()> {
    let mut server = wait_until("the replica gets the connection", BOUND, || {
        listener.set_nonblocking(true)?;
        Ok(listener.accept()?.0)
    })?;
    server.set_nonblocking(false)?;
    server.set_read_timeout(Some(BOUND))?;
    let mut bytes = vec![0; wanted.len()];
    server.read_exact(&mut bytes).context("the header")?;
    ensure!(bytes == wanted, "{:?} instead of {:?}", String::from_utf8_lossy(&bytes), String::from_utf8_lossy(wanted));
    client.write_all(b"ping")?;
    server.read_exact(&mut bytes[..4])?;
    ensure!(&bytes[..4] == b"ping", "{bytes:?}");
    server.write_all(b"pong")?;
    client.read_exact(&mut bytes[..4])?;
    ensure!(&bytes[..4] == b"pong", "{bytes:?}");
    Ok(())
}

/// The connection ends without an answer.
fn ended(mut stream: &TcpStream) -> Result<()> {
    match stream.read(&mut [0; 1]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("it goes on: {other:?}"),
    }
}

fn version_2(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    bytes.extend(if from.is_ipv4() { [0x11, 0, 12] } else { [0x21, 0, 36] });
    for address in [from.ip(), to.ip()] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes
}

/// Connections that a replica's program has.
fn connections_of(replica: &Container) -> Result<usize> {
    Ok(replica.netns().exec("ss -H -t -n state established sport = :8080")?.lines().count())
}

fn failures(host: &Host, cause: &str) -> Result<f64> {
    let label = format!("cause=\"{cause}\"");
    let text = host.metrics()?;
    let samples = text.lines().filter(|line| line.starts_with("weft_proxy_failures_total") && line.contains(&label));
    Ok(samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}
