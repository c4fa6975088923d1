//! What must hold whatever happened. Each invariant is checked against the evidence from outside.

pub mod books;
pub mod chain;
pub mod errors;
pub mod memory;
pub mod recovery;
pub mod rejections;

use super::evidence::Evidence;

/// The result of one invariant.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What must hold.
    pub invariant: &'static str,
    /// What was checked, in figures.
    pub seen: String,
    /// Where it did not hold.
    pub broken: Vec<String>,
}

/// All of them.
#[must_use]
pub fn all(evidence: &Evidence) -> Vec<Finding> {
    let complaints = Finding {
        invariant: "updates come to what they should, and no counter goes back between two scrapes",
        seen: format!("{} updates, {} scrapes", evidence.entries.updates.len(), evidence.entries.scrapes),
        broken: evidence.entries.complaints.clone(),
    };
    vec![
        rejections::check(evidence),
        recovery::check(evidence),
        books::check(evidence),
        chain::check(evidence),
        errors::check(evidence),
        memory::check(evidence),
        complaints,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::State;
    use crate::soak::evidence::Round;
    use crate::soak::journal::{At, Call, End, Span};
    use crate::soak::log::{Line, Transition};

    /// A run of a hundred seconds in which nothing happened.
    pub(super) fn evidence() -> Evidence {
        Evidence { end: 100.0, workers: 4, limit: 48, ..Evidence::default() }
    }

    /// Its only round.
    pub(super) fn round() -> Round {
        Round {
            number: 1,
            span: Span { from: 0.0, to: 100.0 },
            before: Default::default(),
            after: Default::default(),
            seen: Default::default(),
            lines: Vec::new(),
            traps: false,
        }
    }

    pub(super) fn transition(
        upstream: &str,
        generation: u64,
        at: At,
        (from, to): (State, State),
        reason: &str,
    ) -> Transition {
        Transition { at, upstream: upstream.to_owned(), generation, from, to, reason: reason.to_owned() }
    }

    pub(super) fn rejected(upstream: &str, from: At, to: At, word: &str) -> Call {
        Call { id: 0, upstream: upstream.to_owned(), span: Span { from, to }, end: End::Rejected(word.to_owned()) }
    }

    pub(super) fn line(upstream: &str, id: u64, details: &str) -> Line {
        Line {
            id: Some(id),
            upstream: upstream.to_owned(),
            span: Span { from: 3.0, to: 3.1 },
            status: 200,
            details: details.to_owned(),
            flags: "-".to_owned(),
        }
    }

    #[test]
    fn nothing_that_happened_breaks_nothing() {
        assert!(all(&evidence()).iter().all(|finding| finding.broken.is_empty()));
    }
}
