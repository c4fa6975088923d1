//! The circuit breaker itself: pure, without a host, a clock or randomness of its own.
//!
//! Time and randomness are arguments (time in nanoseconds), and the host is a trait. The crate compiles and is tested
//! natively and on wasm32.
//!
//! **The rooms**, each of which knows only those before it:
//! - [`clock`], `share`, `random`, `json`, `names`, `keys`: a few lines each, for all the others.
//! - [`policy`]: what a circuit is told to do, for which upstreams, and what a call's outcome is.
//! - [`config`]: from `pluginConfig` to policies, with one message for what is refused.
//! - [`envoy`]: what is Envoy's own: its words for how a call ended, headers, names of metrics. Another host has a room of
//!   its own in its place.
//! - `circuit`: one circuit as pure functions: its record, its transitions, its window, open time and ramp.
//! - [`host`]: what the breaker needs of its host, as a trait.
//! - [`telemetry`]: what the outside hears: metrics and the transition line.
//! - `shared`: what all workers share beside the records: numbers, the list of slots, the process.
//! - [`breaker`]: one worker's breaker: its views of the circuits, who may pass, what each call came to, and the tick.
//! - `testing`: a host in memory, and a proxy over it.

pub mod breaker;
mod circuit;
pub mod clock;
pub mod config;
pub mod envoy;
pub mod host;
mod json;
mod keys;
mod names;
pub mod policy;
mod random;
mod share;
mod shared;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use policy::upstream::Upstream;
