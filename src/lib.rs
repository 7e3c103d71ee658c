//! weft joins Linux hosts into one container network with one front door.
//!
//! Read the modules in this order. Pure decisions: [`model`], [`plan`].
//! Edges: [`kernel`], [`store`], [`api`]. Wiring: [`agent`], [`cli`].

pub mod agent;
pub mod api;
pub mod cli;
pub mod kernel;
pub mod model;
pub mod plan;
pub mod store;
