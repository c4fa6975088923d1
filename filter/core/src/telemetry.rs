//! What the outside hears of circuits: metrics, and one line a transition.

pub(crate) mod ledger;
pub mod metrics;
pub(crate) mod series;
pub(crate) mod transition;
