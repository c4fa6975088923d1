//! The circuit breaker itself: pure, without a host, a clock or randomness of its own.
//!
//! Time is an argument in nanoseconds, randomness an argument too; the host is a trait. The crate compiles and is tested
//! natively and on wasm32.
//!
//! From the inside out: [`policy`] is what a circuit is told to do; `record` is the state that all workers share;
//! `circuit` turns one record into the next; `slots` is which
//! circuit has which record, and `idle` who has none any longer; `window`, `ramp` and `backoff` are its arithmetic; `words` are the shared
//! counters; `view` is one VM's view of one circuit; [`breaker`] is one VM's view of the proxy. [`outcome`] is what a
//! call says about its upstream, and [`envoy`] reads that from Envoy's own words. [`favourite`] only saves time.

mod backoff;
pub mod breaker;
mod circuit;
mod clock;
pub mod config;
pub mod envoy;
mod fallback;
pub mod favourite;
mod flights;
mod grpc_timeout;
pub mod host;
mod idle;
mod key;
mod ledger;
pub mod metrics;
mod names;
pub mod outcome;
pub mod paths;
pub mod permit;
pub mod policy;
mod ramp;
mod random;
mod record;
mod report;
mod rest;
pub mod retry_after;
mod series;
mod slots;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod view;
mod vm;
mod window;
mod words;

pub use grpc_timeout::grpc_timeout;
pub use key::Upstream;
