//! A proxy in memory, for tests. [`Memory`] is its host. [`Proxy`] is any number of VMs over it, and a clock that a
//! test moves.

mod memory;
mod proxy;

pub use memory::{Calls, Memory, Sending, Touch};
pub use proxy::{Proxy, answer};
