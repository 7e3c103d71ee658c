//! Waiting for replicas to leave balancing, with a line that tells how far it is.

use std::{cell::RefCell, convert::Infallible, future::Future, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    output::count,
    progress::{is_shown, waiting_with},
    warn,
};
use crate::api::{
    Operations, Refusal,
    wire::{CONFIRM_WAIT, DrainReply, DrainView, DrainingReplica, Span},
};

/// How often the agent is asked how far it is: as fast as a person reads.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long to wait for nodes that do not confirm: as long as the agents do, and the time that they may learn of it later.
const WAIT_MAX: Duration = CONFIRM_WAIT.saturating_add(Duration::from_secs(1));
/// Replicas that are named on the live line; the rest are a number.
const NAMED_MAX: usize = 3;

/// Of whom a drain is.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    Node(&'a str),
    Endpoint(&'a str),
}

impl Of<'_> {
    async fn view(self, agent: &impl Operations) -> Result<DrainView, Refusal> {
        match self {
            Self::Node(node) => agent.node_drain_view(node).await,
            Self::Endpoint(endpoint) => agent.endpoint_drain_view(endpoint).await,
        }
    }
}

/// Waits for `work`, and tells on a terminal how far the drain is. Into a pipe it says nothing.
pub(super) async fn watching<T>(
    what: &str,
    agent: &impl Operations,
    of: Of<'_>,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    if !is_shown() {
        return work.await;
    }
    let line = RefCell::new(what.to_owned());
    let looking = async {
        loop {
            sleep(LOOK_EVERY).await;
            // Whatever is wrong with the agent, the work hears of it.
            if let Ok(view) = of.view(agent).await {
                line.replace(format!("{what}: {}", progress(&view)));
            }
        }
    };
    let work = async {
        tokio::select! {
            result = work => result,
            never = as_endless(looking) => match never {},
        }
    };
    waiting_with(|| line.borrow().clone(), work).await
}

async fn as_endless(work: impl Future<Output = Infallible>) -> Infallible {
    work.await
}

/// Waits until the drain of a node has come to its end, or its time has passed.
pub(super) async fn node(agent: &impl Operations, node: &str, time: Option<Span>) -> Result<DrainView, Refusal> {
    let begun = Instant::now();
    let mut confirmed = None;
    loop {
        let view = agent.node_drain_view(node).await?;
        if view.done || !view.draining {
            return Ok(view);
        }
        let time = Duration::from(time.unwrap_or(view.timeout));
        if view.waiting_for.is_empty() || begun.elapsed() >= WAIT_MAX {
            let confirmed = *confirmed.get_or_insert_with(Instant::now);
            if confirmed.elapsed() >= time {
                return Ok(view);
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Says what did not go as it should.
pub(super) fn tell(reply: &DrainReply) {
    for warning in &reply.warnings {
        warn(warning);
    }
}

/// The same of a node's drain that was cut short.
pub(super) fn tell_unfinished(view: &DrainView) {
    if !view.waiting_for.is_empty() {
        let nodes = view.waiting_for.join(", ");
        warn(&format!("not confirmed yet by {nodes}: where an agent is down, its host may still send new connections"));
    }
    if let Some(open) = open(view) {
        warn(&format!("{open} still open"));
    }
    let unknown: Vec<&str> =
        view.replicas.iter().filter(|r| r.connections.is_none()).map(|r| r.name.as_str()).collect();
    if view.waiting_for.is_empty() && !unknown.is_empty() {
        warn(&format!("the connections of {} are not known", unknown.join(", ")));
    }
}

fn progress(view: &DrainView) -> String {
    let waiting = view.waiting_for.len();
    if waiting > 0 {
        let confirmed = usize::try_from(view.nodes).unwrap_or(usize::MAX).saturating_sub(waiting);
        return format!("{confirmed} of {} have confirmed", count(view.nodes, "node"));
    }
    match open(view) {
        Some(open) => format!("{} confirmed, {open} open", count(view.nodes, "node")),
        None => format!("{} confirmed", count(view.nodes, "node")),
    }
}

/// `5 connections (web-1 3, web-2 2)`; nothing if there are none.
fn open(view: &DrainView) -> Option<String> {
    let mut busy: Vec<(&str, u32)> = view
        .replicas
        .iter()
        .filter_map(|DrainingReplica { name, connections }| Some((name.as_str(), (*connections)?)))
        .filter(|(_, connections)| *connections > 0)
        .collect();
    if busy.is_empty() {
        return None;
    }
    busy.sort_by_key(|(name, connections)| (std::cmp::Reverse(*connections), *name));
    let total = busy.iter().fold(0_u32, |total, (_, connections)| total.saturating_add(*connections));
    let mut named: Vec<String> = busy.iter().take(NAMED_MAX).map(|(name, open)| format!("{name} {open}")).collect();
    if busy.len() > NAMED_MAX {
        named.push(format!("and {} more", busy.len() - NAMED_MAX));
    }
    Some(format!("{} ({})", count(total, "connection"), named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_how_far_it_is() {
        let replica = |name: &str, connections| DrainingReplica { name: name.into(), connections };
        let view = |waiting: &[&str], replicas: Vec<DrainingReplica>| DrainView {
            draining: true,
            nodes: 3,
            waiting_for: waiting.iter().map(|name| (*name).to_owned()).collect(),
            replicas,
            timeout: Duration::from_secs(10).into(),
            done: false,
        };
        for (view, line) in [
            (view(&["h2"], vec![replica("a", None)]), "2 of 3 nodes have confirmed"),
            (view(&[], vec![replica("a", None)]), "3 nodes confirmed"),
            (
                view(&[], vec![replica("a", Some(1)), replica("b", Some(0))]),
                "3 nodes confirmed, 1 connection (a 1) open",
            ),
            (
                view(&[], ["a", "b", "c", "d"].map(|name| replica(name, Some(2))).to_vec()),
                "3 nodes confirmed, 8 connections (a 2, b 2, c 2, and 1 more) open",
            ),
        ] {
            assert_eq!(progress(&view), line);
        }
    }
}
