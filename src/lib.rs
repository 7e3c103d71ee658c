//! weft joins Linux hosts into one container network with one front door.
//!
//! Read the modules in this order. Pure decisions: [`model`], [`ipam`], [`overlay`], [`mesh`], [`desired`], [`names`],
//! [`plan`].
//! Edges, each to one outside thing: [`kernel`], [`store`], [`peer`], [`probe`], [`dns`], [`proxy`], [`api`], and
//! [`tls`] under two of them. Wiring:
//! [`agent`], [`cli`].

pub mod agent;
pub mod api;
pub mod cli;
pub mod desired;
pub mod dns;
pub mod ipam;
pub mod kernel;
pub mod mesh;
pub mod model;
pub mod names;
pub mod overlay;
pub mod peer;
pub mod plan;
pub mod probe;
pub mod proxy;
pub mod store;
pub mod tls;
