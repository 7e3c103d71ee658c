//! Scenario 17: two networks. Nothing passes between them, on one node or across nodes, to an address or to a VIP; and a
//! container cannot send from an address that is not its own. Whatever must not arrive is followed by something that must,
//! on the same path, so that silence is never taken for proof.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netns_tests::{
    Container, Host, Topology, scenario,
    testkit::{ask, ask_udp},
    wait_until,
};

const BOUND: Duration = Duration::from_secs(2);

/// How long something that must not pass may try.
const TRY_BOUND: Duration = Duration::from_millis(600);

/// From an attach to a path from everywhere.
const REACH_BOUND: Duration = Duration::from_secs(5);

#[test]
fn nothing_passes_between_two_networks() {
    nothing_passes(["10.42.0.0/16", "10.43.0.0/16"]);
}

#[test]
fn nothing_passes_between_two_networks_of_ipv6() {
    nothing_passes(["fd00:42::/64", "fd00:43::/64"]);
}

fn nothing_passes([blue, red]: [&'static str; 2]) {
    scenario(2, move |topology| {
        let first = topology.host(0);
        for (network, subnet, service, port) in [("blue", blue, "web", 80), ("red", red, "shop", 81)] {
            first.weft_ok(&format!("network create {network} --subnet {subnet}"))?;
            first.weft_ok(&format!("service create {service} --network {network} --publish {port}:8080"))?;
            topology.wait_known(topology.host(1), "service", service)?;
        }
        let blue = [serve(topology, 0, "blue", "web")?, serve(topology, 1, "blue", "web")?];
        let red = [serve(topology, 0, "red", "shop")?, serve(topology, 1, "red", "shop")?];
        // Askers of their own: a replica that meets itself behind its VIP is another subject (scenario 16).
        let askers = ["blue", "red"].map(|network| {
            [0, 1].map(|host| topology.host(host).attach(network, &format!("asker-{network}-{}", host + 1), ""))
        });
        let [blue_askers, red_askers] = askers.map(|pair| pair.into_iter().collect::<Result<Vec<_>>>());
        let (blue_askers, red_askers) = (blue_askers?, red_askers?);
        let vips = [topology.vip("web", 8080)?, topology.vip("shop", 8080)?];
        let sides = [(&blue_askers, &blue, &red, vips[0], vips[1]), (&red_askers, &red, &blue, vips[1], vips[0])];
        for (askers, mine, theirs, my_vip, their_vip) in sides {
            for asker in askers {
                for answerer in mine {
                    reaches(asker, answerer.at(8080))?;
                }
                reaches(asker, my_vip)?;
                for answerer in theirs {
                    reaches_not(asker, answerer.at(8080))?;
                }
                reaches_not(asker, their_vip)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_container_cannot_send_from_a_foreign_address() {
    cannot_send("10.42.0.0/16", "10.99.0.1", Host::address);
}

#[test]
fn a_container_cannot_send_from_a_foreign_ipv6_address() {
    cannot_send("fd00:42::/64", "fd00:99::1", Host::address6);
}

fn cannot_send(subnet: &'static str, nowhere: &'static str, underlay: fn(&Host) -> IpAddr) {
    scenario(2, move |topology| {
        topology.host(0).weft_ok(&format!("network create blue --subnet {subnet}"))?;
        topology.wait_known(topology.host(1), "network", "blue")?;
        let sender = topology.host(0).attach("blue", "sender", "")?;
        let neighbour = topology.host(0).attach("blue", "neighbour", "")?;
        let receivers =
            [topology.host(0).attach("blue", "receiver-1", "")?, topology.host(1).attach("blue", "receiver-2", "")?];
        let spoofed: Vec<IpAddr> =
            vec![neighbour.address(), receivers[1].address(), nowhere.parse()?, underlay(topology.host(1))];
        for receiver in &receivers {
            let ear = receiver.netns().enter(|| {
                let ear = UdpSocket::bind(receiver.at(9))?;
                ear.set_read_timeout(Some(BOUND))?;
                Ok(ear)
            })?;
            for source in spoofed.iter().filter(|source| **source != receiver.address()) {
                let len = if source.is_ipv6() { "128 nodad" } else { "32" };
                let (len, flags) = len.split_once(' ').unwrap_or((len, ""));
                sender.netns().ip(&format!("addr add {source}/{len} dev lo {flags}"))?;
                let sent = sender.netns().enter(|| {
                    // The honest datagram comes second on the same path: once it is here, the other is not coming.
                    send(*source, receiver.at(9), b"spoofed")?;
                    send(sender.address(), receiver.at(9), b"honest")
                });
                sender.netns().ip(&format!("addr del {source}/{len} dev lo"))?;
                sent?;
                let (text, from) =
                    hear(&ear).with_context(|| format!("the honest datagram after one from {source}"))?;
                ensure!(text == "honest", "{text:?} arrived at {} as from {from}", receiver.name());
                ensure!(from.ip() == sender.address(), "the honest datagram came from {from}");
            }
        }
        Ok(())
    });
}

fn serve(topology: &Topology, host: usize, network: &str, service: &str) -> Result<Container> {
    let name = format!("{service}-{}", host + 1);
    topology.host(host).serve(network, &name, &format!("--service {service}"), 8080)
}

fn reaches(asker: &Container, server: SocketAddr) -> Result<()> {
    wait_until(format!("{} reaches {server}", asker.name()), REACH_BOUND, || {
        asker.netns().enter(|| {
            let answers = [ask(server, BOUND)?, ask_udp(server, BOUND)?];
            ensure!(answers.iter().all(|answer| answer.client.ip() == asker.address()), "{answers:?}");
            Ok(())
        })
    })
}

fn reaches_not(asker: &Container, server: SocketAddr) -> Result<()> {
    asker.netns().enter(|| {
        for answer in [ask(server, TRY_BOUND), ask_udp(server, TRY_BOUND)] {
            ensure!(answer.is_err(), "{} of another network reached {server}: {answer:?}", asker.name());
        }
        Ok(())
    })
}

fn send(from: IpAddr, to: SocketAddr, text: &[u8]) -> Result<()> {
    let socket = UdpSocket::bind((from, 0)).with_context(|| format!("{from} cannot be bound"))?;
    // A refusal by the sender's own kernel is one way of not passing; the honest one must not be refused.
    match socket.send_to(text, to) {
        Ok(_) => Ok(()),
        Err(error) if text == b"spoofed" => {
            eprintln!("sending from {from} was refused at once: {error}");
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("sending from {from} to {to}")),
    }
}

fn hear(ear: &UdpSocket) -> Result<(String, SocketAddr)> {
    let mut buffer = [0; 64];
    let (length, from) = ear.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}
