//! How a service behaves, in words of the command line.

use std::num::{NonZeroU8, NonZeroU16};

use clap::Args;

use crate::{
    api::wire::{
        Affinity, EndpointMode, HealthRequest, Lb, Probe, ServiceCreateRequest, ServiceUpdateRequest, ServiceView,
        Span, StatusRange,
    },
    cli::number::whole,
};

/// What a service drains in unless somebody says otherwise.
const DRAIN_USUAL: &str = "10s";

/// The options that `create` and `update` have in common; an update leaves alone what is not named.
#[derive(Args)]
pub(super) struct Settings {
    /// How new connections are spread: rr, random, least-conn (proxied ports alone) or source [usual: rr]
    #[arg(long, value_name = "WAY")]
    lb: Option<Lb>,
    /// How long a client stays with the replica that it came to, from 1s to 24h, or `off` [usual: off]
    #[arg(long, value_name = "D|off", allow_hyphen_values = true)]
    affinity: Option<Affinity>,
    /// What its name stands for: vip, or dnsrr for its replicas' own addresses [usual: vip]
    #[arg(long, value_name = "MODE")]
    endpoint_mode: Option<EndpointMode>,
    /// How its replicas are probed: tcp, none, or a path by HTTP such as `http:/healthz` [usual: none]
    #[arg(long, value_name = "CHECK")]
    health: Option<Probe>,
    /// The replicas' port to probe [usual: the target of the first published TCP port]
    #[arg(long, value_name = "PORT", allow_negative_numbers = true,
        value_parser = whole(NonZeroU16::MIN, NonZeroU16::MAX))]
    health_port: Option<NonZeroU16>,
    /// The time from one probe to the next, from 100ms to 1h [usual: 2s]
    #[arg(long, value_name = "D", allow_hyphen_values = true)]
    health_interval: Option<Span>,
    /// How long an answer may take, from 1ms to 1m [usual: 1s]
    #[arg(long, value_name = "D", allow_hyphen_values = true)]
    health_timeout: Option<Span>,
    /// So many good answers in a row make a replica ready, from 1 to 255 [usual: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(NonZeroU8::MIN, NonZeroU8::MAX))]
    health_rise: Option<NonZeroU8>,
    /// So many bad answers in a row make a replica unhealthy, from 1 to 255 [usual: 3]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(NonZeroU8::MIN, NonZeroU8::MAX))]
    health_fall: Option<NonZeroU8>,
    /// The HTTP status codes that are good [usual: 200-399]
    #[arg(long, value_name = "CODES", allow_hyphen_values = true)]
    health_status: Option<StatusRange>,
    /// How long a draining replica's connections may take to finish, from 0s to 1h [usual: 10s]
    #[arg(long, value_name = "D", allow_hyphen_values = true)]
    drain: Option<Span>,
}

impl Settings {
    /// A wish for a new service with these.
    pub(super) fn into_create(self) -> ServiceCreateRequest {
        let (health, Self { lb, affinity, endpoint_mode, drain, .. }) = self.split();
        ServiceCreateRequest {
            lb: lb.unwrap_or_default(),
            affinity: affinity.unwrap_or_default(),
            endpoint_mode: endpoint_mode.unwrap_or_default(),
            health,
            drain,
            ..ServiceCreateRequest::default()
        }
    }

    /// A wish for these in a service that is there.
    pub(super) fn into_update(self) -> ServiceUpdateRequest {
        let (health, Self { lb, affinity, endpoint_mode, drain, .. }) = self.split();
        ServiceUpdateRequest { lb, affinity, endpoint_mode, health, drain, ..ServiceUpdateRequest::default() }
    }

    fn split(mut self) -> (HealthRequest, Self) {
        let health = HealthRequest {
            probe: self.health.take(),
            status: self.health_status.take(),
            port: self.health_port.take(),
            interval: self.health_interval.take(),
            timeout: self.health_timeout.take(),
            rise: self.health_rise.take(),
            fall: self.health_fall.take(),
        };
        (health, self)
    }
}

/// What of a service's settings is not as usual: the name of each, and how it is.
pub(super) fn unusual(service: &ServiceView) -> Vec<(&'static str, String)> {
    let ServiceView { lb, affinity, endpoint_mode, health, drain, .. } = service;
    let drain = drain.to_string();
    [
        ("lb", (*lb != Lb::default()).then(|| lb.to_string())),
        ("affinity", (*affinity != Affinity::default()).then(|| affinity.to_string())),
        ("endpoint-mode", (*endpoint_mode != EndpointMode::default()).then(|| endpoint_mode.to_string())),
        ("health", health.as_ref().map(ToString::to_string)),
        ("drain", (drain != DRAIN_USUAL).then_some(drain)),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}
