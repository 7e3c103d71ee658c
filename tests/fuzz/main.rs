//! Every parser of foreign bytes, fed with damaged ones: for 2 s each among the ordinary tests, for `WEFT_FUZZ_SECONDS` by
//! `cargo xtask fuzz`.
//!
//! Inputs are the seeds of a target and the files under `tests/fuzz/corpus/TARGET`, damaged at random. There is no instrumented
//! build, for that needs another compiler; what makes up for it is that seeds are whole messages of every kind and that inputs
//! with a new outcome (the target's word for what it did) are kept and damaged further. What fails is shown and written to
//! `target/tmp/fuzz`; put into the corpus it is tried first in every run.
//!
//! A new target is a file here with `seeds` and `run`, a row in [`TARGETS`] and a test that names it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod dns;
#[path = "../dns_reader/mod.rs"]
mod dns_reader;
mod mutate;
#[path = "../names_world/mod.rs"]
mod names_world;
mod proxy;

use std::{
    collections::BTreeSet,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mutate::Dice;

/// Runs one input, panics where something is wrong, and gives a word for what it did.
type Runner = Box<dyn Fn(&[u8]) -> String>;

/// A parser of foreign bytes.
struct Target {
    /// Its name, which is its test's and its corpus's.
    name: &'static str,
    /// Good inputs, of every kind.
    seeds: fn() -> Vec<Vec<u8>>,
    /// Makes what runs one input.
    runner: fn() -> Runner,
}

const TARGETS: &[Target] = &[
    Target { name: "dns_question", seeds: dns::question_seeds, runner: dns::question_runner },
    Target { name: "dns_reply", seeds: dns::reply_seeds, runner: dns::reply_runner },
    Target { name: "proxy_header", seeds: proxy::header_seeds, runner: proxy::header_runner },
];

#[test]
fn dns_question() {
    fuzz("dns_question");
}

#[test]
fn dns_reply() {
    fuzz("dns_reply");
}

#[test]
fn proxy_header() {
    fuzz("proxy_header");
}

/// Long enough for some ten thousand inputs without optimisation.
const BRIEFLY: Duration = Duration::from_secs(2);

/// The longest input: a datagram of DNS, or whatever others send, with room to spare.
const INPUT_MAX: usize = 2048;

/// How many inputs are kept for their outcome.
const KEPT_MAX: usize = 512;

fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let number = |key: &str| env::var(key).ok().map(|text| text.parse::<u64>().unwrap());
    let time = number("WEFT_FUZZ_SECONDS").map_or(BRIEFLY, Duration::from_secs);
    let seed = number("WEFT_FUZZ_SEED").unwrap_or_else(|| getrandom::u64().unwrap());
    let mut dice = Dice::new(seed);
    let run = (target.runner)();
    let mut pool = (target.seeds)();
    pool.extend(corpus(name));
    let mut outcomes = BTreeSet::new();
    for input in &pool {
        outcomes.insert(tried(name, seed, &run, input));
    }
    let (begun, mut count) = (Instant::now(), pool.len());
    while begun.elapsed() < time {
        let mut input = dice.choose(&pool).clone();
        for _ in 0..=dice.below(4) {
            mutate::damage(&mut input, &pool, &mut dice);
        }
        input.truncate(INPUT_MAX);
        if outcomes.insert(tried(name, seed, &run, &input)) && pool.len() < KEPT_MAX {
            pool.push(input);
        }
        count += 1;
    }
    println!("{name}: {count} inputs, {} outcomes, seed {seed}", outcomes.len());
}

fn tried(name: &str, seed: u64, run: &dyn Fn(&[u8]) -> String, input: &[u8]) -> String {
    catch_unwind(AssertUnwindSafe(|| run(input))).unwrap_or_else(|_| {
        let hex = input.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let path = keep(name, input);
        panic!("{name} failed on this input, kept as {} (seed {seed}): {hex}", path.display());
    })
}

/// The inputs that are tried in every run.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{name}-{}", std::process::id()));
    fs::write(&path, input).unwrap();
    path
}
