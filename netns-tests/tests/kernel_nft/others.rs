//! What others do to the table and beside it: it is seen, told, and put right.

use std::time::Duration;

use netns_tests::isolated;
use weft::{
    kernel::nft::Nft,
    model::{Bind, ChainName, Family, L4, Rule, Ruleset, SetKey, SetName, SetValue},
    plan::NftChange,
};

use super::{installed, making, nft_text, rulesets, similar};

#[test]
fn foreign_rules_are_seen_and_replaced() {
    isolated(|| async {
        let wanted = rulesets::everything();
        let nft = installed(&wanted).await;
        nft_text("insert rule inet weft forward ip saddr { 1.2.3.4, 1.2.3.5 } drop");
        nft_text("add rule inet weft nat_postrouting drop comment \"weft 0 masquerade 4\"");
        nft_text("add table inet other");
        nft_text("add chain inet other c { type filter hook forward priority 5; }");
        nft_text("add rule inet other c accept");
        let other = nft_text("list table inet other");

        let seen = nft.observe().await.unwrap().unwrap();
        for chain in [ChainName::Forward, ChainName::NatPostrouting] {
            let foreign = seen.chains[&chain].rules.iter().filter(|rule| matches!(rule, Rule::Foreign(_))).count();
            assert_eq!(foreign, 1, "{chain}");
        }
        assert_eq!(seen.sets, wanted.sets);
        let repair = [ChainName::Forward, ChainName::NatPostrouting]
            .map(|chain| NftChange::SetRules(chain, wanted.chains[&chain].clone()));
        nft.apply(&repair).await.unwrap();
        similar(&nft.observe().await.unwrap().unwrap(), &wanted);

        nft.apply(&[NftChange::DeleteTable]).await.unwrap();
        assert_eq!(nft_text("list table inet other"), other);
    });
}

#[test]
fn a_misshapen_table_is_replaced_whole() {
    for damage in [
        &["add chain inet weft mine"][..],
        &["add chain inet weft mine { type filter hook forward priority -1; policy drop; }"],
        &["add set inet weft mine { type ipv4_addr; }"],
        &["add chain inet weft forward { policy drop; }"],
        &["add element inet weft networks4 { 10.200.0.1-10.200.0.6 }"],
        &["add element inet weft ports { udplite . 80 : goto port_tcp_80 }"],
        &["add element inet weft ports { tcp . 81 : drop }"],
        &["add set inet weft peers4x { type ipv4_addr; }"],
        &["delete table inet weft", "add table inet weft { flags dormant; }"],
        &["delete table inet weft", "add table inet weft", "add set inet weft networks4 { type ipv6_addr; }"],
        &["delete table inet weft", "add table inet weft", "add set inet weft networks4 { type ipv4_addr; }"],
        &["delete table inet weft", "add table inet weft", "add set inet weft vips4 { type ipv4_addr; }"],
        &[
            "delete table inet weft",
            "add table inet weft",
            "add chain inet weft nat_output { type nat hook output priority -99; }",
        ],
        &["delete table inet weft", "add table inet weft", "add chain inet weft nat_output"],
    ] {
        isolated(move || async move {
            let wanted = rulesets::everything();
            let nft = installed(&wanted).await;
            for line in damage {
                nft_text(line);
            }
            assert_eq!(nft.observe().await.unwrap(), Some(Ruleset::default()), "{damage:?}");
            // What a plan from nothing but the table asks for.
            nft.apply(&making(&wanted)[1..]).await.unwrap();
            similar(&nft.observe().await.unwrap().unwrap(), &wanted);
            // The next batch keeps what is there.
            nft.apply(&[NftChange::AddChain(ChainName::Port(L4::Udp, 9, Bind::Any))]).await.unwrap();
            assert_eq!(nft.observe().await.unwrap().unwrap().chains.len(), wanted.chains.len() + 1);
        });
    }
}

#[test]
fn a_misshapen_table_can_be_removed() {
    isolated(|| async {
        let nft = installed(&rulesets::everything()).await;
        nft_text("add chain inet weft mine");
        assert_eq!(nft.observe().await.unwrap(), Some(Ruleset::default()));
        nft.apply(&[NftChange::DeleteTable]).await.unwrap();
        assert_eq!(nft.observe().await.unwrap(), None);
        // And one that vanished between look and change.
        nft.apply(&making(&rulesets::bare())).await.unwrap();
        nft_text("add chain inet weft mine");
        nft.observe().await.unwrap();
        nft_text("delete table inet weft");
        nft.apply(&making(&rulesets::bare())).await.unwrap();
        similar(&nft.observe().await.unwrap().unwrap(), &rulesets::bare());
    });
}

#[test]
fn changes_of_others_are_told() {
    isolated(|| async {
        let nft = installed(&rulesets::bare()).await;
        let mut changes = nft.subscribe().unwrap();
        let soon = Duration::from_secs(5);
        let quiet = Duration::from_millis(200);
        nft_text("add element inet weft ports { tcp . 1 : accept }");
        nft_text("add chain inet weft mine");
        tokio::time::timeout(soon, changes.changed()).await.unwrap().unwrap();
        // Both are one notice, our own changes and other tables are none.
        nft.apply(&making(&rulesets::bare())).await.unwrap();
        nft_text("add table inet other");
        nft_text("add table ip weft");
        assert!(tokio::time::timeout(quiet, changes.changed()).await.is_err());
        nft_text("delete table inet weft");
        tokio::time::timeout(soon, changes.changed()).await.unwrap().unwrap();
    });
}

#[test]
fn a_storm_of_changes_is_one_change() {
    isolated(|| async {
        let nft = installed(&rulesets::bare()).await;
        let mut changes = nft.subscribe().unwrap();
        // More than the listener's buffer holds: the kernel drops notices and says so.
        let other = Nft::open().unwrap();
        let elements: Vec<_> = (0..20_000_u32)
            .map(|n| (SetKey::Address(std::net::Ipv4Addr::from_bits(n).into()), SetValue::Nothing))
            .collect();
        other.apply(&[NftChange::AddSet(SetName::Peers(Family::V4))]).await.unwrap();
        other.apply(&[NftChange::AddElements(SetName::Peers(Family::V4), elements)]).await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.unwrap().unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(200), changes.changed()).await.is_err());
    });
}

#[test]
fn others_at_work_do_not_disturb() {
    isolated(|| async {
        let ruleset = rulesets::everything();
        let nft = installed(&ruleset).await;
        // Another writer, elsewhere, as fast as it can.
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&stop);
        let other = std::thread::spawn(move || {
            let mut turns = 0;
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                nft_text("add table inet other");
                nft_text("delete table inet other");
                turns += 1;
            }
            turns
        });
        let chain = ChainName::Port(L4::Tcp, 80, Bind::Any);
        for slots in 1..60 {
            let mut rules = ruleset.chains[&chain].clone();
            let Rule::BalancePort { slots: of_rule, .. } = &mut rules.rules[0] else { panic!("{rules:?}") };
            *of_rule = slots;
            nft.apply(&[NftChange::SetRules(chain, rules.clone())]).await.unwrap();
            assert_eq!(nft.observe().await.unwrap().unwrap().chains[&chain], rules);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(other.join().unwrap() > 0);
    });
}
