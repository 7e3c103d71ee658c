//! `weft run --link`: a service by a name of the command's choice, in its environment and in its /etc/hosts, as `docker run
//! --link` gave it (docs.docker.com, "Legacy container links").

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::api::{
    Operations, Refusal,
    wire::{Protocol, ServiceView},
};

/// `SERVICE[:ALIAS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkWord {
    service: String,
    alias: String,
}

impl FromStr for LinkWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (service, alias) = text.split_once(':').unwrap_or((text, text));
        for word in [service, alias] {
            let permitted = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            let inner = !word.starts_with('-') && !word.ends_with('-');
            if word.is_empty() || word.len() > 63 || !inner || !word.bytes().all(permitted) {
                return Err(format!(
                    "{text:?} is not SERVICE or SERVICE:ALIAS, each of a-z, 0-9 and inner hyphens, 63 characters at most"
                ));
            }
        }
        Ok(Self { service: service.to_owned(), alias: alias.to_owned() })
    }
}

/// A service that a command is linked to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Link {
    alias: String,
    service: String,
    vips: Vec<IpAddr>,
    /// The replicas' ports that are published.
    ports: BTreeSet<(u16, Protocol)>,
}

impl Link {
    /// The links that are asked for by a command in `network`, or why one cannot be.
    pub(super) async fn find(
        agent: &impl Operations,
        network: &str,
        words: Vec<LinkWord>,
    ) -> Result<Vec<Self>, Refusal> {
        let mut links: Vec<Self> = Vec::new();
        for LinkWord { service, alias } in words {
            if let Some(other) = links.iter().find(|other| other.alias == alias) {
                return Err(Refusal::invalid(format!(
                    "the alias {alias} cannot be a link to both {} and {service}",
                    other.service
                )));
            }
            links.push(Self::to(&agent.service_inspect(&service).await?, network, alias)?);
        }
        Ok(links)
    }

    fn to(service: &ServiceView, network: &str, alias: String) -> Result<Self, Refusal> {
        let name = &service.name;
        if service.network != network {
            return Err(Refusal::conflict(format!(
                "cannot link to the service {name}: it is in the network {}, and {network} is isolated from it",
                service.network
            )));
        }
        let vips = service.vips.iter().map(|vip| vip.parse()).collect::<Result<Vec<IpAddr>, _>>();
        let vips = vips.map_err(|error| Refusal::internal(format!("the VIP of {name} cannot be read: {error}")))?;
        if vips.is_empty() {
            return Err(Refusal::conflict(format!("cannot link to the service {name}: it has no VIP (dnsrr)"))
                .with_hint("its name stands for its replicas: ask for that, no link is needed"));
        }
        let ports = service.ports.iter().map(|port| (port.target.get(), port.protocol)).collect();
        Ok(Self { alias, service: name.clone(), vips, ports })
    }

    /// What the command named `endpoint` finds in its environment. `ALIAS_PORT` is the lowest port.
    pub(super) fn environment(&self, endpoint: &str) -> BTreeMap<String, String> {
        let prefix = self.alias.to_ascii_uppercase().replace('-', "_");
        let mut variables = BTreeMap::from([(format!("{prefix}_NAME"), format!("/{endpoint}/{}", self.alias))]);
        let Some(vip) = self.vips.first() else { return variables };
        for (port, protocol) in &self.ports {
            let url = format!("{protocol}://{}", SocketAddr::new(*vip, *port));
            let name = format!("{prefix}_PORT_{port}_{}", protocol.to_string().to_ascii_uppercase());
            variables.entry(format!("{prefix}_PORT")).or_insert_with(|| url.clone());
            variables.insert(format!("{name}_ADDR"), vip.to_string());
            variables.insert(format!("{name}_PORT"), port.to_string());
            variables.insert(format!("{name}_PROTO"), protocol.to_string());
            variables.insert(name, url);
        }
        variables
    }

    /// Its addresses, and the names for them.
    pub(super) fn names(&self) -> (&[IpAddr], Vec<&str>) {
        let mut names = vec![self.alias.as_str()];
        names.extend((self.service != self.alias).then_some(self.service.as_str()));
        (&self.vips, names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::{Affinity, EndpointMode, Lb, ServiceStatus};

    fn service(vips: &[&str], ports: &[&str]) -> ServiceView {
        ServiceView {
            id: 1,
            name: "postgres".into(),
            network: "blue".into(),
            vips: vips.iter().map(|vip| (*vip).to_owned()).collect(),
            ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
            lb: Lb::Rr,
            affinity: Affinity::Off,
            endpoint_mode: EndpointMode::Vip,
            health: None,
            drain: "10s".parse().unwrap(),
            replicas_ready: 0,
            replicas_total: 0,
            status: ServiceStatus::Empty,
            traffic: None,
        }
    }

    fn environment(link: &Link) -> String {
        let lines: Vec<String> =
            link.environment("app-1").iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.join("\n")
    }

    #[test]
    fn the_environment_is_the_classic_one() {
        let of = |vips: &[&str], ports: &[&str], alias: &str| {
            environment(&Link::to(&service(vips, ports), "blue", alias.into()).unwrap())
        };
        assert_eq!(of(&["10.9.240.1"], &[], "db"), "DB_NAME=/app-1/db");
        assert_eq!(
            of(&["10.9.240.1", "fd00::f1"], &["15432:5432", "eth0:1:5432", "53:53/udp"], "my-db"),
            "MY_DB_NAME=/app-1/my-db\n\
             MY_DB_PORT=udp://10.9.240.1:53\n\
             MY_DB_PORT_53_UDP=udp://10.9.240.1:53\n\
             MY_DB_PORT_53_UDP_ADDR=10.9.240.1\n\
             MY_DB_PORT_53_UDP_PORT=53\n\
             MY_DB_PORT_53_UDP_PROTO=udp\n\
             MY_DB_PORT_5432_TCP=tcp://10.9.240.1:5432\n\
             MY_DB_PORT_5432_TCP_ADDR=10.9.240.1\n\
             MY_DB_PORT_5432_TCP_PORT=5432\n\
             MY_DB_PORT_5432_TCP_PROTO=tcp"
        );
        assert!(of(&["fd00::f1"], &["80:80"], "db").contains("DB_PORT=tcp://[fd00::f1]:80\n"));
        assert!(of(&["fd00::f1"], &["80:80"], "db").contains("DB_PORT_80_TCP_ADDR=fd00::f1\n"));
    }

    #[test]
    fn what_cannot_be_linked_is_refused() {
        let refused = |service: &ServiceView, network| Link::to(service, network, "db".into()).unwrap_err().message;
        let told = refused(&service(&["10.9.240.1"], &[]), "red");
        assert_eq!(told, "cannot link to the service postgres: it is in the network blue, and red is isolated from it");
        assert!(refused(&service(&[], &[]), "blue").contains("it has no VIP"));
    }

    #[test]
    fn words_of_links_are_two_names_or_one() {
        let word = |service: &str, alias: &str| LinkWord { service: service.into(), alias: alias.into() };
        assert_eq!("db".parse(), Ok(word("db", "db")));
        assert_eq!("postgres:my-db".parse(), Ok(word("postgres", "my-db")));
        for wrong in ["", ":", "db:", ":db", "a:b:c", "DB", "db:a_b", "-a", "a-", "a:b c", &"a".repeat(64)] {
            assert!(wrong.parse::<LinkWord>().is_err(), "{wrong:?}");
        }
    }
}
