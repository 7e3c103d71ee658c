//! Notifications, many callers at once, and how the socket ends.

use std::time::{Duration, Instant};

use netns_tests::isolated;
use weft::{
    kernel::{Kernel, LinuxKernel, Rtnetlink},
    model::{Mac, NextHop, PolicyAction, PolicyRule, Route, RouteTable},
    plan::Step,
};

use super::support::{self, Container, endpoint_link, node, run, threads_here, vtep};

#[test]
fn changes_of_ours_wake_at_once_and_others_do_not() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        let mac = Mac::of_vtep(node(2));
        let prefix = "10.9.2.0/26".parse().unwrap();
        let prefix6 = "fd00:9::/64".parse().unwrap();
        let route = Route { next_hop: NextHop::TunnelLink };
        let rule = PolicyRule { priority: 100, ipv6: false, mark: (1, 0xff), action: PolicyAction::Nop };
        for step in [
            Step::PutFdb(mac, "192.0.2.2".parse().unwrap()),
            Step::PutNeighbour("169.254.10.2".parse().unwrap(), mac),
            Step::PutRoute(RouteTable::MAIN, prefix, route.clone()),
            Step::PutRoute(RouteTable::MAIN, prefix6, route),
            Step::AddPolicy(rule),
            Step::AddPolicy(PolicyRule { ipv6: true, ..rule }),
        ] {
            kernel.apply(&step).await.unwrap();
        }
        run("ip link add v1 type veth peer name v2");
        let mut changes = Rtnetlink::open().unwrap().subscribe().await.unwrap();
        let mut slowest = Duration::ZERO;
        for command in [
            format!("bridge fdb del {mac} dev weft.vx"),
            "ip neigh del 169.254.10.2 dev weft.vx".to_owned(),
            "ip route del 10.9.2.0/26 metric 77".to_owned(),
            "ip -6 route del fd00:9::/64 metric 77".to_owned(),
            "ip rule del priority 100".to_owned(),
            "ip -6 rule del priority 100".to_owned(),
            "ip link add weft.x1 type veth peer name x2".to_owned(),
            "ip link del weft.x1".to_owned(),
            "ip link set weft.vx down".to_owned(),
            "ip link del weft.vx".to_owned(),
        ] {
            // What others do meanwhile is read and passed over.
            run("ip addr add 198.51.100.1/24 dev v1 scope link; ip link set v1 up; ip link set v2 up");
            run("ip neigh replace 198.51.100.2 lladdr 02:00:00:00:00:01 dev v1 nud permanent");
            run("ip route add 203.0.113.0/24 via 198.51.100.2; ip rule add priority 7 fwmark 9 table 9");
            run("ip rule del priority 7; ip link set v1 down; ip addr del 198.51.100.1/24 dev v1");
            let idle = tokio::time::timeout(Duration::from_millis(20), changes.next()).await;
            assert!(idle.is_err(), "before {command}: foreign changes woke");
            run(&command);
            let start = Instant::now();
            tokio::time::timeout(Duration::from_millis(500), changes.next())
                .await
                .unwrap_or_else(|_| panic!("{command} did not wake"))
                .unwrap();
            slowest = slowest.max(start.elapsed());
        }
        // An address of the host of which it tells others: when it comes and when it goes, not when a router says it again.
        for (command, wakes) in [
            ("ip addr add 2001:db8::7/64 dev v1 nodad", true),
            ("ip addr change 2001:db8::7/64 dev v1 valid_lft 1000 preferred_lft 1000", false),
            ("ip addr del 2001:db8::7/64 dev v1", true),
            ("ip addr add 198.51.100.7/24 dev v1", true),
            ("ip addr change 198.51.100.7/24 dev v1 valid_lft 1000 preferred_lft 1000", false),
            ("ip addr del 198.51.100.7/24 dev v1", true),
        ] {
            run(command);
            let bound = Duration::from_millis(if wakes { 500 } else { 20 });
            let woken = tokio::time::timeout(bound, changes.next()).await;
            assert_eq!(woken.is_ok(), wakes, "{command}");
        }
        println!("slowest wake-up after the command had ended: {slowest:?}");
    });
}

#[test]
fn an_overrun_counts_as_a_change() {
    isolated(|| async {
        let mut changes = Rtnetlink::open().unwrap().subscribe().await.unwrap();
        run("ip link add v1 type veth peer name v2");
        // Foreign notifications that nobody reads, until the queue is full.
        support::batch((0..20_000).map(|n| format!("link set v1 mtu {}", 1000 + n % 100)));
        tokio::time::timeout(Duration::from_secs(5), changes.next()).await.expect("the overrun is not told").unwrap();
    });
}

#[test]
fn many_looks_at_once_and_given_up_ones_do_not_disturb_each_other() {
    isolated(|| async {
        let kernel = std::sync::Arc::new(LinuxKernel::open().await.unwrap());
        // More devices than fit one datagram, so that the kernel is still at one dump when the next is asked for.
        support::batch((0..100).map(|n| format!("link add weft.{n} type bridge")));
        let mut looks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let kernel = std::sync::Arc::clone(&kernel);
            let _ = tokio::time::timeout(Duration::ZERO, kernel.observe()).await;
            looks.spawn(async move { kernel.observe().await });
        }
        while let Some(look) = looks.join_next().await {
            assert_eq!(look.unwrap().unwrap().links.len(), 100);
        }
    });
}

#[test]
fn the_socket_ends_with_its_owner_and_serves_a_runtime_of_many_threads() {
    isolated(|| async {
        // Workers are started here, in this namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let kernel = std::sync::Arc::new(Rtnetlink::open().unwrap());
        let container = Container::start();
        let (name, wanted) = endpoint_link(1, &container, &["10.9.1.5"]);
        let step = Step::CreateLink(name.clone(), wanted.clone());
        let worker = std::sync::Arc::clone(&kernel);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            worker.apply(&step).await.unwrap();
            sender.send(worker.observe().await.unwrap()).unwrap();
        });
        let state = receiver.await.unwrap();
        assert_eq!(state.links.get(&name), Some(&wanted));
        assert_eq!(threads_here("weft-rtnetlink"), 1);
        runtime.shutdown_background();
        drop(kernel);
        let deadline = Instant::now() + Duration::from_secs(5);
        while threads_here("weft-rtnetlink") > 0 {
            assert!(Instant::now() < deadline, "the thread outlived its owner");
            tokio::task::yield_now().await;
        }
    });
}
