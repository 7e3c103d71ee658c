use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::proxy::PortCount;

/// What goes through the proxy: proxied ports, and every published port at the host's own loopback addresses.
#[derive(Debug)]
pub(in crate::agent) struct Proxied {
    open: IntGaugeVec,
    accepted: IntCounterVec,
    bytes: IntCounterVec,
    failures: IntCounterVec,
    /// Two that look at once must not count the same growth twice.
    updating: Mutex<()>,
}

impl Proxied {
    /// All at zero.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let port = ["service", "port"];
        let direction = ["service", "port", "to"];
        let cause = ["service", "port", "cause"];
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
            updating: Mutex::default(),
        })
    }

    /// Takes over what the proxy has counted.
    pub(in crate::agent) fn update(&self, counts: &BTreeMap<(String, String), PortCount>) {
        let _updating = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let raise = |counters: &IntCounterVec, labels: &[&str], to: u64| {
            let counter = counters.with_label_values(labels);
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        for ((service, port), count) in counts {
            let PortCount { open, accepted, bytes_from_clients, bytes_to_clients, failures } = count;
            let labels = [service.as_str(), port.as_str()];
            self.open.with_label_values(&labels).set(i64::try_from(*open).unwrap_or(i64::MAX));
            raise(&self.accepted, &labels, *accepted);
            raise(&self.bytes, &[service, port, "replica"], *bytes_from_clients);
            raise(&self.bytes, &[service, port, "client"], *bytes_to_clients);
            for (cause, failed) in failures {
                raise(&self.failures, &[service, port, cause.as_str()], *failed);
            }
        }
    }
}
