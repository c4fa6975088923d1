//! All that a run has left behind, for the invariants to be held against.

use std::collections::BTreeMap;

use super::counters::Counters;
use super::journal::{At, Entries, Span};
use super::log::{Line, Stretch, Transition, stretches};

/// Traffic from a moment at which no request was under way to the next such moment: books can be balanced over it.
#[derive(Clone, Debug)]
pub struct Round {
    /// Its number, from 1.
    pub number: usize,
    /// From its first request to the end of its last.
    pub span: Span,
    /// The breaker's metrics at its beginning.
    pub before: Counters,
    /// The same at its end.
    pub after: Counters,
    /// Requests that each upstream has seen in it.
    pub seen: BTreeMap<String, u64>,
    /// Envoy's access log of it.
    pub lines: Vec<Line>,
    /// VMs trapped in it: what they had in hand was never settled.
    pub traps: bool,
}

/// The evidence.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What the outside did and saw.
    pub entries: Entries,
    /// What Envoy's log tells of circuits.
    pub transitions: Vec<Transition>,
    /// Envoy's critical lines.
    pub critical: Vec<(At, String)>,
    /// Configurations that the module refused, by its log.
    pub refused: u64,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// When all was over.
    pub end: At,
    /// From the module that traps to the one that does not.
    pub trap: Option<Span>,
    /// VMs that Envoy made anew after a trap.
    pub reloads: u64,
    /// Worker threads of Envoy.
    pub workers: u32,
    /// Circuits that the module may have held at most.
    pub limit: u64,
}

impl Evidence {
    /// The life of an upstream's circuit.
    #[must_use]
    pub fn life(&self, upstream: &str) -> Vec<Stretch> {
        stretches(&self.transitions, upstream, self.end)
    }

    /// The metrics at the end.
    #[must_use]
    pub fn last(&self) -> Counters {
        self.rounds.last().map(|round| round.after.clone()).unwrap_or_default()
    }
}
