//! `make test-monitoring`: does every query of the dashboards find something where there is something to find?
//!
//! A misspelt label makes a panel that is empty for ever, and looks calm. So a real Prometheus scrapes real proxies with
//! the module while upstreams fail, hang, fill their pool and recover. Then each expression of each panel, each
//! variable and each annotation is asked over the whole outage, and an empty answer fails the run.
//!
//! The proxies are bare Envoys that keep the series of a stock Istio proxy, by the names that it gives them
//! ([`proxies`]). What only a mesh has comes from pages beside the dashboards ([`foreign`]).

pub mod board;
pub mod foreign;
pub mod outage;
pub mod prometheus;
pub mod proxies;
pub mod verdict;

use std::path::PathBuf;

use crate::envoy::workspace;

/// Where dashboards and rules lie.
#[must_use]
pub fn directory() -> PathBuf {
    workspace().join("istio/monitoring")
}
