use super::{
    node,
    output::{Cell, Format, Layout, Paint, Sheet, count},
};
use crate::api::{
    Operations, Refusal,
    wire::{ClusterView, DataPlaneView, Membership, ReconcileView, StatusView, StoreState, StoreView},
};

/// `weft status`.
pub(super) async fn status(format: Format, agent: &impl Operations) -> Result<String, Refusal> {
    format.show(&agent.status().await?, |view| Screen(view.clone()))
}

/// One screen: a line for each part of the node, then what a person should look at.
struct Screen(StatusView);

impl Layout for Screen {
    fn render(&self, paint: Paint) -> String {
        let StatusView { version, membership, node, cluster, store, data_plane, reconcile, warnings, unreadable } =
            &self.0;
        let mut sheet = Sheet::default().with("Agent", format!("version {version}"));
        if let Some(node) = node {
            sheet = sheet
                .with("Node", format!("{} ({}), {}", node.name, node.id, node.address))
                .with("Status", node::status(node))
                .with("Availability", node::availability(node));
        }
        sheet = match cluster {
            Some(ClusterView { id, nodes, networks, services, endpoints }) => {
                let parts = [
                    count(*nodes, "node"),
                    count(*networks, "network"),
                    count(*services, "service"),
                    count(*endpoints, "endpoint"),
                ];
                sheet.with_each("Cluster", [Cell::from(id.as_str()), Cell::from(parts.join(", "))])
            }
            None => sheet.with(
                "Cluster",
                match membership {
                    Membership::Outside => Cell::warning("not part of a cluster"),
                    Membership::Stopped => Cell::bad("a member of one, but not running"),
                    Membership::Running => Cell::warning("nothing is known of it yet"),
                },
            ),
        };
        if let Some(store) = store {
            sheet = sheet.with("Store", store_cell(store));
        }
        if let Some(data_plane) = data_plane {
            sheet = sheet.with("Tunnel", tunnel_cell(data_plane)).with("Peers", peers_cell(data_plane));
        }
        if let Some(reconcile) = reconcile {
            sheet = sheet
                .with("Reconciled", reconcile_cell(reconcile))
                .with_each("Errors", reconcile.errors.iter().map(|error| Cell::bad(error.as_str())));
        }
        sheet = sheet.with_each("Warnings", warnings.iter().map(|warning| Cell::warning(warning.as_str()))).with_each(
            "Unreadable",
            unreadable.iter().map(|record| Cell::bad(format!("{}: {}", record.key, record.reason))),
        );

        let mut text = sheet.render(paint);
        if *membership == Membership::Outside {
            text +=
                &paint.hint("make a cluster with `weft init`, or join one with `weft join HOST:PORT --token TOKEN`");
        }
        text
    }
}

fn store_cell(store: &StoreView) -> Cell {
    let StoreView { url, state, revision, error } = store;
    let text = format!("{url}, {}, revision {revision}", state.as_str());
    match (state, error) {
        (StoreState::Connected, None) => Cell::good(text),
        (StoreState::Connected | StoreState::Away, Some(error)) => Cell::bad(format!("{text}: {error}")),
        (StoreState::Away, None) => Cell::bad(text),
    }
}

fn tunnel_cell(data_plane: &DataPlaneView) -> String {
    let DataPlaneView { device, address, mtu, vxlan_port, peers_alive: _, peers_total: _ } = data_plane;
    format!("{device}, from {address}, UDP port {vxlan_port}, MTU {mtu}")
}

fn peers_cell(data_plane: &DataPlaneView) -> Cell {
    let (alive, total) = (data_plane.peers_alive, data_plane.peers_total);
    let text = format!("{alive} of {total} alive");
    if alive == total { Cell::good(text) } else { Cell::bad(text) }
}

fn reconcile_cell(reconcile: &ReconcileView) -> Cell {
    let ReconcileView { age_ms, duration_ms, steps, errors, drift } = reconcile;
    let text = format!(
        "{}.{} s ago, in {duration_ms:.1} ms: {}, {}; {drift} changed by others since the start",
        age_ms / 1000,
        age_ms % 1000 / 100,
        count(*steps, "step"),
        count(u32::try_from(errors.len()).unwrap_or(u32::MAX), "error"),
    );
    if errors.is_empty() { Cell::from(text) } else { Cell::bad(text) }
}
