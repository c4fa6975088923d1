//! What the breaker costs, on a real Envoy, beside what else could stand in its place.
//!
//! [`instructions`] and [`scale`] count instructions under callgrind, which is deaf to whatever else the machine does;
//! [`cpu`] takes the processor's time and the clients' waiting under full load; [`flapping`] lets four workers quarrel about
//! one circuit; [`held`] holds ten thousand calls open. [`report`] says what was found and what it should have been, [`picture`] draws it.

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
