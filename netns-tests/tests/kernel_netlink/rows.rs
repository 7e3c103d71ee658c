//! Rows go in, are seen by the tools, are observed as they were wanted, go in again, and go out again.

use netns_tests::isolated;
use weft::{
    kernel::{Kernel, LinuxKernel},
    model::{HostState, Mac, NextHop, PolicyAction, PolicyRule, Route, RouteTable, Sysctl, Vtep},
    plan::Step,
};

use super::support::{json, node, output, put, rows, run, vtep, without_settings};

#[test]
fn the_tunnel_device_goes_in_and_out() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        assert_eq!(without_settings(&kernel.observe().await.unwrap()), HostState::default());
        let wanted = vtep(1);
        let state = put(&kernel, Step::CreateVtep(wanted)).await;
        assert_eq!(state.vtep, Some(wanted));

        let link = &json("ip -j -d link show weft.vx")[0];
        let data = &link["linkinfo"]["info_data"];
        assert_eq!(link["address"], wanted.mac.to_string());
        assert_eq!(link["mtu"], wanted.mtu);
        assert_eq!(link["inet6_addr_gen_mode"], "none");
        assert!(link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP"), "{link}");
        assert_eq!(data["id"], wanted.vni);
        assert_eq!(data["port"], wanted.port);
        assert_eq!(data["local"], wanted.local.to_string());
        assert_eq!(data["learning"], false);
        let addresses = json("ip -j addr show dev weft.vx")[0]["addr_info"].as_array().unwrap().clone();
        assert_eq!(addresses.len(), 1, "{addresses:?}");
        assert_eq!((&addresses[0]["local"], &addresses[0]["scope"]), (&"169.254.64.1".into(), &"global".into()));

        let state = put(&kernel, Step::SetVtepMtu(1400)).await;
        assert_eq!(state.vtep, Some(Vtep { mtu: 1400, ..wanted }));

        // Another identity replaces it; the same one does not.
        let index = json("ip -j link show weft.vx")[0]["ifindex"].clone();
        kernel.apply(&Step::CreateVtep(wanted)).await.unwrap();
        assert_eq!(json("ip -j link show weft.vx")[0]["ifindex"], index);
        let other = Vtep { local: "fd00::7".parse().unwrap(), vni: 99, ..wanted };
        let state = put(&kernel, Step::CreateVtep(other)).await;
        assert_eq!(state.vtep, Some(other));
        assert_ne!(json("ip -j link show weft.vx")[0]["ifindex"], index);

        let state = put(&kernel, Step::DeleteVtep).await;
        assert_eq!(without_settings(&state), HostState::default());

        run("ip link add other up type vxlan id 77 dstport 7789 local 192.0.2.1 nolearning");
        let error = kernel.apply(&Step::CreateVtep(wanted)).await.unwrap_err().to_string();
        assert!(error.contains("VNI 77") && error.contains("the device other has"), "{error}");
        assert_eq!(without_settings(&kernel.observe().await.unwrap()), HostState::default());
    });
}

#[test]
fn a_tunnel_device_that_is_not_as_wanted_never_reads_as_wanted() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let wanted = vtep(1);
        let mac = wanted.mac;
        let vxlan = format!("ip link add weft.vx address {mac} mtu 1450 type vxlan id 77 dstport 7789 local 192.0.2.1");
        for (what, commands) in [
            (
                "not a VXLAN device",
                vec![
                    format!("ip link add weft.vx address {mac} mtu 1450 type bridge"),
                    "ip link set weft.vx up".into(),
                ],
            ),
            ("learning", vec![format!("{vxlan} learning"), "ip link set weft.vx up".into()]),
            ("down", vec![format!("{vxlan} nolearning")]),
            (
                "with a default remote",
                vec![format!("{vxlan} nolearning remote 192.0.2.9"), "ip link set weft.vx up".into()],
            ),
        ] {
            for command in &commands {
                run(command);
            }
            let seen = kernel.observe().await.unwrap().vtep;
            assert!(seen.is_some() && seen != Some(wanted), "{what}: {seen:?}");
            let state = put(&kernel, Step::CreateVtep(wanted)).await;
            assert_eq!(state.vtep, Some(wanted), "{what}");
            assert!(state.fdb.is_empty(), "{what}: {:?}", state.fdb);
            kernel.apply(&Step::DeleteVtep).await.unwrap();
        }
    });
}

