//! The figures of the load.

use std::time::Duration;

use super::load::Record;
use super::{LENGTH, Side, healed_at, phases};
use crate::scenario::State;

/// The breaker's state at a moment.
pub type Sighting = (Duration, State);

/// Requests that the upstream had seen at a moment: without the breaker, and with it.
pub type Arrivals = (Duration, [u64; 2]);

/// All that a run has shown.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Every request.
    pub records: Vec<Record>,
    /// The state over time.
    pub states: Vec<Sighting>,
    /// What reached the upstream over time.
    pub arrivals: Vec<Arrivals>,
    /// Trips of the circuit.
    pub trips: u64,
    /// How Envoy was started.
    pub started_by: String,
}

/// One side of the table.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Requests of clients.
    pub requests: usize,
    /// Requests that did not get what they asked for.
    pub errors: usize,
    /// Of these, answered at once by the breaker.
    pub failed_fast: usize,
    /// Time within which 99 of 100 clients had their answers.
    pub p99: Duration,
    /// The sum of all clients' waiting for errors.
    pub waited_for_errors: Duration,
    /// Requests that the upstream saw while it was sick.
    pub to_the_sick: u64,
    /// From the upstream's recovery until all requests are good again; `None`: not within the run.
    pub recovery: Option<Duration>,
}

impl Run {
    fn of(&self, side: Side) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.side == side)
    }

    /// The figures of a side.
    #[must_use]
    pub fn figures(&self, side: Side) -> Figures {
        let mut waits: Vec<Duration> = self.of(side).map(|record| record.waited).collect();
        let errors = || self.of(side).filter(|record| !record.is_good());
        Figures {
            requests: waits.len(),
            errors: errors().count(),
            failed_fast: errors().filter(|record| record.rejected).count(),
            p99: percentile(&mut waits, 99),
            waited_for_errors: errors().map(|record| record.waited).sum(),
            to_the_sick: self.arrived(side, healed_at()) - self.arrived(side, phases()[1].from),
            recovery: self.recovery(side),
        }
    }

    /// Requests of a side that the upstream had seen by then, from the looks before and after that moment.
    fn arrived(&self, side: Side, by: Duration) -> u64 {
        let count = |(_, counts): &Arrivals| counts[usize::from(side == Side::With)];
        let after = self.arrivals.iter().position(|(at, _)| *at > by).unwrap_or(self.arrivals.len());
        let (Some(before), after) = (after.checked_sub(1).map(|at| &self.arrivals[at]), self.arrivals.get(after))
        else {
            return 0;
        };
        let Some(after) = after else { return count(before) };
        let part = (by - before.0).as_secs_f64() / (after.0 - before.0).as_secs_f64();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let between = ((count(after) - count(before)) as f64 * part).round() as u64;
        count(before) + between
    }

    fn recovery(&self, side: Side) -> Option<Duration> {
        let last_error = self.of(side).filter(|record| !record.is_good()).map(|record| record.sent).max()?;
        (last_error + Duration::from_secs(1) < LENGTH).then(|| last_error.saturating_sub(healed_at()))
    }

    /// Requests of a side sent in this second, split into good, failed and failed fast.
    #[must_use]
    pub fn second(&self, side: Side, second: u64) -> [usize; 3] {
        let mut counts = [0; 3];
        for record in self.of(side).filter(|record| record.sent.as_secs() == second) {
            let kind = if record.is_good() { 0 } else { 1 + usize::from(record.rejected) };
            counts[kind] += 1;
        }
        counts
    }

    /// Time within which 95 of 100 clients of this second had their answers.
    #[must_use]
    pub fn p95(&self, side: Side, second: u64) -> Duration {
        let within = self.of(side).filter(|record| record.sent.as_secs() == second);
        percentile(&mut within.map(|record| record.waited).collect::<Vec<_>>(), 95)
    }

    /// Requests of a side that reached the upstream in this second.
    #[must_use]
    pub fn arrivals_in(&self, side: Side, second: u64) -> u64 {
        let by = |seconds| self.arrived(side, Duration::from_secs(seconds));
        by(second + 1).saturating_sub(by(second))
    }

    /// The table, one row a line: name, without, with.
    #[must_use]
    pub fn table(&self) -> Vec<[String; 3]> {
        let [without, with] = Side::BOTH.map(|side| self.figures(side));
        let row = |name: &str, show: &dyn Fn(&Figures) -> String| [name.to_owned(), show(&without), show(&with)];
        vec![
            row("requests of clients", &|f| f.requests.to_string()),
            row("client errors", &|f| f.errors.to_string()),
            row("  of these failed fast", &|f| f.failed_fast.to_string()),
            row("p99 of clients", &|f| format!("{} ms", f.p99.as_millis())),
            row("time clients waited for errors", &|f| format!("{:.1} s", f.waited_for_errors.as_secs_f64())),
            row("requests sent to the sick upstream", &|f| f.to_the_sick.to_string()),
            row("time to recover", &|f| {
                f.recovery.map_or("not yet".to_owned(), |t| format!("{:.1} s", t.as_secs_f64()))
            }),
        ]
    }
}

fn percentile(waits: &mut [Duration], percent: usize) -> Duration {
    waits.sort_unstable();
    let rank = (waits.len() * percent).div_ceil(100).max(1);
    waits.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_wait_that_so_many_stay_within() {
        let mut waits: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut waits, 99), Duration::from_millis(198));
        assert_eq!(percentile(&mut [], 99), Duration::ZERO);
    }

    #[test]
    fn figures_tell_errors_from_fast_errors_and_find_the_recovery() {
        let record = |sent, status, rejected| Record {
            side: Side::With,
            sent: Duration::from_secs(sent),
            waited: Duration::from_millis(10),
            status,
            rejected,
        };
        let healed = healed_at().as_secs();
        let run = Run {
            records: vec![
                record(1, 200, false),
                record(9, 500, false),
                record(healed + 3, 503, true),
                record(44, 200, false),
            ],
            arrivals: vec![(phases()[1].from, [0, 1]), (Duration::from_secs(10), [0, 2])],
            ..Run::default()
        };
        let figures = run.figures(Side::With);
        assert_eq!((figures.requests, figures.errors, figures.failed_fast), (4, 2, 1));
        assert_eq!(figures.recovery, Some(Duration::from_secs(3)));
        assert_eq!(figures.to_the_sick, 1);
        assert_eq!(run.second(Side::With, 9), [0, 1, 0]);
    }
}
