//! What the breaker costs, on a real Envoy, beside what else could stand in its place.
//!
//! [`instructions`] and [`scale`] count instructions under callgrind, which nothing else on the machine disturbs.
//! [`cpu`] measures the processor's time and the clients' waiting under full load. In [`flapping`] four workers
//! compete for one circuit. [`held`] holds ten thousand calls open. [`report`] compares the results with their
//! bounds, and [`picture`] draws them.

pub mod callgrind;
pub mod cpu;
pub mod flapping;
pub mod held;
pub mod instructions;
pub mod load;
pub mod many;
pub mod nginx;
pub mod picture;
pub mod process;
pub mod ratio;
pub mod report;
pub mod scale;
pub mod variant;

pub use variant::Variant;
