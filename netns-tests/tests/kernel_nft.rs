//! The nftables edge against the kernel: what is written is read back, and does to packets what it says.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    process::{Command, Output},
};

use netns_tests::isolated;
use weft::{
    kernel::nft::{Nft, render},
    model::{Bind, Chain, ChainName, Family, L4, Rule, Ruleset, SetKey, SetName, SetValue, Slot},
    plan::NftChange,
};

#[path = "../../tests/goldens/rulesets.rs"]
mod rulesets;

mod nft_support;
#[path = "kernel_nft/others.rs"]
mod others;

use nft_support::making;

fn command(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs `nft` in the test's namespace (the thread's).
fn nft_text(script: &str) -> String {
    let Output { status, stdout, stderr } = command("nft", &[script]);
    assert!(status.success(), "nft {script}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn nft_file(text: &str, check: &[&str]) {
    let file = std::env::temp_dir().join(format!("weft-nft-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&file, text).unwrap();
    let output = command("nft", &[check, &["-f", file.to_str().unwrap()]].concat());
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

/// `nft list` with what has no order put in order: sets and chains by name, elements by their text.
fn listing() -> BTreeMap<String, Vec<String>> {
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut head = String::new();
    let mut elements = None::<String>;
    for line in nft_text("list table inet weft").lines().skip(1).map(str::trim) {
        if let Some(text) = line.strip_prefix("elements = {") {
            elements = Some(text.to_owned());
        } else if let Some(text) = &mut elements {
            text.push(' ');
            text.push_str(line);
        } else if line.ends_with('{') {
            line.clone_into(&mut head);
            blocks.insert(head.clone(), Vec::new());
        } else if line != "}" && !line.is_empty() {
            blocks.get_mut(&head).unwrap().push(line.to_owned());
        }
        if let Some(text) = elements.take_if(|text| text.ends_with('}')) {
            let mut list: Vec<_> = text.trim_end_matches('}').split(',').map(|e| e.trim().to_owned()).collect();
            list.sort();
            blocks.get_mut(&head).unwrap().extend(list);
        }
    }
    blocks
}

#[test]
fn everything_is_read_back() {
    isolated(|| async {
        let nft = Nft::open().unwrap();
        assert_eq!(nft.observe().await.unwrap(), None);
        for ruleset in [rulesets::everything(), rulesets::sticky(300_000), rulesets::bare()] {
            nft.apply(&making(&ruleset)).await.unwrap();
            similar(&nft.observe().await.unwrap().unwrap(), &ruleset);
            // Once more changes nothing.
            nft.apply(&making(&ruleset)).await.unwrap();
            similar(&nft.observe().await.unwrap().unwrap(), &ruleset);
            nft.apply(&[NftChange::DeleteTable]).await.unwrap();
            assert_eq!(nft.observe().await.unwrap(), None);
            nft.apply(&[NftChange::DeleteTable]).await.unwrap();
        }
    });
}

/// Equal, told set by set and chain by chain.
fn similar(found: &Ruleset, wanted: &Ruleset) {
    for (set, elements) in &wanted.sets {
        assert_eq!(found.sets.get(set), Some(elements), "{set}");
    }
    for (name, chain) in &wanted.chains {
        assert_eq!(found.chains.get(name), Some(chain), "{name}");
    }
    assert_eq!(found, wanted);
}

#[test]
fn text_and_expressions_agree() {
    for ruleset in [rulesets::everything(), rulesets::bare()] {
        let (by_us, by_nft) = (ruleset.clone(), ruleset);
        let (sender, listings) = std::sync::mpsc::sync_channel(16);
        let other = sender.clone();
        isolated(move || async move {
            Nft::open().unwrap().apply(&making(&by_us)).await.unwrap();
            sender.send(listing()).unwrap();
        });
        isolated(move || async move {
            let text = render(&by_nft);
            nft_file(&text, &["-c"]);
            nft_file(&text, &[]);
            similar(&Nft::open().unwrap().observe().await.unwrap().unwrap(), &by_nft);
            other.send(listing()).unwrap();
        });
        let (ours, theirs) = (listings.recv().unwrap(), listings.recv().unwrap());
        assert!(!ours.is_empty());
        for (head, lines) in &theirs {
            assert_eq!(ours.get(head), Some(lines), "{head}");
        }
        assert_eq!(ours, theirs);
    }
}

/// Rules for which nft has no words do not harm it either.
#[test]
fn the_memory_of_clients_can_be_listed() {
    isolated(|| async {
        let _nft = installed(&rulesets::sticky(90_000)).await;
        let text = nft_text("list table inet weft");
        eprintln!("{text}");
        for part in [
            "update @sticky4 { 0x00000007 . ip saddr timeout 1m30s :",
            "delete @sticky6 { 0x00000007 . ip6 saddr :",
            "comment \"weft 2 recall-port 4 tcp 8080 7 90000\"",
            "comment \"weft 2 remember-vip 6 255 4294967295 1 turn 7 90000\"",
            "size 262144",
            "flags dynamic,timeout",
        ] {
            assert!(text.contains(part), "{part}");
        }
    });
}

async fn installed(ruleset: &Ruleset) -> Nft {
    let nft = Nft::open().unwrap();
    nft.apply(&making(ruleset)).await.unwrap();
    nft
}

/// The rules of a chain with their handles, as `nft` sees them.
fn handles(chain: &str) -> Vec<String> {
    let listing = command("nft", &["-a", "list", "chain", "inet", "weft", chain]);
    String::from_utf8(listing.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once("# handle "))
        .filter(|(rule, _)| !rule.contains('{'))
        .map(|(_, handle)| handle.to_owned())
        .collect()
}

fn prefix(text: &str) -> (SetKey, SetValue) {
    (SetKey::Prefix(text.parse().unwrap()), SetValue::Nothing)
}

fn pair(source: &str, destination: &str) -> (SetKey, SetValue) {
    (SetKey::PrefixPair(source.parse().unwrap(), destination.parse().unwrap()), SetValue::Nothing)
}

#[test]
fn elements_come_and_go_alone() {
    isolated(|| async {
        let nft = installed(&rulesets::everything()).await;
        let mut wanted = rulesets::everything();
        let target = |turn: u32, address: &str| {
            (SetKey::Slot(Slot((7 << 16) + turn)), SetValue::Target(address.parse().unwrap()))
        };
        // Every order in which neighbours can come and go; adding twice and deleting twice.
        let networks4 = SetName::Networks(Family::V4);
        let networks6 = SetName::Networks(Family::V6);
        let deltas: Vec<(SetName, Vec<_>, Vec<_>)> = vec![
            (networks4, vec![prefix("10.9.1.0/24")], vec![]),
            (networks4, vec![], vec![prefix("10.9.1.0/24")]),
            (networks4, vec![prefix("10.9.0.0/24")], vec![]),
            (networks4, vec![], vec![prefix("10.9.0.0/24"), prefix("10.9.2.0/24"), prefix("10.8.255.0/24")]),
            (networks4, vec![], vec![prefix("10.9.0.0/24")]),
            (networks4, vec![prefix("10.9.1.0/24"), prefix("10.99.0.0/16")], vec![]),
            (networks4, vec![prefix("255.255.0.0/16"), prefix("10.9.1.0/24")], vec![]),
            (networks4, vec![prefix("10.9.0.0/24"), prefix("10.9.2.0/24")], vec![prefix("10.9.1.0/24")]),
            (networks4, vec![], vec![prefix("0.0.0.0/8"), prefix("255.255.0.0/16")]),
            (networks6, vec![prefix("fd00:9::/64")], vec![prefix("fd00:9:0:2::/64")]),
            (networks6, vec![prefix("ff00::/8")], vec![prefix("fd00:9::/64")]),
            (
                SetName::Within(Family::V4),
                vec![pair("10.9.0.0/24", "10.9.0.0/24")],
                vec![pair("10.9.2.0/24", "10.9.2.0/24"), pair("10.9.2.0/24", "10.9.1.0/24")],
            ),
            (
                SetName::Within(Family::V6),
                vec![pair("fd00:9:0:1::/64", "fd00:9:0:1::/64")],
                vec![pair("fd00:9:0:2::/64", "fd00:9:0:2::/64")],
            ),
            // A slot changes hands in one batch.
            (SetName::Targets(Family::V4, 7), vec![target(1, "10.9.1.2:8080")], vec![target(1, "10.9.0.9:1")]),
            (
                SetName::Ports,
                vec![(SetKey::Port(L4::Tcp, 80), SetValue::Goto(ChainName::Port(L4::Tcp, 80, Bind::Any)))],
                vec![(SetKey::Port(L4::Tcp, 81), SetValue::Goto(ChainName::Port(L4::Tcp, 80, Bind::Any)))],
            ),
        ];
        for (set, delete, add) in deltas {
            let elements = wanted.sets.get_mut(&set).unwrap();
            for (key, _) in &delete {
                elements.remove(key);
            }
            elements.extend(add.iter().copied());
            let add = (!add.is_empty()).then_some(NftChange::AddElements(set, add));
            let delete = (!delete.is_empty()).then_some(NftChange::DeleteElements(set, delete));
            nft.apply(&[delete, add].into_iter().flatten().collect::<Vec<_>>()).await.unwrap();
            similar(&nft.observe().await.unwrap().unwrap(), &wanted);
        }
    });
}

#[test]
fn a_changed_rule_leaves_the_others_alone() {
    isolated(|| async {
        let ruleset = rulesets::everything();
        let nft = installed(&ruleset).await;
        let chain = ChainName::Port(L4::Tcp, 80, Bind::Any);
        let mut rules = ruleset.chains[&chain].rules.clone();
        let before = handles("port_tcp_80");
        let Rule::BalancePort { slots, .. } = &mut rules[0] else { panic!("{rules:?}") };
        *slots = 5;
        nft.apply(&[NftChange::SetRules(chain, Chain { rules: rules.clone() })]).await.unwrap();
        let after = handles("port_tcp_80");
        assert_eq!(after.len(), 4);
        assert_eq!(before[1..], after[1..]);
        assert_eq!(nft.observe().await.unwrap().unwrap().chains[&chain].rules, rules);

        // Shorter, longer, twice in one batch, and through removal.
        let (short, long) = (Chain { rules: rules[..2].to_vec() }, Chain { rules: rules.repeat(2) });
        for changes in [
            vec![NftChange::SetRules(chain, short.clone())],
            vec![NftChange::SetRules(chain, long.clone())],
            vec![NftChange::SetRules(chain, long.clone()), NftChange::SetRules(chain, short.clone())],
            vec![NftChange::SetRules(chain, Chain::default())],
            vec![
                NftChange::DeleteElements(
                    SetName::Ports,
                    vec![(SetKey::Port(L4::Tcp, 80), SetValue::Goto(ChainName::Port(L4::Tcp, 80, Bind::Any)))],
                ),
                NftChange::DeleteChain(chain),
                NftChange::AddChain(chain),
                NftChange::SetRules(chain, long.clone()),
            ],
        ] {
            nft.apply(&changes).await.unwrap();
            let Some(NftChange::SetRules(_, wanted)) = changes.last() else { panic!("{changes:?}") };
            assert_eq!(&nft.observe().await.unwrap().unwrap().chains[&chain], wanted);
        }
    });
}

#[test]
fn deleting_what_is_not_there_succeeds() {
    isolated(|| async {
        let nft = installed(&rulesets::bare()).await;
        let chain = ChainName::Port(L4::Udp, 9, Bind::Any);
        let gone = (SetKey::Port(L4::Udp, 9), SetValue::Goto(chain));
        nft.apply(&[NftChange::AddChain(chain), NftChange::AddElements(SetName::Ports, vec![gone])]).await.unwrap();
        let never = (SetKey::Port(L4::Udp, 10), SetValue::Goto(chain));
        let changes = [
            NftChange::DeleteElements(SetName::Ports, vec![never, gone]),
            NftChange::DeleteElements(
                SetName::Vteps,
                vec![(SetKey::Mac(weft::model::Mac::GATEWAY), SetValue::Mark(1))],
            ),
            NftChange::DeleteChain(chain),
            NftChange::DeleteChain(ChainName::FromTunnel),
            NftChange::DeleteSet(SetName::Vteps),
        ];
        nft.apply(&changes).await.unwrap();
        similar(&nft.observe().await.unwrap().unwrap(), &rulesets::bare());
        nft.apply(&changes).await.unwrap();
        nft.apply(&[NftChange::DeleteTable]).await.unwrap();
        nft.apply(&changes).await.unwrap();
        assert_eq!(nft.observe().await.unwrap(), None);
    });
}

#[test]
fn an_error_names_the_change_and_nothing_is_done() {
    isolated(|| async {
        let nft = installed(&rulesets::everything()).await;
        let error = nft
            .apply(&[
                NftChange::AddChain(ChainName::Port(L4::Udp, 9, Bind::Any)),
                NftChange::DeleteChain(ChainName::Port(L4::Tcp, 80, Bind::Any)),
                NftChange::AddSet(SetName::Replicas(Family::V4, 9)),
            ])
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("remove the chain port_tcp_80"), "{error}");
        assert!(error.contains("busy") && error.contains("errno 16"), "{error}");
        similar(&nft.observe().await.unwrap().unwrap(), &rulesets::everything());

        let misfit = (SetKey::Address("::1".parse().unwrap()), SetValue::Nothing);
        let error = nft.apply(&[NftChange::AddElements(SetName::Peers(Family::V4), vec![misfit])]).await.unwrap_err();
        assert!(error.to_string().contains("does not belong in the set peers4"), "{error}");
        let error = nft
            .apply(&[NftChange::SetRules(ChainName::Forward, Chain { rules: vec![Rule::Foreign(3)] })])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("give the chain forward its 1 rules"), "{error}");
    });
}

#[test]
fn twenty_thousand_elements_go_in_one_batch() {
    isolated(|| async {
        let set = |family| SetName::Targets(family, 0);
        let elements = |family: Family| -> BTreeMap<SetKey, SetValue> {
            (0..20_000_u32)
                .map(|slot| {
                    let address: std::net::IpAddr = match family {
                        Family::V4 => std::net::Ipv4Addr::from_bits(0x0a00_0000 + slot).into(),
                        Family::V6 => std::net::Ipv6Addr::from_bits(0xfd << 120 | u128::from(slot)).into(),
                    };
                    (SetKey::Slot(Slot(slot)), SetValue::Target((address, 8080).into()))
                })
                .collect()
        };
        let mut wanted = Ruleset::default();
        for family in Family::BOTH {
            wanted.sets.insert(set(family), elements(family));
        }
        let pairs: BTreeMap<_, _> = (0..2_000_u16)
            .map(|n| {
                format!("fd00:{n:x}::/32").parse().map(|net| (SetKey::PrefixPair(net, net), SetValue::Nothing)).unwrap()
            })
            .collect();
        wanted.sets.insert(SetName::Within(Family::V6), pairs);
        let networks = (0..2_000_u16).map(|n| prefix(&format!("10.{}.{}.0/24", n / 256, n % 256))).collect();
        wanted.sets.insert(SetName::Networks(Family::V4), networks);
        let started = std::time::Instant::now();
        let nft = installed(&wanted).await;
        println!("40,000 targets and 4,000 prefixes made in {:?}", started.elapsed());
        let started = std::time::Instant::now();
        assert!(nft.observe().await.unwrap().unwrap() == wanted);
        println!("and read in {:?}", started.elapsed());

        let element = |slot, port| {
            let address: std::net::IpAddr = std::net::Ipv4Addr::from_bits(0x0a00_0000 + slot).into();
            (SetKey::Slot(Slot(slot)), SetValue::Target((address, port).into()))
        };
        let started = std::time::Instant::now();
        for slot in 0..100 {
            nft.apply(&[
                NftChange::DeleteElements(set(Family::V4), vec![element(slot, 8080)]),
                NftChange::AddElements(set(Family::V4), vec![element(slot, 9090)]),
            ])
            .await
            .unwrap();
        }
        println!("a batch of two elements in {:?}", started.elapsed() / 100);
    });
}

#[test]
fn a_chain_may_be_deleted_after_its_element() {
    isolated(|| async {
        let nft = installed(&rulesets::everything()).await;
        let chain = ChainName::Port(L4::Tcp, 80, Bind::Any);
        let to_chain = |port| (SetKey::Port(L4::Tcp, port), SetValue::Goto(chain));
        nft.apply(&[NftChange::AddElements(SetName::Ports, vec![to_chain(81)])]).await.unwrap();
        // Two point to it and one goes: the chain stays, which is found out in the second transaction.
        let error = nft
            .apply(&[NftChange::DeleteElements(SetName::Ports, vec![to_chain(80)]), NftChange::DeleteChain(chain)])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("remove the chain port_tcp_80"), "{error}");
        let seen = nft.observe().await.unwrap().unwrap();
        assert!(!seen.sets[&SetName::Ports].contains_key(&to_chain(80).0));
        assert!(seen.chains.contains_key(&chain));

        nft.apply(&[NftChange::DeleteElements(SetName::Ports, vec![to_chain(81)]), NftChange::DeleteChain(chain)])
            .await
            .unwrap();
        assert!(!nft.observe().await.unwrap().unwrap().chains.contains_key(&chain));
    });
}
