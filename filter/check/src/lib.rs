//! What a person needs outside a proxy: a check of policies, the state of a whole fleet, why one upstream is cut off,
//! and the JSON Schema of `pluginConfig`.
//!
//! Each command is one module (`check`, `status`, `why`) over parts that ask nobody anything: the text of a proxy
//! ([`exposition`], [`look`]), what a fleet says of an upstream ([`fleet`]), how it is shown ([`table`]). Only
//! [`source`] speaks with clusters, proxies and Prometheus.
// A tool for a terminal: indexing a JSON value gives null where there is nothing.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod attachment;
pub mod check;
pub mod document;
pub mod exposition;
pub mod faults;
pub mod files;
pub mod fleet;
pub mod look;
pub mod paint;
pub mod policy_words;
pub mod report;
pub mod runbook;
pub mod schema;
pub mod source;
pub mod status;
pub mod table;
pub mod transitions;
pub mod watch;
pub mod why;