#[test]
fn forwarding_entries_and_neighbours_go_in_and_out() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let mac = Mac::of_vtep(node(2));
        let error = kernel.apply(&Step::PutFdb(mac, "192.0.2.2".parse().unwrap())).await.unwrap_err().to_string();
        assert!(error.contains("no tunnel device weft.vx"), "{error}");
        kernel.apply(&Step::DeleteFdb(mac)).await.unwrap();
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();

        for underlay in ["192.0.2.2", "192.0.2.3"] {
            let state = put(&kernel, Step::PutFdb(mac, underlay.parse().unwrap())).await;
            assert_eq!(state.fdb.into_iter().collect::<Vec<_>>(), [(mac, underlay.parse().unwrap())]);
            let entries = json("bridge -j fdb show dev weft.vx");
            assert_eq!(entries.as_array().unwrap().len(), 1, "{entries}");
            assert_eq!(entries[0]["mac"], mac.to_string());
            assert_eq!(entries[0]["dst"], underlay);
            assert_eq!(entries[0]["state"], "permanent");
        }
        put(&kernel, Step::DeleteFdb(mac)).await;
        // Entries that are not as ours are told; putting brings them to order, deleting removes them.
        run("ip nexthop add id 1 via 192.0.2.5 fdb; ip nexthop add id 10 group 1 fdb");
        for spoil in ["dst 192.0.2.2 port 99", "dst 192.0.2.2 vni 9", "dst 192.0.2.2 dynamic", "nhid 10"] {
            run(&format!("bridge fdb add {mac} dev weft.vx {spoil}"));
            let seen = kernel.observe().await.unwrap().fdb;
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(mac, "0.0.0.0".parse().unwrap())], "{spoil}");
            let state = put(&kernel, Step::PutFdb(mac, "192.0.2.2".parse().unwrap())).await;
            assert_eq!(state.fdb.into_iter().collect::<Vec<_>>(), [(mac, "192.0.2.2".parse().unwrap())], "{spoil}");
            let state = put(&kernel, Step::DeleteFdb(mac)).await;
            assert!(state.fdb.is_empty(), "{spoil}");
        }
        let everyone = Mac([0; 6]);
        run(&format!("bridge fdb append {everyone} dev weft.vx dst 192.0.2.2"));
        run(&format!("bridge fdb append {everyone} dev weft.vx dst 192.0.2.3"));
        let seen = kernel.observe().await.unwrap().fdb;
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(everyone, "0.0.0.0".parse().unwrap())]);
        let state = put(&kernel, Step::DeleteFdb(everyone)).await;
        assert!(state.fdb.is_empty());

        // A device that somebody replaced meanwhile has another index: at most one step fails for that.
        kernel.observe().await.unwrap();
        run(
            "ip link del weft.vx; ip link add weft.vx type vxlan id 77 dstport 7789 local 192.0.2.1 nolearning; ip link set weft.vx up",
        );
        let again = Step::PutFdb(mac, "192.0.2.2".parse().unwrap());
        let error = kernel.apply(&again).await.unwrap_err().to_string();
        assert!(error.contains("No such device"), "{error}");
        kernel.apply(&again).await.unwrap();
        kernel.apply(&Step::DeleteFdb(mac)).await.unwrap();

        for gateway in ["169.254.10.2", "fe80::a:2"] {
            let address = gateway.parse().unwrap();
            for mac in [mac, Mac::of_vtep(node(3))] {
                let state = put(&kernel, Step::PutNeighbour(address, mac)).await;
                assert_eq!(state.neighbours.into_iter().collect::<Vec<_>>(), [(address, mac)]);
                let entries = rows(&format!("ip -j neigh show dev weft.vx to {gateway}"));
                assert_eq!(entries[0]["lladdr"], mac.to_string());
                assert_eq!(entries[0]["state"][0], "PERMANENT");
            }
            // One that ages is no row, and is made permanent.
            run(&format!("ip neigh replace {gateway} lladdr {mac} dev weft.vx nud reachable"));
            assert!(kernel.observe().await.unwrap().neighbours.is_empty());
            put(&kernel, Step::PutNeighbour(address, mac)).await;
            let state = put(&kernel, Step::DeleteNeighbour(address)).await;
            assert!(state.neighbours.is_empty());
        }
    });
}

#[test]
fn policy_rules_go_in_and_out() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        for ipv6 in [false, true] {
            let family = if ipv6 { "-6" } else { "-4" };
            let mut wanted = std::collections::BTreeSet::new();
            for (priority, mark, action) in [
                (100, (0, 0x0fff_0000), PolicyAction::Goto(300)),
                (200, (0x0007_0000, 0x0fff_0000), PolicyAction::Lookup(RouteTable::of_ingress(node(7)))),
                (201, (0x0008_0000, 0x0fff_0000), PolicyAction::Lookup(RouteTable(9))),
                (300, (0, 0), PolicyAction::Nop),
            ] {
                let rule = PolicyRule { priority, ipv6, mark, action };
                wanted.insert(rule);
                let state = put(&kernel, Step::AddPolicy(rule)).await;
                assert_eq!(state.policy, wanted);
            }
            let listed = rows(&format!("ip -j {family} rule show"));
            let lookup = listed.iter().find(|row| row["priority"] == 200).unwrap();
            assert_eq!((&lookup["fwmark"], &lookup["fwmask"]), (&"0x70000".into(), &"0xfff0000".into()), "{lookup}");
            assert_eq!(lookup["table"], "77007");
            assert_eq!(lookup["protocol"], "77");
            assert_eq!(listed.iter().find(|row| row["priority"] == 100).unwrap()["goto"], 300);

            // A `goto` is told apart by its target.
            let elsewhere = PolicyRule { priority: 100, ipv6, mark: (0, 0x0fff_0000), action: PolicyAction::Goto(200) };
            let back = PolicyRule { action: PolicyAction::Goto(300), ..elsewhere };
            let state = put(&kernel, Step::AddPolicy(elsewhere)).await;
            assert!(state.policy.contains(&elsewhere) && !state.policy.contains(&back), "{:?}", state.policy);
            assert_eq!(put(&kernel, Step::DeletePolicy(back)).await.policy, state.policy);
            assert_eq!(put(&kernel, Step::AddPolicy(back)).await.policy, wanted);

            // One that selects more, and one that only looks like ours.
            run(&format!("ip {family} rule add priority 150 fwmark 0x1/0xff iif lo table 9 protocol 77"));
            run(&format!("ip {family} rule add priority 250 fwmark 0x1/0xff table 9"));
            let odd = PolicyRule { priority: 150, ipv6, mark: (1, 0xff), action: PolicyAction::Goto(0) };
            wanted.insert(odd);
            assert_eq!(kernel.observe().await.unwrap().policy, wanted);
            // The kernel tells rules apart by their protocol too: the same one can be ours besides.
            let twin = PolicyRule { priority: 250, action: PolicyAction::Lookup(RouteTable(9)), ..odd };
            wanted.insert(twin);
            assert_eq!(put(&kernel, Step::AddPolicy(twin)).await.policy, wanted);
            for rule in wanted.clone() {
                wanted.remove(&rule);
                let state = put(&kernel, Step::DeletePolicy(rule)).await;
                assert_eq!(state.policy, wanted);
            }
            assert_eq!(rows(&format!("ip -j {family} rule show priority 250")).len(), 1, "the foreign rule is gone");
        }
    });
}

