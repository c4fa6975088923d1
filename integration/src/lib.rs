//! Drives the real thing: Envoy processes, scripted upstreams, clients, and the scenarios that tests and demo share.
//!
//! Nothing here waits for a fixed time: [`wait`] polls conditions until a deadline and then says what it was waiting for.
// This crate is test support and tools: what goes wrong ends a test or the demo with a message, never an Envoy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

pub mod bootstrap;
pub mod client;
pub mod demo;
pub mod envoy;
pub mod grpc;
pub mod scenario;
pub mod upstream;
pub mod wait;
