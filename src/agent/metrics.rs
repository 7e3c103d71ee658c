//! What the agent counts, by the prometheus crate, and the small server that shows it at `/metrics`.

mod proxied;
mod questions;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tracing::warn;

use super::flows::tally::Tally;
use crate::{
    kernel::Kernel,
    model::{Bind, ChainName, Cluster, Connections, Name, PublishedPort},
};

/// The agent's counters and gauges.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    /// Passes over the kernel.
    pub(super) passes: IntCounter,
    /// How long a pass took, in seconds.
    pub(super) pass_seconds: Histogram,
    /// Steps carried out, by kind of row.
    pub(super) steps: IntCounterVec,
    /// Steps that failed, by kind of row.
    pub(super) step_errors: IntCounterVec,
    /// Rows found changed by others and mended, by kind of row.
    pub(super) drift: IntCounterVec,
    /// 1 while the store can be reached.
    pub(super) store_up: IntGauge,
    /// The last revision seen of the store.
    pub(super) store_revision: IntGauge,
    /// Records that cannot be read.
    pub(super) unreadable: IntGauge,
    /// Connections to the port for other nodes that did not come to the end of their TLS handshake.
    pub(super) strangers: IntCounter,
    /// Endpoints on this node.
    pub(super) endpoints: IntGauge,
    /// Nodes of the cluster, by status.
    pub(super) nodes: IntGaugeVec,
    /// New connections that entered the mesh at this node, by service and way in.
    connections: IntCounterVec,
    /// Those that were refused because the service had no replica to take them.
    refused: IntCounterVec,
    /// How often connections were heard of in part only, because there were too many at once.
    pub(super) flow_pauses: IntCounter,
    /// What entered the mesh here and is over or under way, by service, way in and replica.
    replica_connections: IntCounterVec,
    replica_bytes: IntCounterVec,
    ejections: IntCounterVec,
    drains: IntCounterVec,
    /// Questions for names.
    pub(super) questions: Arc<questions::Questions>,
    /// Probes of this node's replicas, by result.
    pub(super) probes: IntCounterVec,
    /// 1 for each peer that answers over the tunnel.
    pub(super) peer_up: IntGaugeVec,
    /// The time that each peer's last answer took.
    pub(super) peer_round_trip: GaugeVec,
    /// Replicas that left balancing by way of this node, by service and by how it went: `done`, `cut_short`, or `forced`.
    pub(super) drain_outcomes: IntCounterVec,
    /// What goes through the proxy.
    pub(super) proxied: proxied::Proxied,
    growth: Mutex<Growth>,
}

