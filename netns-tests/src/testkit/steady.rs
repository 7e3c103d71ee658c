use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use super::Answer;
use crate::{Netns, pause};

/// Between two datagrams: far below the time-out of a UDP entry in connection tracking (30 s).
const INTERVAL: Duration = Duration::from_millis(20);

/// A client that sends from one socket, hence one source port, without pause, and notes who answers.
pub struct Steady {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<(Instant, String)>>>,
    sender: JoinHandle<Result<()>>,
}

impl Steady {
    /// Begins to send to `server` from inside `netns`. That nobody answers, or an ICMP error, is no error of its.
    pub fn start(netns: &Netns, server: SocketAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&seen));
        let sender = netns.enter_detached(move || {
            let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
            // Not connected: after an ICMP error it goes on all the same.
            let socket = UdpSocket::bind(any)?;
            socket.set_nonblocking(true)?;
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let _ = socket.send_to(b"steady", server);
                pause(INTERVAL);
                while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                    let answer = Answer::parse(&String::from_utf8_lossy(&buffer[..length]))?;
                    shared.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), answer.replica));
                }
            }
            Ok(())
        })?;
        Ok(Self { stop, seen, sender })
    }

    /// Who has answered since a moment, in order.
    pub fn since(&self, moment: Instant) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|(at, _)| *at >= moment).map(|(_, replica)| replica.clone()).collect()
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().map_err(|_| anyhow!("the sender's thread panicked"))?.context("the steady sender")
    }
}
