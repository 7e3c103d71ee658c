//! How a service behaves: what of it can be, and what contradicts itself.

use std::time::Duration;

use crate::{
    api::{
        Refusal,
        wire::{Affinity, HealthView, ServiceCreateRequest, ServiceUpdateRequest, Span},
    },
    model::{EndpointMode, HealthCheck, L4, Lb, PortMode, Service},
};

/// `service` with the settings of a wish for a new one.
pub(super) fn as_wished(service: Service, request: &ServiceCreateRequest) -> Result<Service, Refusal> {
    Ok(Service {
        lb: request.lb.into(),
        affinity: request.affinity.into(),
        endpoint_mode: request.endpoint_mode.into(),
        health: request.health.apply_to(None).map_err(Refusal::invalid)?,
        drain: request.drain.map_or(Service::DRAIN_DEFAULT, Into::into),
        ..service
    })
}

/// `before` with what a wish changes of its settings.
pub(super) fn changed(before: &Service, request: &ServiceUpdateRequest) -> Result<Service, Refusal> {
    Ok(Service {
        lb: request.lb.map_or(before.lb, Into::into),
        affinity: request.affinity.map_or(before.affinity, Into::into),
        endpoint_mode: request.endpoint_mode.map_or(before.endpoint_mode, Into::into),
        health: request.health.apply_to(before.health.as_ref()).map_err(Refusal::invalid)?,
        drain: request.drain.map_or(before.drain, Into::into),
        ..before.clone()
    })
}

/// Refuses settings that cannot be, or have nothing to work on.
pub(super) fn check(service: &Service) -> Result<(), Refusal> {
    let Service { name, ports, lb, affinity, endpoint_mode, health, drain, .. } = service;
    let is_proxied = |mode: &PortMode| matches!(mode, PortMode::Proxy(_));
    if *lb == Lb::LeastConn {
        if ports.is_empty() || !ports.iter().all(|port| is_proxied(&port.mode)) {
            return Err(Refusal::invalid(format!(
                "{name} cannot be balanced by least-conn: the kernel does not compare replicas by their connections"
            ))
            .with_hint("publish its ports with mode=proxy, such as --publish 80:8080,mode=proxy"));
        }
        if affinity.is_some() {
            return Err(Refusal::invalid(format!(
                "{name} cannot have both least-conn and an affinity: a client that stays does not go where the fewest \
                 connections are"
            ))
            .with_hint("--affinity off, or another --lb"));
        }
    }
    if affinity.is_some() && ports.iter().any(|port| is_proxied(&port.mode)) {
        return Err(Refusal::invalid(format!(
            "{name} cannot have an affinity and proxied ports: only the kernel remembers clients, and the agent carries \
             the connections of these ports"
        ))
        .with_hint("--lb source keeps a client with its replica without one; or --affinity off, or mode=kernel"));
    }
    if *endpoint_mode == EndpointMode::Dnsrr && ports.is_empty() && (affinity.is_some() || *lb != Lb::default()) {
        return Err(Refusal::invalid(format!(
            "{name} has nothing to balance: with dnsrr and without published ports, its clients choose a replica themselves"
        ))
        .with_hint("--lb rr and --affinity off, or publish a port"));
    }
    if let Some(affinity) = affinity {
        within("affinity", *affinity, Service::AFFINITY_MIN, Service::AFFINITY_MAX)?;
    }
    within("drain time", *drain, Duration::ZERO, Service::DRAIN_MAX)?;
    health.as_ref().map_or(Ok(()), |health| check_health(service, health))
}

fn check_health(service: &Service, health: &HealthCheck) -> Result<(), Refusal> {
    within("interval of health checks", health.interval, HealthCheck::INTERVAL_MIN, HealthCheck::INTERVAL_MAX)?;
    within("timeout of health checks", health.timeout, Duration::from_millis(1), HealthCheck::TIMEOUT_MAX)?;
    if health.port.is_none() && !service.ports.iter().any(|port| port.protocol == L4::Tcp) {
        return Err(Refusal::invalid(format!(
            "the health check of {} does not know which port to ask: no TCP port is published",
            service.name
        ))
        .with_hint("say it with --health-port"));
    }
    Ok(())
}

fn within(what: &str, asked: Duration, least: Duration, most: Duration) -> Result<(), Refusal> {
    if (least..=most).contains(&asked) {
        return Ok(());
    }
    let [asked, least, most] = [asked, least, most].map(Span::from);
    Err(Refusal::invalid(format!("the {what} of {asked} does not lie in {least} to {most}")))
}

