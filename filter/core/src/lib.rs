//! The circuit breaker itself: pure, without a host, a clock or randomness of its own.
//!
//! Time is an argument in nanoseconds, randomness an argument too; the host is a trait. The crate compiles and is tested
//! natively and on wasm32.

// The view of one VM, which ties these parts together, comes next and uses what is not used yet.
#![allow(dead_code)]

mod backoff;
mod circuit;
pub mod config;
pub mod host;
mod key;
pub mod metrics;
pub mod policy;
mod ramp;
mod record;
mod text;
mod window;
