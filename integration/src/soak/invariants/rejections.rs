//! A request was rejected only while the log says that the circuit was not CLOSED.

use std::collections::BTreeMap;

use super::Finding;
use crate::scenario::State;
use crate::soak::evidence::{Evidence, Rejection};
use crate::soak::log::Stretch;

/// How much later than a transition's effect its line may be, in seconds. Once a worker has written the record, all
/// workers see the circuit's new state. That worker logs the line only after that: some microseconds later, unless
/// the system lets another thread run between the two. The system gives each waiting thread some milliseconds, and
/// several may wait. In the other direction nothing need be allowed for: the last effect of a state comes before the
/// line of the next one.
pub const GRAIN: f64 = 0.25;

/// The rounding of the two clocks: Envoy writes microseconds.
const ROUNDING: f64 = 0.001;

/// Checks every rejection that a client saw against the log.
#[must_use]
pub fn check(evidence: &Evidence) -> Finding {
    let mut lives: BTreeMap<&str, Vec<Stretch>> = BTreeMap::new();
    let (mut latest, mut broken) = (0.0_f64, Vec::new());
    let rejections = evidence.rejections();
    for rejection in &rejections {
        let life = lives.entry(rejection.upstream).or_insert_with(|| evidence.life(rejection.upstream));
        match lateness(life, rejection) {
            Some(late) if late <= GRAIN => latest = latest.max(late),
            _ => broken.push(said(life, rejection)),
        }
    }
    let rejections = rejections.len();
    Finding {
        invariant: "a rejection lies in a stretch in which the log has the circuit OPEN or HALF_OPEN, as it says itself",
        seen: format!(
            "{rejections} rejections; the latest line came {:.1} ms after its effect (allowed: {:.0})",
            latest * 1000.0,
            GRAIN * 1000.0
        ),
        broken,
    }
}

/// How long before the line that explains it the rejection was over; `None` where no line does.
fn lateness(life: &[Stretch], rejection: &Rejection<'_>) -> Option<f64> {
    let explains =
        |stretch: &&Stretch| means(stretch, rejection.word) && stretch.span.to + ROUNDING >= rejection.span.from;
    let late = life.iter().filter(explains).map(|stretch| (stretch.span.from - rejection.span.to).max(0.0));
    late.min_by(f64::total_cmp)
}

/// Whether a circuit rejects with this word in this stretch.
fn means(stretch: &Stretch, word: &str) -> bool {
    match word {
        "forced-open" => stretch.is_forced(),
        "open" => stretch.state == State::Open && !stretch.is_forced(),
        "half-open" => stretch.state == State::HalfOpen,
        _ => false,
    }
}

fn said(life: &[Stretch], rejection: &Rejection<'_>) -> String {
    let Rejection { id, upstream, word, span } = rejection;
    let around = life.iter().filter(|stretch| stretch.span.from - 1.0 <= span.to && stretch.span.to + 1.0 >= span.from);
    let around: Vec<String> = around
        .map(|stretch| {
            format!("{:?} ({}) from {:.3} to {:.3}", stretch.state, stretch.reason, stretch.span.from, stretch.span.to)
        })
        .collect();
    format!(
        "request {id} to {upstream} was rejected (`{word}`) between {:.3} and {:.3} s; the log has: {}",
        span.from,
        span.to,
        around.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::invariants::tests::{evidence, rejected, transition};

    #[test]
    fn a_rejection_while_the_log_says_closed_is_found() {
        let mut evidence = evidence();
        evidence.transitions = vec![
            transition("u1", 1, 2.0, (State::Closed, State::Open), "consecutive"),
            transition("u1", 2, 4.0, (State::Open, State::HalfOpen), "open_over"),
            transition("u1", 3, 5.0, (State::HalfOpen, State::Closed), "probes_succeeded"),
        ];
        evidence.entries.calls = vec![
            rejected("u1", 1.9, 1.95, "open"),
            rejected("u1", 3.0, 3.1, "open"),
            rejected("u1", 4.5, 4.6, "half-open"),
        ];
        assert_eq!(check(&evidence).broken, Vec::<String>::new());
        let wrong = [
            rejected("u1", 1.0, 1.1, "open"),
            rejected("u1", 4.5, 4.6, "open"),
            rejected("u1", 3.0, 3.1, "half-open"),
            rejected("u1", 3.0, 3.1, "forced-open"),
            rejected("u1", 5.1, 5.2, "half-open"),
            rejected("u2", 3.0, 3.1, "open"),
        ];
        for call in wrong {
            evidence.entries.calls = vec![call.clone()];
            assert_eq!(check(&evidence).broken.len(), 1, "{call:?}");
        }
    }
}