/// The first setting in which two services differ: what it is, and how it is in each.
pub(super) fn difference(has: &Service, asked: &Service) -> Option<(&'static str, String, String)> {
    let texts = |service: &Service| {
        let Service { lb, affinity, endpoint_mode, health, drain, .. } = service;
        [
            ("another way to balance", lb.as_str().to_owned()),
            ("another affinity", Affinity::from(*affinity).to_string()),
            ("another endpoint mode", endpoint_mode.as_str().to_owned()),
            (
                "another health check",
                health.as_ref().map_or("none".to_owned(), |check| HealthView::from(check).to_string()),
            ),
            ("another drain time", Span::from(*drain).to_string()),
        ]
    };
    let pairs = texts(has).into_iter().zip(texts(asked));
    pairs.map(|((what, has), (_, asked))| (what, has, asked)).find(|(_, has, asked)| has != asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::wire::PortSpec,
        model::{NetworkId, ServiceId},
    };

    /// A wish in words of `NAME=VALUE`.
    fn wish(words: &str) -> ServiceCreateRequest {
        let mut wish = ServiceCreateRequest::default();
        for (name, value) in words.split_whitespace().map(|word| word.split_once('=').unwrap()) {
            let health = &mut wish.health;
            match name {
                "lb" => wish.lb = value.parse().unwrap(),
                "affinity" => wish.affinity = value.parse().unwrap(),
                "mode" => wish.endpoint_mode = value.parse().unwrap(),
                "drain" => wish.drain = Some(value.parse().unwrap()),
                "health" => health.probe = Some(value.parse().unwrap()),
                "port" => health.port = Some(value.parse().unwrap()),
                "interval" => health.interval = Some(value.parse().unwrap()),
                "timeout" => health.timeout = Some(value.parse().unwrap()),
                "fall" => health.fall = Some(value.parse().unwrap()),
                _ => panic!("{name}"),
            }
        }
        wish
    }

    /// A service with these ports, as wished.
    fn service(ports: &str, words: &str) -> Result<Service, Refusal> {
        let ports = ports.split_whitespace().map(|word| {
            let port: PortSpec = word.parse().unwrap();
            port.at(port.published.try_into().unwrap())
        });
        let (id, network) = (ServiceId::new(1).unwrap(), NetworkId::new(1).unwrap());
        as_wished(Service::new(id, "web".parse().unwrap(), network, vec![], ports.collect()), &wish(words))
    }

    #[test]
    fn settings_that_contradict_themselves_are_refused() {
        const PROXY: &str = "80:80,mode=proxy";
        for (ports, words, error) in [
            ("", "", ""),
            ("", "lb=random", ""),
            ("80:80", "lb=source affinity=10m", ""),
            ("80:80", "lb=random affinity=1s", ""),
            (PROXY, "lb=least-conn", ""),
            ("", "lb=least-conn", "cannot be balanced by least-conn"),
            ("80:80", "lb=least-conn", "cannot be balanced by least-conn"),
            ("80:80,mode=proxy 81:80", "lb=least-conn", "cannot be balanced by least-conn"),
            (PROXY, "lb=least-conn affinity=10m", "both least-conn and an affinity"),
            (PROXY, "affinity=10m", "an affinity and proxied ports"),
            ("81:80 80:80,mode=proxy", "lb=random affinity=10m", "an affinity and proxied ports"),
            (PROXY, "lb=source", ""),
            ("", "mode=dnsrr", ""),
            ("", "mode=dnsrr lb=random", "nothing to balance"),
            ("", "mode=dnsrr affinity=10m", "nothing to balance"),
            ("80:80", "mode=dnsrr lb=random affinity=10m", ""),
            ("", "affinity=999ms", "the affinity of 999ms does not lie in 1s to 24h"),
            ("", "affinity=25h", "the affinity of 25h does not lie"),
            ("", "drain=0s", ""),
            ("", "drain=1h", ""),
            ("", "drain=3601s", "the drain time of 3601s does not lie in 0s to 1h"),
            ("80:80", "health=tcp", ""),
            ("80:80/udp", "health=tcp", "no TCP port is published"),
            ("", "health=http:/", "no TCP port is published"),
            ("", "health=http:/ port=80", ""),
            ("", "interval=5s", "has to say what is asked"),
            ("80:80", "health=tcp interval=100ms timeout=60s", ""),
            ("80:80", "health=tcp interval=99ms", "the interval of health checks of 99ms"),
            ("80:80", "health=tcp interval=61m", "the interval of health checks of 61m"),
            ("80:80", "health=tcp timeout=0s", "the timeout of health checks of 0s"),
            ("80:80", "health=tcp timeout=61s", "the timeout of health checks of 61s"),
        ] {
            match service(ports, words).and_then(|service| check(&service)) {
                Ok(()) => assert_eq!(error, "", "{ports} {words}"),
                Err(refused) => {
                    assert!(!error.is_empty() && refused.message.contains(error), "{ports} {words}: {refused}");
                }
            }
        }
    }

    #[test]
    fn the_first_difference_is_named() {
        let usual = service("80:80", "").unwrap();
        assert_eq!(difference(&usual, &service("80:80", "drain=10s affinity=off").unwrap()), None);
        for (words, what, has, asked) in [
            ("lb=random drain=5s", "another way to balance", "rr", "random"),
            ("affinity=10m", "another affinity", "off", "10m"),
            ("mode=dnsrr", "another endpoint mode", "vip", "dnsrr"),
            ("health=tcp fall=5", "another health check", "none", "tcp fall=5"),
            ("drain=5s", "another drain time", "10s", "5s"),
        ] {
            let other = service("80:80", words).unwrap();
            assert_eq!(difference(&usual, &other), Some((what, has.to_owned(), asked.to_owned())));
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = service("80:80", "lb=random affinity=10m health=tcp drain=5s").unwrap();
        let update = |request: ServiceUpdateRequest| changed(&before, &request).unwrap();
        let nothing = ServiceUpdateRequest::default;
        assert_eq!(update(nothing()), before);
        assert_eq!(
            update(ServiceUpdateRequest { affinity: Some(Affinity::Off), ..nothing() }),
            Service { affinity: None, ..before.clone() }
        );
        assert_eq!(
            update(ServiceUpdateRequest { health: wish("health=none").health, ..nothing() }),
            Service { health: None, ..before.clone() }
        );
        assert_eq!(
            update(ServiceUpdateRequest { drain: Some("1m".parse().unwrap()), ..nothing() }),
            Service { drain: Duration::from_mins(1), ..before.clone() }
        );
    }
}