#[test]
fn settings_are_written_and_seen_while_their_device_is_there() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let forward = Sysctl("net/ipv4/ip_forward".to_owned());
        let filter = Sysctl("net/ipv4/conf/weft.vx/rp_filter".to_owned());
        let state = put(&kernel, Step::PutSysctl(forward.clone(), "1".into())).await;
        assert_eq!(state.sysctls.into_iter().collect::<Vec<_>>(), [(forward.clone(), "1".to_owned())]);
        assert_eq!(output("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
        let error = kernel.apply(&Step::PutSysctl(filter.clone(), "2".into())).await.unwrap_err().to_string();
        assert!(error.contains("device is not there"), "{error}");
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        let state = put(&kernel, Step::PutSysctl(filter.clone(), "2".into())).await;
        assert_eq!(state.sysctls[&filter], "2");
        assert_eq!(state.sysctls.len(), 2);
    });
}

#[test]
fn what_is_not_ours_is_neither_seen_nor_touched() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        run("ip link add foreign type bridge");
        run("ip link add weftlike type bridge");
        run("ip addr add 198.51.100.1/24 dev foreign");
        run("ip link set foreign up");
        run("ip route add 10.9.2.0/26 via 198.51.100.2 dev foreign");
        run("ip route add 10.9.3.0/26 dev foreign metric 77");
        run("ip -6 route add fd00:9:2::/64 dev foreign");
        run("ip neigh add 198.51.100.2 lladdr 02:00:00:00:00:01 dev foreign nud permanent");
        run("ip rule add priority 99 fwmark 1 table 9");
        let before = (output("ip route show table all"), output("ip rule show"), output("ip neigh show"));
        let state = kernel.observe().await.unwrap();
        assert_eq!(without_settings(&state), HostState { vtep: Some(vtep(1)), ..HostState::default() });

        for prefix in ["10.9.2.0/26", "fd00:9:2::/64"] {
            let place = prefix.parse().unwrap();
            let route = Route { next_hop: NextHop::TunnelLink };
            kernel.apply(&Step::PutRoute(RouteTable::MAIN, place, route)).await.unwrap();
            kernel.apply(&Step::DeleteRoute(RouteTable::MAIN, place)).await.unwrap();
            kernel.apply(&Step::DeleteRoute(RouteTable::MAIN, place)).await.unwrap();
        }
        kernel.apply(&Step::DeleteRoute(RouteTable::MAIN, "10.9.3.0/26".parse().unwrap())).await.unwrap();
        let after = (output("ip route show table all"), output("ip rule show"), output("ip neigh show"));
        assert_eq!(before, after);
    });
}

#[test]
fn the_tunnel_gets_loses_and_regains_its_ipv6_address() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        // Some hosts leave IPv6 off on whatever device comes.
        run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        let without = vtep(1);
        let [first, second] =
            ["fd77:6566::1:1", "fd77:6566::1:9"].map(|own| Vtep { address6: own.parse().ok(), ..without });
        let narrow = Vtep { mtu: 1279, ..without };
        // A new device, then the same one all the way.
        for wanted in [first, second, without, second, narrow, first] {
            let state = put(&kernel, Step::CreateVtep(wanted)).await;
            assert_eq!(state.vtep, Some(wanted));
        }
        let index = |link: &serde_json::Value| link[0]["ifindex"].as_u64();
        let before = index(&json("ip -j link show weft.vx"));
        put(&kernel, Step::CreateVtep(without)).await;
        assert_eq!(index(&json("ip -j link show weft.vx")), before);
    });
}
