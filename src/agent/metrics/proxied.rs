use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use prometheus::{
    IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::{MetricVec, MetricVecBuilder},
};

use crate::{
    model::EndpointId,
    proxy::{CountKey, PortCount},
};

/// What goes through the proxy: proxied ports, and every published port at the host's own loopback addresses.
#[derive(Debug)]
pub(in crate::agent) struct Proxied {
    open: IntGaugeVec,
    accepted: IntCounterVec,
    bytes: IntCounterVec,
    failures: IntCounterVec,
    replica_connections: IntCounterVec,
    replica_bytes: IntCounterVec,
    /// The rows that each family was shown last, in this order. Held while they change: two that look at once must not count
    /// the same growth twice.
    shown: Mutex<[BTreeSet<Labels>; 6]>,
}

type Labels = Vec<String>;
type Rows = BTreeMap<Labels, u64>;

impl Proxied {
    /// All at zero.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let port = ["service", "port"];
        let direction = ["service", "port", "to"];
        let cause = ["service", "port", "cause"];
        let replica = ["service", "port", "replica"];
        let open = IntGaugeVec::new(
            Opts::new("weft_proxy_connections", "Connections that go through this node's proxy now."),
            &port,
        )?;
        registry.register(Box::new(open.clone()))?;
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        Ok(Self {
            open,
            accepted: counters("weft_proxy_connections_total", "Connections that the proxy has accepted.", &port)?,
            bytes: counters("weft_proxy_bytes_total", "Bytes that the proxy has carried, by where to.", &direction)?,
            failures: counters(
                "weft_proxy_failures_total",
                "Connections that the proxy could not carry or had to break off, and tries that failed, by cause.",
                &cause,
            )?,
            replica_connections: counters(
                "weft_proxy_replica_connections_total",
                "Connections for which the proxy has reached a replica.",
                &replica,
            )?,
            replica_bytes: counters(
                "weft_proxy_replica_bytes_total",
                "Bytes that the proxy has carried to and from a replica.",
                &replica,
            )?,
            shown: Mutex::default(),
        })
    }

    /// Shows what the proxy has counted, and nothing else: what is not counted any more has no series, nor has a replica without a
    /// name, which is gone.
    pub(in crate::agent) fn show(
        &self,
        counts: &BTreeMap<CountKey, PortCount>,
        name: impl Fn(EndpointId) -> Option<String>,
    ) {
        let mut open = BTreeMap::new();
        let (mut accepted, mut bytes, mut failed) = (Rows::new(), Rows::new(), Rows::new());
        let (mut replica_connections, mut replica_bytes) = (Rows::new(), Rows::new());
        for ((service, port), count) in counts {
            let labels = |last: &str| vec![service.clone(), port.clone(), last.to_owned()];
            let ports = || vec![service.clone(), port.clone()];
            let PortCount { open: now, accepted: begun, bytes_from_clients, bytes_to_clients, failures, replicas } =
                count;
            open.insert(ports(), i64::try_from(*now).unwrap_or(i64::MAX));
            accepted.insert(ports(), *begun);
            bytes.insert(labels("replica"), *bytes_from_clients);
            bytes.insert(labels("client"), *bytes_to_clients);
            failed.extend(failures.iter().map(|(cause, count)| (labels(cause.as_str()), *count)));
            for (replica, count) in replicas {
                let Some(replica) = name(*replica) else { continue };
                *replica_connections.entry(labels(&replica)).or_default() += count.connections;
                *replica_bytes.entry(labels(&replica)).or_default() += count.bytes;
            }
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let [open_shown, counters_shown @ ..] = &mut *shown;
        replace(&self.open, open, open_shown, prometheus::IntGauge::set);
        let families = [
            (&self.accepted, accepted),
            (&self.bytes, bytes),
            (&self.failures, failed),
            (&self.replica_connections, replica_connections),
            (&self.replica_bytes, replica_bytes),
        ];
        for ((family, rows), shown) in families.into_iter().zip(counters_shown) {
            replace(family, rows, shown, raise);
        }
    }
}

/// Lets a family have exactly these rows. Those that go on are never missing in between: somebody may be reading.
fn replace<B: MetricVecBuilder, V: Copy>(
    family: &MetricVec<B>,
    rows: BTreeMap<Labels, V>,
    shown: &mut BTreeSet<Labels>,
    set: impl Fn(&B::M, V),
) {
    for gone in shown.iter().filter(|labels| !rows.contains_key(*labels)) {
        // It fails only where there is none.
        let _ = family.remove_label_values(gone);
    }
    for (labels, value) in &rows {
        set(&family.with_label_values(labels), *value);
    }
    *shown = rows.into_keys().collect();
}

/// Lets a counter stand where its reading does.
fn raise(counter: &IntCounter, reading: u64) {
    if counter.get() > reading {
        // Another port or replica of that name has begun anew.
        counter.reset();
    }
    counter.inc_by(reading.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder as _, TextEncoder};

    use super::*;
    use crate::proxy::ReplicaCount;

    #[test]
    fn a_series_ends_with_what_it_counts() {
        let registry = Registry::new();
        let proxied = Proxied::new(&registry).unwrap();
        let port = |connections: u64| PortCount {
            accepted: connections,
            replicas: [1, 2].map(|id| (EndpointId(id), ReplicaCount { connections, bytes: 9 })).into(),
            ..PortCount::default()
        };
        let name = |id: EndpointId| (id == EndpointId(1)).then(|| "web-1".to_owned());
        let key = |service: &str| (service.to_owned(), "80/tcp".to_owned());
        let shown = |service: &str| {
            let mut text = Vec::new();
            TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(!text.contains("web-2") && !text.contains("replica=\"\""), "{text}");
            let label = format!("service=\"{service}\"");
            let of_service = text.lines().filter(|line| line.contains(&label));
            let total = of_service.clone().find(|line| line.starts_with("weft_proxy_replica_connections_total"));
            let total = total.and_then(|line| line.rsplit_once(' ')).map(|(_, total)| total.to_owned());
            (of_service.count(), total)
        };
        // The gauge, accepted, two ways of bytes, and two of the replica that has a name.
        for (connections, total) in [(3, "3"), (5, "5"), (1, "1")] {
            proxied.show(&[(key("web"), port(connections)), (key("shop"), port(7))].into(), name);
            assert_eq!(shown("web"), (6, Some(total.to_owned())));
        }
        proxied.show(&[(key("shop"), port(7))].into(), name);
        assert_eq!(shown("web"), (0, None));
        assert_eq!(shown("shop"), (6, Some("7".to_owned())));
        proxied.show(&BTreeMap::new(), name);
        assert_eq!(shown("shop"), (0, None));
    }
}
