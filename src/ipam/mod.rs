//! Addresses: how a prefix is cut into blocks, which block a node claims, which address an endpoint gets.
//!
//! Everything here chooses against a snapshot; nothing here is true until the store's compare-and-swap has made it so.
//! There are no bitmaps and no locks: a block is one key, an address is one key.

mod address;
mod block;
mod subnet;
mod vip;

pub use address::{choose_address, choose_borrowed};
pub use block::choose_block;
pub use subnet::{SubnetError, choose_subnet, subnet};
pub use vip::choose_vip;
