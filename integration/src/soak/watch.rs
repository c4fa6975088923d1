//! What is watched all the time: a scrape a second, the process' memory, and whether the machine runs this process at
//! all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::LIMITS;
use super::journal::{Journal, Sample, Span};
use super::stop::Stop;
use crate::bench::process::{linear_memories, resident};
use crate::envoy::Envoy;

/// Between two scrapes.
const SCRAPE: Duration = Duration::from_secs(1);

/// A pause whose lateness tells that the machine ran something else.
const NAP: Duration = Duration::from_millis(50);

/// Lateness from which on it matters: Envoy's own timers may have been as late.
const LATE: Duration = Duration::from_millis(200);

/// Scrapes and looks at the process until it is to stop.
///
/// # Errors
/// Envoy has ended, or its admin interface does not answer.
pub async fn watch(envoy: &Envoy, journal: &Journal, mut stop: Stop) -> Result<()> {
    let mut pages = Pages::default();
    while stop.pause(SCRAPE).await {
        let page = envoy.prometheus().await.context("a scrape got no answer")?;
        pages.turn(&page, LIMITS[0].0).into_iter().for_each(|complaint| journal.complain(complaint));
        let memories = linear_memories(envoy.pid())?;
        let sample = Sample {
            at: journal.now(),
            resident: resident(envoy.pid())?,
            vm: memories.last().copied().unwrap_or(0.0),
            vms: memories.len(),
        };
        journal.with(|entries| {
            entries.samples.push(sample);
            entries.scrapes += 1;
        });
    }
    Ok(())
}

/// Enters the times in which this process did not run, until it is to stop.
pub async fn notice_stalls(journal: &Journal, mut stop: Stop) {
    loop {
        let (from, slept) = (journal.now(), Instant::now());
        if !stop.pause(NAP).await {
            return;
        }
        if slept.elapsed() > NAP + LATE {
            let stall = Span { from: from + NAP.as_secs_f64(), to: journal.now() };
            journal.with(|entries| entries.stalls.push(stall));
        }
    }
}

/// The breaker's counters on the last page.
#[derive(Debug, Default)]
struct Pages {
    last: BTreeMap<String, f64>,
}

impl Pages {
    /// Compares a page with the last one: no counter may go back or vanish. Returns those that did.
    ///
    /// Beyond `limit` circuits one must have ended before another began, and a new module keeps nothing of an ended
    /// circuit. So that many upstreams may vanish, each with all its series.
    fn turn(&mut self, page: &str, limit: u64) -> Vec<String> {
        let present: BTreeMap<String, f64> = page.lines().filter_map(counter).collect();
        let (were, are) = (upstreams(&self.last), upstreams(&present));
        let ended: BTreeSet<_> = were.difference(&are).collect();
        let excused = ended.len() + usize::try_from(limit).unwrap_or(usize::MAX) <= were.len();
        let mut complaints = Vec::new();
        for (series, before) in &self.last {
            if excused && upstream(series).is_some_and(|upstream| ended.contains(&upstream)) {
                continue;
            }
            let seen = match present.get(series) {
                Some(value) if value >= before => continue,
                Some(value) => format!("went back to {value}"),
                None => "is gone".to_owned(),
            };
            complaints.push(format!("{series} was {before} and {seen} at the next scrape"));
        }
        self.last = present;
        complaints
    }
}

/// The value of the label `tag`.
fn upstream(series: &str) -> Option<&str> {
    series.split_once("tag=\"")?.1.split('"').next()
}

fn upstreams(page: &BTreeMap<String, f64>) -> BTreeSet<&str> {
    page.keys().filter_map(|series| upstream(series)).collect()
}

/// One of the breaker's counters and its value.
fn counter(line: &str) -> Option<(String, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let name = series.split('{').next()?;
    let ours = name.contains("circuit_breaker_") && name.ends_with("_total");
    if ours { Some((series.to_owned(), value.parse().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: &str = r#"wasmcustom_circuit_breaker_rejected_total{tag="u1"}"#;

    #[test]
    fn a_counter_that_goes_back_or_vanishes_is_noticed_and_a_gauge_is_not() {
        let mut pages = Pages::default();
        let mut complaints = |page: &str| pages.turn(page, 1).len();
        let gauge = |value: u8| format!("wasmcustom_circuit_breaker_state{{tag=\"u1\"}} {value}");
        assert_eq!(complaints(&format!("# TYPE x counter\n{SERIES} 5\n{}", gauge(2))), 0);
        assert_eq!(complaints(&format!("{SERIES} 5\n{}", gauge(0))), 0);
        assert_eq!(complaints(&format!("{SERIES} 4\n")), 1);
        assert_eq!(complaints(""), 1);
        assert_eq!(complaints(&format!("{SERIES} 1\n")), 0);
    }

    #[test]
    fn so_many_upstreams_may_vanish_as_must_have_ended() {
        let page = |upstreams: &[u8]| -> String {
            upstreams.iter().map(|n| format!("circuit_breaker_rejected_total{{tag=\"u{n}\"}} 5\n")).collect()
        };
        for (are, complaints) in [(&[1, 2, 3][..], 0), (&[1, 3], 0), (&[2, 3], 0), (&[3], 2), (&[], 3)] {
            let mut pages = Pages::default();
            pages.turn(&page(&[1, 2, 3]), 2);
            assert_eq!(pages.turn(&page(are), 2).len(), complaints, "{are:?}");
        }
        let mut pages = Pages::default();
        pages.turn("circuit_breaker_a_total{tag=\"u1\"} 5\ncircuit_breaker_b_total{tag=\"u1\"} 5\n", 0);
        assert_eq!(pages.turn("circuit_breaker_a_total{tag=\"u1\"} 5\n", 0).len(), 1, "the upstream is still there");
    }
}
