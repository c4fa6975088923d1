//! One circuit, as pure functions from a record to the next: no host, no clock, no randomness.

mod active;
pub(crate) mod conditions;
pub(crate) mod layout;
pub(crate) mod open_time;
pub(crate) mod ramp;
pub(crate) mod record;
pub(crate) mod transitions;
pub(crate) mod window;
