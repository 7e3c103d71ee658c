//! The rules as data, each with its reason.

/// A file of the library with more lines than this is named.
pub(super) const LINES_WARN: usize = 400;

/// A file of the library with more lines than this is refused: 1.5 times what one subject has needed so far.
pub(super) const LINES_MAX: usize = 600;

/// The tasks of xtask that the README must name.
pub(super) const PROMISED_TASKS: &[&str] = &["demo", "test"];

const PURE: &str =
    "the pure half decides from values alone, so that every decision can be tested without a kernel or a store";
const EDGE: &str = "an edge speaks to one outside thing in the model's words; only `agent` sees two of them";

const WITHIN_TLS: &str =
    "an edge speaks to one outside thing in the model's words; TLS is how two of them speak, not whom to";

/// Each top-level module of the library, the modules it may import, and why not more.
pub(super) const DIRECTION: &[(&str, &[&str], &str)] = &[
    ("model", &[], "the nouns depend on nothing of ours, so that everything can depend on them"),
    ("ipam", &["model"], PURE),
    ("overlay", &["model"], PURE),
    ("mesh", &["model"], PURE),
    ("desired", &["model", "overlay", "mesh"], PURE),
    ("names", &["model", "mesh"], PURE),
    ("plan", &["model"], PURE),
    ("kernel", &["model", "plan"], EDGE),
    ("tls", &["model"], "it knows certificates and streams, and nothing of what is said over them"),
    ("store", &["model", "tls"], WITHIN_TLS),
    ("peer", &["model", "tls"], WITHIN_TLS),
    (
        "dns",
        &["model", "names"],
        "an edge speaks to one outside thing; questions and answers are values of `names`, as steps for the kernel are of `plan`",
    ),
    ("proxy", &["model"], EDGE),
    ("probe", &["model"], EDGE),
    ("api", &["model"], EDGE),
    (
        "agent",
        &[
            "model", "ipam", "overlay", "mesh", "desired", "names", "plan", "kernel", "store", "peer", "dns", "proxy",
            "probe", "api", "tls",
        ],
        "the agent wires everything, and nothing that it wires is a command line",
    ),
    ("cli", &["api"], "what the command line can do, any program can do over the API"),
];

const ONE_HOME: &str = "a protocol library is replaced in one folder; everybody else speaks the model's words";
const GRPC: &str = "two services share one port and one library: the store's etcd protocol and the nodes' joining";
const SERDE: &str = "bytes for others are versioned on purpose, in records, on the API and in the configuration file; \
                     a model that serialises itself freezes its own shape";

/// Bytes for others: records, the API, files (the node's identity has a version of its own), and what Consul's HTTP API says.
const SPOKEN: &[&str] =
    &["src/store/record", "src/store/consul", "src/api/", "src/agent/config", "src/agent/identity", "src/cli/output"];

/// Each third-party crate that has a home (a trailing `*` stands for any ending), the folders, and why.
pub(super) const OWNED_CRATES: &[(&str, &[&str], &str)] = &[
    ("rtnetlink", &["src/kernel/"], ONE_HOME),
    ("netlink_*", &["src/kernel/"], ONE_HOME),
    ("socket2", &["src/kernel/"], ONE_HOME),
    ("domain", &["src/dns/"], ONE_HOME),
    ("ppp", &["src/proxy/"], ONE_HOME),
    ("listenfd", &["src/proxy/"], ONE_HOME),
    ("redb", &["src/store/embedded"], ONE_HOME),
    ("zookeeper_client", &["src/store/zookeeper"], ONE_HOME),
    ("tokio_rustls", &["src/tls/"], ONE_HOME),
    ("rustls_native_certs", &["src/tls/"], ONE_HOME),
    ("rcgen", &["src/tls/"], ONE_HOME),
    ("chacha20poly1305", &["src/peer/"], ONE_HOME),
    ("tonic*", &["src/store/etcd", "src/peer/"], GRPC),
    ("prost", &["src/store/etcd", "src/peer/"], GRPC),
    // tonic's own server is an axum router.
    ("axum", &["src/api/", "src/agent/metrics", "src/store/etcd", "src/peer/"], ONE_HOME),
    ("hyper*", &["src/api/", "src/agent/metrics", "src/store/etcd", "src/store/consul", "src/peer/"], ONE_HOME),
    ("prometheus", &["src/agent/metrics"], ONE_HOME),
    ("clap*", &["src/cli/", "src/main.rs"], ONE_HOME),
    ("comfy_table", &["src/cli/"], ONE_HOME),
    ("serde", SPOKEN, SERDE),
    ("serde_json", SPOKEN, SERDE),
    ("toml", &["src/agent/config"], SERDE),
];

/// Whether a rule looks at comments too.
#[derive(PartialEq, Eq)]
pub(super) enum Comments {
    /// It does.
    Read,
    /// Code outside comments and strings alone.
    Skipped,
}

/// A text that may not occur.
pub(super) struct Forbidden {
    /// The text.
    pub(super) text: &'static str,
    /// Where it may not occur: beginnings of paths.
    pub(super) places: &'static [&'static str],
    /// Where it may after all.
    pub(super) except: &'static [&'static str],
    /// Where it is looked for.
    pub(super) also_in_comments: Comments,
    /// Why.
    pub(super) why: &'static str,
}

const EVERYWHERE: &[&str] = &["src/", "tests/", "netns-tests/", "bench/", "xtask/"];
const TESTS: &[&str] = &["tests/", "netns-tests/tests/"];
/// There time itself is the subject: a lease of a real server ends when its time has passed.
const LEASE_TIME: &[&str] = &["tests/store_conformance/backend.rs"];
const UNFINISHED: &str = "the main branch holds what works; unfinished work is an issue, not a mark in the code";
const GUESS: &str =
    "a fixed sleep is too short on a slow machine and too long on a fast one: wait for the fact with a bound";

/// Every forbidden text.
pub(super) const FORBIDDEN: &[Forbidden] = &[
    anywhere("todo!", Comments::Skipped, UNFINISHED),
    anywhere("unimplemented!", Comments::Skipped, UNFINISHED),
    anywhere("FIXME", Comments::Read, UNFINISHED),
    anywhere("TODO", Comments::Read, UNFINISHED),
    anywhere("#[ignore", Comments::Skipped, "a test that does not run proves nothing; delete it or make it run"),
    Forbidden { text: "sleep(", places: TESTS, except: LEASE_TIME, also_in_comments: Comments::Skipped, why: GUESS },
    Forbidden {
        text: "Command::new(",
        places: &["src/"],
        except: &["src/cli/"],
        also_in_comments: Comments::Skipped,
        why: "a process for a change costs milliseconds and its errors are text; the kernel is spoken to over netlink \
              (`weft run` starts its command from the command line's side)",
    },
    Forbidden {
        text: "println!(",
        places: &["src/"],
        except: &["src/cli/", "src/main.rs"],
        also_in_comments: Comments::Skipped,
        why: "only the command line prints; the daemon logs through tracing",
    },
];

const fn anywhere(text: &'static str, also_in_comments: Comments, why: &'static str) -> Forbidden {
    // The rules themselves and their tests have to name what they forbid.
    Forbidden { text, places: EVERYWHERE, except: &["xtask/src/tidy/"], also_in_comments, why }
}
