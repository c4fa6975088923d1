//! Drives the real programs: Envoy processes, scripted upstreams, clients, and the scenarios that tests and demo
//! share.
//!
//! Nothing here waits for a fixed time. [`wait`] polls a condition until a deadline, and then says what it was
//! waiting for.

pub mod bench;
pub mod bootstrap;
pub mod client;
pub mod control;
pub mod demo;
pub mod envoy;
pub mod faulty;
pub mod grpc;
pub mod monitoring;
pub mod places;
pub mod scenario;
pub mod soak;
pub mod upstream;
pub mod wait;
