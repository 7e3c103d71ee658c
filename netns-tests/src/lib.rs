//! Real kernel, real agents: what the scenarios under `tests/` are built from.

mod isolated;

pub use isolated::isolated;
