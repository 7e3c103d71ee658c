//! Many nodes in one process over fakes, by a seed: the real operations, addressing, follower, sign of life, reconcile
//! loop and release, on hosts in memory that share a store in memory.
//!
//! It stands beside the operations, for it is they that it asks: over an API of its own kind it would test the wiring
//! once more, and from outside the crate all of the agent would have to be public. A run has no threads, no clock and no
//! sockets. One generator decides everything: which task takes the next step, what people ask for, what fails, who dies.
//! An agent dies between any two steps, by which its tasks are dropped where they stand; its kernel and its disk stay.
//!
//! A run that breaks a law prints its seed and what happened; `WEFT_SIM_SEED=N cargo test simulation` runs it again.

mod dice;
mod edges;
mod executor;
mod laws;
mod ledger;
mod world;

use world::World;

/// Runs of one test; each is some hundreds of steps of three to eight nodes.
const RUNS: u64 = 200;
/// Lines of what happened that are shown of a run that broke a law.
const SHOWN: usize = 400;

/// What happened in a run, and the law that it broke.
fn run(seed: u64) -> (Vec<String>, Result<(), String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // Tasks are stepped by hand: tokio's budget, which is there to be fair to others, has nobody to be fair to.
    runtime.block_on(tokio::task::unconstrained(async {
        let mut world = World::new(seed);
        let outcome = world.live().await;
        let log = std::mem::take(&mut world.ledger.told().log);
        (log, outcome)
    }))
}

/// `7`, or `0..10000` for a long night.
fn range(text: &str) -> Option<std::ops::Range<u64>> {
    match text.split_once("..") {
        Some((from, to)) => Some(from.parse().ok()?..to.parse().ok()?),
        None => text.parse().ok().map(|seed| seed..seed + 1),
    }
}

/// Runs seeds; what happened is told of the first that broke a law, the law of each.
fn check(seeds: impl IntoIterator<Item = u64>) {
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut broken: Vec<(u64, Vec<String>, String)> = std::thread::scope(|scope| {
        let share = |worker: usize| seeds.iter().copied().skip(worker).step_by(workers);
        let running: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || -> Vec<(u64, Vec<String>, String)> {
                    share(worker)
                        .filter_map(|seed| match run(seed) {
                            (log, Err(broken)) => Some((seed, log, broken)),
                            (_, Ok(())) => None,
                        })
                        .collect()
                })
            })
            .collect();
        running.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    broken.sort_by_key(|(seed, _, _)| *seed);
    if let Some((seed, log, _)) = broken.first() {
        let from = log.len().saturating_sub(SHOWN);
        let laws: Vec<String> = broken.iter().map(|(seed, _, broken)| format!("seed {seed}: {broken}")).collect();
        panic!("\n{}\n\n{}\nagain with WEFT_SIM_SEED={seed}", log[from..].join("\n"), laws.join("\n"));
    }
}

#[test]
fn many_nodes_keep_the_laws() {
    match std::env::var("WEFT_SIM_SEED") {
        Ok(seeds) => check(range(&seeds).expect("WEFT_SIM_SEED is a number, or two with .. between them")),
        Err(_) => check(0..RUNS),
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed), run(seed));
    }
}
