//! All that a run has left behind, so that the invariants can be checked.

use std::collections::BTreeMap;

use super::counters::Counters;
use super::journal::{At, End, Entries, Span};
use super::log::{Line, Stretch, Transition, stretches};

/// Traffic from one moment without a request under way to the next such moment. Books can be balanced over it.
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
    /// VMs that trapped in it. The calls that they had in hand were never settled.
    pub traps: bool,
}

/// The evidence.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What the soak itself did and saw.
    pub entries: Entries,
    /// The transitions in Envoy's log.
    pub transitions: Vec<Transition>,
    /// Envoy's critical lines.
    pub critical: Vec<(At, String)>,
    /// When the module refused a configuration, by its log.
    pub refused: Vec<At>,
    /// The rounds.
    pub rounds: Vec<Round>,
    /// When all was over.
    pub end: At,
    /// From the update to the module that traps until the update back.
    pub trap: Option<Span>,
    /// VMs that Envoy made again after a trap.
    pub reloads: u64,
    /// Worker threads of Envoy.
    pub workers: u32,
    /// Circuits that the module may have held at most.
    pub limit: u64,
}

/// A rejection.
#[derive(Clone, Copy, Debug)]
pub struct Rejection<'a> {
    /// The request's number.
    pub id: u64,
    /// The upstream whose circuit rejected it.
    pub upstream: &'a str,
    /// What `x-circuit-breaker` said.
    pub word: &'a str,
    /// The time in which the rejection was decided.
    pub span: Span,
}

impl Evidence {
    /// The life of an upstream's circuit.
    #[must_use]
    pub fn life(&self, upstream: &str) -> Vec<Stretch> {
        stretches(&self.transitions, upstream, self.end)
    }

    /// Every rejection: the upstream's name, the word, and the time. The time is narrowed to what Envoy and client
    /// agree on: a client that sends its body slowly learns late what was decided about its head.
    #[must_use]
    pub fn rejections(&self) -> Vec<Rejection<'_>> {
        let lines = self.rounds.iter().flat_map(|round| &round.lines);
        let spans: BTreeMap<u64, Span> = lines.filter_map(|line| Some((line.id?, line.span))).collect();
        let calls = self.entries.calls.iter().filter_map(|call| {
            let End::Rejected(word) = &call.end else { return None };
            let told = spans.get(&call.id).copied().filter(|told| told.meets(&call.span)).unwrap_or(call.span);
            let span = Span { from: told.from.max(call.span.from), to: told.to.min(call.span.to) };
            Some(Rejection { id: call.id, upstream: &call.upstream, word, span })
        });
        calls.collect()
    }

    /// The metrics at the end.
    #[must_use]
    pub fn last(&self) -> Counters {
        self.rounds.last().map(|round| round.after.clone()).unwrap_or_default()
    }
}