impl Metrics {
    /// All at zero.
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        // From a tenth of a millisecond (nothing to do) to some seconds (ten thousand services at once).
        let buckets = prometheus::exponential_buckets(0.0001, 2.5, 12)?;
        let pass_seconds = Histogram::with_opts(
            HistogramOpts::new("weft_reconcile_seconds", "Time a pass over the kernel took.").buckets(buckets),
        )?;
        registry.register(Box::new(pass_seconds.clone()))?;
        let nodes = IntGaugeVec::new(Opts::new("weft_nodes", "Nodes of the cluster by status."), &["status"])?;
        registry.register(Box::new(nodes.clone()))?;
        let peer_up = Opts::new("weft_peer_up", "1 while the node answers this one over the tunnel.");
        let peer_up = IntGaugeVec::new(peer_up, &["node"])?;
        registry.register(Box::new(peer_up.clone()))?;
        let round_trip = "Time from the last echo that the node answered to its answer.";
        let peer_round_trip = GaugeVec::new(Opts::new("weft_peer_round_trip_seconds", round_trip), &["node"])?;
        registry.register(Box::new(peer_round_trip.clone()))?;
        Ok(Self {
            passes: counter("weft_reconcile_passes_total", "Passes over the kernel: observe, compare, change.")?,
            pass_seconds,
            steps: counters("weft_reconcile_steps_total", "Steps carried out in the kernel.", &["row"])?,
            step_errors: counters("weft_reconcile_errors_total", "Steps that failed; they are tried again.", &["row"])?,
            drift: counters("weft_drift_total", "Rows found changed by others and mended.", &["row"])?,
            store_up: gauge("weft_store_up", "1 while the store can be reached.")?,
            store_revision: gauge("weft_store_revision", "The last revision seen of the store.")?,
            unreadable: gauge("weft_unreadable_records", "Records in the store that this agent cannot read.")?,
            strangers: counter(
                "weft_peer_handshake_failures_total",
                "Connections to the port for other nodes without a good TLS handshake.",
            )?,
            endpoints: gauge("weft_endpoints", "Endpoints on this node.")?,
            nodes,
            connections: counters(
                "weft_connections_total",
                "New connections that entered the mesh at this node.",
                &["service", "via"],
            )?,
            refused: counters(
                "weft_refused_total",
                "New connections refused at this node because the service had no replica to take them.",
                &["service", "via"],
            )?,
            flow_pauses: counter(
                "weft_flow_pauses_total",
                "How often connections were heard of in part only, because there were too many at once.",
            )?,
            replica_connections: counters(
                "weft_replica_connections_total",
                "New connections that this node gave to a replica; a sample while weft_flow_pauses_total grows.",
                &["service", "via", "replica"],
            )?,
            replica_bytes: counters(
                "weft_replica_bytes_total",
                "Bytes, both directions, of ended connections that entered the mesh at this node; likewise.",
                &["service", "via", "replica"],
            )?,
            ejections: counters(
                "weft_ejections_total",
                "How often this node stopped choosing a replica because connections to it failed.",
                &["service", "replica"],
            )?,
            drains: counters("weft_drains_total", "Drains of replicas that this node has seen begin.", &["service"])?,
            questions: Arc::new(questions::Questions::new(&registry)?),
            probes: counters("weft_probes_total", "Probes of replicas on this node.", &["result"])?,
            peer_up,
            peer_round_trip,
            drain_outcomes: counters(
                "weft_drain_outcomes_total",
                "Drains that were asked for at this node and have ended: done, cut_short (a node had not confirmed or connections were open when their time was over), or forced.",
                &["service", "outcome"],
            )?,
            proxied: proxied::Proxied::new(&registry)?,
            growth: Mutex::default(),
            registry,
        })
    }

    /// Takes over what the kernel has counted. To be called before a rule is replaced, which sets its counter back, and
    /// before somebody looks.
    pub(super) async fn count_connections(&self, kernel: &dyn Kernel, cluster: &Cluster) {
        let readings = match kernel.connections().await {
            Ok(readings) => readings,
            Err(error) => return warn!("connections are not counted this time: {error}"),
        };
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        for (chain, Connections { balanced, refused }) in readings {
            let Some((service, via)) = way_in(chain, cluster) else { continue };
            let labels = [service.as_str(), via.as_str()];
            self.connections.with_label_values(&labels).inc_by(growth.since_last((chain, "balanced"), balanced));
            self.refused.with_label_values(&labels).inc_by(growth.since_last((chain, "refused"), refused));
        }
    }

    /// Shows what was counted of each replica. A replica that is gone has no series any more.
    pub(super) fn show_tally(&self, tally: &Tally, cluster: &Cluster) {
        let service = |id| cluster.services.get(&id).map(|service| service.name.to_string());
        let replica = |id| cluster.endpoints.get(&id).map(|endpoint| endpoint.name.to_string());
        for family in [&self.replica_connections, &self.replica_bytes, &self.ejections, &self.drains] {
            family.reset();
        }
        for ((id, via, taker), counts) in tally.rows() {
            let Some(service) = service(id) else { continue };
            let Some(taker) = taker.map_or_else(|| Some("others".to_owned()), replica) else { continue };
            let labels = [service, via.to_string(), taker];
            self.replica_connections.with_label_values(&labels).inc_by(counts.connections);
            self.replica_bytes.with_label_values(&labels).inc_by(counts.bytes);
        }
        for ((id, taker), count) in tally.ejections() {
            if let (Some(service), Some(taker)) = (service(id), replica(taker)) {
                self.ejections.with_label_values(&[service, taker]).inc_by(count);
            }
        }
        for (id, count) in tally.drains() {
            if let Some(service) = service(id) {
                self.drains.with_label_values(&[service]).inc_by(count);
            }
        }
    }

    /// All rows found changed by others so far.
    pub(super) fn drift_total(&self) -> u64 {
        let families = prometheus::core::Collector::collect(&self.drift);
        let values = families
            .iter()
            .flat_map(prometheus::proto::MetricFamily::get_metric)
            .map(|metric| metric.get_counter().get_value());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sum of whole, growing counters")]
        let total = values.sum::<f64>() as u64;
        total
    }

    /// All in Prometheus' text format.
    fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// Counters in the kernel begin again at zero when their rule is replaced; ours must not. This turns readings of the one
/// into growth of the other.
#[derive(Debug, Default)]
struct Growth {
    last: BTreeMap<(ChainName, &'static str), u64>,
}

impl Growth {
    /// How much a counter has grown since its last reading; a reading lower than the last means a fresh start from zero.
    fn since_last(&mut self, key: (ChainName, &'static str), reading: u64) -> u64 {
        let last = self.last.insert(key, reading).unwrap_or(0);
        if reading >= last { reading - last } else { reading }
    }
}

/// The service that a chain belongs to, and which of its entrances: `vip` or a published port.
fn way_in(chain: ChainName, cluster: &Cluster) -> Option<(Name, String)> {
    match chain {
        ChainName::Vip(id) => cluster.services.get(&id).map(|service| (service.name.clone(), "vip".to_owned())),
        ChainName::Port(protocol, published, bind) => {
            let is_meant =
                |port: &PublishedPort| (port.protocol, port.published.get(), port.bind) == (protocol, published, bind);
            let service = cluster.services.values().find(|service| service.ports.iter().any(is_meant))?;
            let via = match bind {
                Bind::Any => format!("{published}/{protocol}"),
                Bind::Address(address) => format!("{}/{protocol}", SocketAddr::new(address, published)),
                Bind::Device(device) => format!("{device}:{published}/{protocol}"),
            };
            Some((service.name.clone(), via))
        }
        _ => None,
    }
}

/// What is asked just before the counters are shown.
pub(super) type BeforeScrape = Arc<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// Serves `/metrics` until the task is dropped.
pub(super) async fn serve(address: SocketAddr, metrics: Arc<Metrics>, before: BeforeScrape) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
        format!("cannot serve metrics on {address}; choose another address with --metrics ADDR:PORT, or `off`")
    })?;
    let app = Router::new().route("/metrics", get(show)).with_state((metrics, before));
    axum::serve(listener, app).await.context("the metrics server ended")
}

async fn show(State((metrics, before)): State<(Arc<Metrics>, BeforeScrape)>) -> impl IntoResponse {
    before().await;
    match metrics.render() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)),
        Err(error) => Err((axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_outlives_a_replaced_rule() {
        let mut growth = Growth::default();
        let mut total = 0;
        for reading in [5, 9, 9, 2, 3, 0, 4] {
            total += growth.since_last((ChainName::Forward, "balanced"), reading);
        }
        assert_eq!(total, 9 + 3 + 4);
    }
}
