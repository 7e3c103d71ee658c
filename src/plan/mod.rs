//! The difference between what should be and what is, as steps in an order that never breaks traffic.

mod step;

pub use step::{NftChange, Step};
