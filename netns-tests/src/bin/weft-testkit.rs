//! The replica and its clients as a program, for namespaces that only a command can enter.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use netns_tests::testkit::{ask, ask_udp, manage, serve, serve_moody, serve_names};

const USAGE: &str = "usage: weft-testkit serve PORT [NAME]   answer on PORT, TCP (HTTP and lines) and UDP
       weft-testkit moody PORT NAME FILE  the same over HTTP; /health is answered as FILE says: good, bad, endless or drip
       weft-testkit manage PIDFILE SOCKET PROGRAM...   run a program as systemd does, keeping its sockets
       weft-testkit get ADDR:PORT [N]     N requests (or NAME:PORT), each on a connection of its own
       weft-testkit udp ADDR:PORT [N]     N datagrams, each from a socket of its own
       weft-testkit names ADDR:PORT       a resolver that knows every name";

/// Long beside any path within one machine.
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match *words {
        ["serve", port] => serve(number(port)?, &std::process::id().to_string()),
        ["names", address] => serve_names(address.parse().with_context(|| format!("{address:?} is not ADDR:PORT"))?),
        ["serve", port, name] => serve(number(port)?, name),
        ["manage", pid_file, socket, ref words @ ..] if !words.is_empty() => {
            manage(Path::new(pid_file), Path::new(socket), words)
        }
        ["moody", port, name, file] => serve_moody(number(port)?, name, std::path::Path::new(file)),
        ["get", server, ref count @ ..] if count.len() <= 1 => repeat(server, count, |server| ask(server, TIMEOUT)),
        ["udp", server, ref count @ ..] if count.len() <= 1 => repeat(server, count, |server| ask_udp(server, TIMEOUT)),
        _ => bail!("wrong usage\n{USAGE}"),
    }
}

fn repeat(
    server: &str,
    count: &[&str],
    request: impl Fn(SocketAddr) -> Result<netns_tests::testkit::Answer>,
) -> Result<()> {
    let first = server.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let server = first.with_context(|| format!("{server:?} is neither ADDR:PORT nor NAME:PORT"))?;
    for _ in 0..count.first().map_or(Ok(1), |count| number(count))? {
        let answer = request(server)?;
        println!("replica={} client={}", answer.replica, answer.client);
    }
    Ok(())
}

fn number(word: &str) -> Result<u16> {
    word.parse().with_context(|| format!("{word:?} is not a number up to 65535"))
}
