//! What is looked at all the time: a scrape a second, the process' memory, and whether this machine lets us run at all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::journal::{Journal, Sample, Span};
use super::stop::Stop;
use crate::bench::process::{linear_memories, resident};
use crate::envoy::Envoy;

/// Between two scrapes.
const SCRAPE: Duration = Duration::from_secs(1);

/// A pause whose lateness tells that the machine was elsewhere.
const NAP: Duration = Duration::from_millis(50);

/// Lateness from which on it matters: Envoy's own timers may have been as late.
const LATE: Duration = Duration::from_millis(200);

/// Scrapes and looks at the process until it is to stop.
///
/// # Errors
/// Envoy has ended, or its admin interface does not answer.
pub async fn watch(envoy: &Envoy, journal: &Journal, mut stop: Stop) -> Result<()> {
    let mut counters = BTreeMap::new();
    while stop.pause(SCRAPE).await {
        let page = envoy.prometheus().await.context("a scrape got no answer")?;
        for complaint in regress(&mut counters, &page) {
            journal.complain(complaint);
        }
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

/// Enters the times in which this process was not let run, until it is to stop.
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

/// Kept only while some policy has a `latencyThreshold`: a new module under another policy does not know it.
const OPTIONAL: &str = "circuit_breaker_over_threshold_total";

/// Compares a page of the breaker's counters with the last one: none of them may go back, or vanish.
fn regress(last: &mut BTreeMap<String, f64>, page: &str) -> Vec<String> {
    let mut present = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or_default();
        if name.contains("circuit_breaker_")
            && name.ends_with("_total")
            && let Ok(value) = value.parse::<f64>()
        {
            present.insert(series.to_owned(), value);
        }
    }
    let mut complaints = Vec::new();
    for (series, before) in last.iter() {
        match present.get(series) {
            Some(value) if value >= before => {}
            Some(value) => complaints.push(format!("{series} went back from {before} to {value} between two scrapes")),
            None if series.contains(OPTIONAL) => {}
            None => complaints.push(format!("{series} was {before} and is gone at the next scrape")),
        }
    }
    *last = present;
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIES: &str = r#"wasmcustom_circuit_breaker_rejected_total{tag="u1"}"#;

    #[test]
    fn a_counter_that_goes_back_or_vanishes_is_noticed_and_a_gauge_is_not() {
        let mut last = BTreeMap::new();
        let gauge = |value: u8| format!("wasmcustom_circuit_breaker_state{{tag=\"u1\"}} {value}");
        assert!(regress(&mut last, &format!("# TYPE x counter\n{SERIES} 5\n{}", gauge(2))).is_empty());
        assert!(regress(&mut last, &format!("{SERIES} 5\n{}", gauge(0))).is_empty());
        assert_eq!(regress(&mut last, &format!("{SERIES} 4\n")).len(), 1);
        assert_eq!(regress(&mut last, "").len(), 1);
        assert!(regress(&mut last, &format!("{SERIES} 1\n")).is_empty());
    }
}
