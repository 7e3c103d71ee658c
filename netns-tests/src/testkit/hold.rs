use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use super::Answer;
use crate::{Netns, pause};

/// Between two lines of one connection.
const INTERVAL: Duration = Duration::from_millis(100);

/// An answer that takes longer breaks the connection in the eyes of the holder: TCP's retransmissions have had several
/// turns by then (RFC 6298: 1 s, doubled).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Established connections that exchange a numbered line ten times a second until they are stopped.
pub struct Hold {
    stop: Arc<AtomicBool>,
    exchanges: Arc<AtomicU64>,
    connections: Vec<JoinHandle<Result<()>>>,
}

/// What became of held connections.
#[derive(Debug, Clone, Default)]
pub struct HoldReport {
    /// How many were opened.
    pub connections: usize,
    /// Lines sent and answered, all connections together.
    pub exchanges: u64,
    /// Why each broken one broke.
    pub broken: Vec<String>,
}

impl Hold {
    /// Opens `count` connections to each of `servers` from inside `netns`; all are established when this returns.
    pub fn start(netns: &Netns, servers: &[SocketAddr], count: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let exchanges = Arc::new(AtomicU64::new(0));
        let mut connections = Vec::new();
        for server in servers.iter().flat_map(|server| std::iter::repeat_n(*server, count)) {
            let stream = netns.enter(|| {
                TcpStream::connect_timeout(&server, ANSWER_TIMEOUT).with_context(|| format!("connecting to {server}"))
            })?;
            let (stop, exchanges) = (Arc::clone(&stop), Arc::clone(&exchanges));
            connections.push(netns.enter_detached(move || {
                converse(&stream, &stop, &exchanges).with_context(|| format!("a connection to {server}"))
            })?);
        }
        Ok(Self { stop, exchanges, connections })
    }

    /// Lines answered so far, all connections together.
    pub fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// Closes the connections and tells what became of them.
    pub fn stop(self) -> HoldReport {
        self.stop.store(true, Ordering::Relaxed);
        let connections = self.connections.len();
        let broken = self.connections.into_iter().filter_map(|connection| {
            let ended = connection.join().unwrap_or_else(|_| Err(anyhow!("its thread panicked")));
            ended.err().map(|error| format!("{error:#}"))
        });
        let broken = broken.collect();
        HoldReport { connections, exchanges: self.exchanges.load(Ordering::Relaxed), broken }
    }
}

fn converse(stream: &TcpStream, stop: &AtomicBool, exchanges: &AtomicU64) -> Result<()> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut first: Option<Answer> = None;
    for turn in 0_u64.. {
        writeln!(writer, "line {turn}").with_context(|| format!("line {turn} cannot be sent"))?;
        let mut text = String::new();
        let length = reader.read_line(&mut text).with_context(|| format!("line {turn} was not answered"))?;
        ensure!(length > 0, "it was closed after line {turn}");
        ensure!(text.trim_end().ends_with(&format!(" line {turn}")), "line {turn} was answered by {text:?}");
        let answer = Answer::parse(&text)?;
        let known = first.get_or_insert_with(|| answer.clone());
        ensure!(*known == answer, "it went from {known:?} to {answer:?}");
        exchanges.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        pause(INTERVAL);
    }
    Ok(())
}
