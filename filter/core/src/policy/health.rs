//! What the module says of the health of all upstreams together, to those who ask from outside: which circuits decide,
//! and when they make it sick.

use crate::policy::upstream::{Matcher, Upstream};

/// The health endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The path that is answered, without a query.
    pub path: String,
    /// Whose circuits decide; empty: all.
    pub(crate) upstreams: Vec<Matcher>,
    /// How many of them must be cut off.
    pub when: When,
    /// Nanoseconds for which it must be so before the answer is 503.
    pub after: u64,
    /// Nanoseconds for which it must not be so before the answer is 200 again.
    pub recover_after: u64,
    /// Whether the answer names upstreams.
    pub detail: bool,
}

/// How many circuits that are OPEN, or only test their upstreams, make the whole unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// One.
    Any,
    /// All, if there is one.
    All,
    /// This share of them, in millionths.
    Share(u32),
}

impl Health {
    /// Whether the circuit of `upstream` is one of those that decide.
    pub(crate) fn is_decided_by(&self, upstream: &Upstream<'_>) -> bool {
        self.upstreams.is_empty() || self.upstreams.iter().any(|matcher| matcher.matches(upstream))
    }
}

impl When {
    /// Whether so many circuits of so many make the whole unhealthy.
    pub(crate) fn is_met(self, cut_off: usize, circuits: usize) -> bool {
        let wide = |count: usize| u128::try_from(count).unwrap_or(u128::MAX);
        cut_off > 0
            && match self {
                When::Any => true,
                When::All => cut_off >= circuits,
                When::Share(share) => {
                    wide(cut_off).saturating_mul(1_000_000) >= wide(circuits).saturating_mul(u128::from(share))
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn so_many_make_it_unhealthy() {
        for (when, cut_off, circuits, met) in [
            (When::Any, 0, 3, false),
            (When::Any, 1, 300, true),
            (When::All, 0, 0, false),
            (When::All, 2, 3, false),
            (When::All, 3, 3, true),
            (When::Share(500_000), 1, 3, false),
            (When::Share(500_000), 2, 4, true),
            (When::Share(1_000_000), 3, 4, false),
            (When::Share(1), 0, 4, false),
        ] {
            assert_eq!(when.is_met(cut_off, circuits), met, "{when:?}: {cut_off} of {circuits}");
        }
    }
}
