//! The nftables edge against the kernel: what is written is read back, and does to packets what it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Output},
    time::Duration,
};

use netns_tests::isolated;
use weft::{
    kernel::nft::{Nft, render},
    model::{Chain, ChainName, Family, L4, Rule, Ruleset, SetKey, SetName, SetValue, Slot},
    plan::NftChange,
};

#[path = "../../tests/goldens/rulesets.rs"]
mod rulesets;

/// All changes that make a ruleset from nothing.
fn making(ruleset: &Ruleset) -> Vec<NftChange> {
    let sets = ruleset.sets.keys().map(|set| NftChange::AddSet(*set));
    let chains = ruleset.chains.keys().map(|chain| NftChange::AddChain(*chain));
    let elements = ruleset
        .sets
        .iter()
        .filter(|(_, elements)| !elements.is_empty())
        .map(|(set, elements)| NftChange::AddElements(*set, elements.iter().map(|(k, v)| (*k, *v)).collect()));
    let rules = ruleset.chains.iter().map(|(name, chain)| NftChange::SetRules(*name, chain.clone()));
    [NftChange::AddTable].into_iter().chain(sets).chain(chains).chain(elements).chain(rules).collect()
}

fn command(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs `nft` in the test's namespace (the thread's).
fn nft(script: &str) -> String {
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
    for line in nft("list table inet weft").lines().skip(1).map(str::trim) {
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
        for ruleset in [rulesets::everything(), rulesets::bare()] {
            nft.apply(&making(&ruleset)).await.unwrap();
            similar(nft.observe().await.unwrap().unwrap(), &ruleset);
            // Once more changes nothing.
            nft.apply(&making(&ruleset)).await.unwrap();
            similar(nft.observe().await.unwrap().unwrap(), &ruleset);
            nft.apply(&[NftChange::DeleteTable]).await.unwrap();
            assert_eq!(nft.observe().await.unwrap(), None);
            nft.apply(&[NftChange::DeleteTable]).await.unwrap();
        }
    });
}

/// Equal, told set by set and chain by chain.
fn similar(found: Ruleset, wanted: &Ruleset) {
    for (set, elements) in &wanted.sets {
        assert_eq!(found.sets.get(set), Some(elements), "{set}");
    }
    for (name, chain) in &wanted.chains {
        assert_eq!(found.chains.get(name), Some(chain), "{name}");
    }
    assert_eq!(&found, wanted);
}

#[test]
fn text_and_expressions_agree() {
    for ruleset in [rulesets::everything(), rulesets::bare()] {
        let (by_us, by_nft) = (ruleset.clone(), ruleset);
        let (sender, listings) = std::sync::mpsc::channel();
        let other = sender.clone();
        isolated(move || async move {
            Nft::open().unwrap().apply(&making(&by_us)).await.unwrap();
            sender.send(listing()).unwrap();
        });
        isolated(move || async move {
            let text = render(&by_nft);
            nft_file(&text, &["-c"]);
            nft_file(&text, &[]);
            similar(Nft::open().unwrap().observe().await.unwrap().unwrap(), &by_nft);
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
