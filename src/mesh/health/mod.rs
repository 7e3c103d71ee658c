//! Whether this node's replicas can take connections: which of them is asked when, and what the answers add up to.
//!
//! Nothing here waits or asks: time and answers come in, questions and verdicts go out. A verdict is a state, not an event:
//! whoever writes it into the store may be late, or write it twice, and comes to the same.

mod pulse;
mod rounds;

pub use pulse::Pulse;
pub use rounds::{Answer, Question, Rounds};
