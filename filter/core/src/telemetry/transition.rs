//! What the outside learns of one circuit: gauges, counters and one log line a transition, from the worker that made
//! it.

use crate::circuit::conditions::Reason;
use crate::circuit::record::{Phase, Record};
use crate::circuit::window::Tally;
use crate::clock::{MILLISECOND, SECOND};
use crate::host::{Fault, Host, Level};
use crate::json::quoted;
use crate::policy::Mode;
use crate::telemetry::metrics;
use crate::telemetry::series::Series;

/// A circuit, as the outside knows it.
pub(crate) struct Told<'a> {
    pub(crate) upstream: &'a str,
    pub(crate) series: &'a Series,
    pub(crate) mode: Mode,
}

/// A change that a worker has made to a circuit's record, and the facts that decided it.
pub(crate) struct Transition<'a> {
    pub(crate) from: &'a Record,
    pub(crate) to: &'a Record,
    pub(crate) reason: Reason,
    /// When, in nanoseconds since 1970.
    pub(crate) now: u64,
    /// What the window held.
    pub(crate) window: Tally,
    /// Failures in a row.
    pub(crate) streak: u64,
}

impl Told<'_> {
    /// Tells of the transition: a log line, the gauges, and the count of a trip or the length of an outage.
    pub(crate) fn transition<H: Host>(&self, host: &H, made: &Transition<'_>) -> Result<(), Fault> {
        let next = made.to;
        let level = if matches!(next.phase, Phase::Closed | Phase::Ended) { Level::Info } else { Level::Warn };
        host.log(level, &self.line(made));
        self.state(host, next)?;
        if next.phase == Phase::Open {
            self.series.count(host, &metrics::TRIPS, self.upstream, made.reason.word())?;
        }
        if next.phase == Phase::Closed && made.from.outage_since != 0 {
            let outage = made.now.saturating_sub(made.from.outage_since) / MILLISECOND;
            self.series.record(host, &metrics::RECOVERY, self.upstream, outage)?;
        }
        Ok(())
    }

    /// Sets the gauges to what the record says.
    pub(crate) fn state<H: Host>(&self, host: &H, record: &Record) -> Result<(), Fault> {
        let (state, open_until) = match record.phase {
            _ if self.mode == Mode::Disabled => (0, 0),
            Phase::Closed | Phase::Ended => (0, 0),
            Phase::Probe | Phase::Ramp => (1, 0),
            Phase::Open => (2, record.open_until.div_ceil(SECOND)),
        };
        self.series.record(host, &metrics::STATE, self.upstream, state)?;
        // A circuit that was never OPEN has no such gauge.
        if record.transitions() > 0 {
            self.series.record(host, &metrics::OPEN_UNTIL, self.upstream, open_until)?;
        }
        self.mode(host, self.mode)
    }

    /// What is always enforced needs no gauge for it.
    fn mode<H: Host>(&self, host: &H, mode: Mode) -> Result<(), Fault> {
        if mode == Mode::Enforce && !self.series.has(&metrics::MODE) {
            return Ok(());
        }
        Ok(self.series.record(host, &metrics::MODE, self.upstream, u64::from(mode.number()))?)
    }

    /// Sets the gauges to what they are without a circuit.
    pub(crate) fn nothing<H: Host>(&self, host: &H) -> Result<(), Fault> {
        self.series.record(host, &metrics::STATE, self.upstream, 0)?;
        if self.series.has(&metrics::OPEN_UNTIL) {
            self.series.record(host, &metrics::OPEN_UNTIL, self.upstream, 0)?;
        }
        self.mode(host, Mode::Enforce)
    }

    /// The transition line: a fixed phrase to search for, then one JSON object.
    fn line(&self, made: &Transition<'_>) -> String {
        let Transition { from, to: next, reason, now, window, streak } = made;
        let stage = match next.phase {
            Phase::Probe => ",\"stage\":\"probe\"",
            Phase::Ramp => ",\"stage\":\"ramp\"",
            Phase::Closed | Phase::Open | Phase::Ended => "",
        };
        format!(
            "circuit_breaker transition {{\"upstream\":{},\"from\":\"{}\",\"to\":\"{}\"{stage},\"reason\":\"{}\",\
             \"generation\":{},\"open_ms\":{},\"trips_in_a_row\":{},\"window\":{{\"calls\":{},\"failures\":{},\"slow\":{},\
             \"over_threshold\":{}}},\
             \"streak\":{streak},\"mode\":\"{}\"}}",
            quoted(self.upstream),
            state_word(from.phase),
            state_word(next.phase),
            reason.word(),
            next.transitions(),
            next.open_until.saturating_sub(*now).min(next.open_until) / MILLISECOND,
            next.trips_in_a_row,
            window.calls(),
            window.failure,
            window.slow,
            window.over,
            self.mode.word(),
        )
    }
}

fn state_word(phase: Phase) -> &'static str {
    match phase {
        // An upstream without a circuit shows as CLOSED.
        Phase::Closed | Phase::Ended => "CLOSED",
        Phase::Open => "OPEN",
        Phase::Probe | Phase::Ramp => "HALF_OPEN",
    }
}
