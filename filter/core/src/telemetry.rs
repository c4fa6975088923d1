//! What the outside learns of circuits: metrics, and one log line a transition.

pub(crate) mod info;
pub(crate) mod ledger;
pub mod metrics;
pub(crate) mod series;
pub(crate) mod transition;
