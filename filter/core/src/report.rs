//! What the outside hears of a circuit: gauges, counters and one log line a transition, from the worker that made it.

use crate::circuit::{Change, Moment, Reason};
use crate::config::{MILLISECOND, SECOND};
use crate::host::{Fault, Host, Level};
use crate::metrics;
use crate::record::{Phase, Record};
use crate::text::quoted;
use crate::view::View;
use crate::vm::Vm;

/// Tells all workers that the record was written, and everybody else what changed.
///
/// A fault is counted and the rest is still done: the change stands, and workers that were not told find it in their round
/// through all records ([`View::look_again`]).
pub(crate) fn written<H: Host>(view: &View, vm: &Vm<H>, change: &Change, at: Moment, streak: u64) {
    let told = view.words.epoch.add_one(&vm.host).and(vm.advance());
    let said = change.reason.map_or(Ok(()), |reason| transition(view, vm, &change.record, reason, at, streak));
    for fault in [told.err(), said.err()].into_iter().flatten() {
        vm.failed(fault);
    }
}

fn transition<H: Host>(
    view: &View,
    vm: &Vm<H>,
    next: &Record,
    reason: Reason,
    at: Moment,
    streak: u64,
) -> Result<(), Fault> {
    let level = if matches!(next.phase, Phase::Closed | Phase::Ended) { Level::Info } else { Level::Warn };
    vm.host.log(level, &line(view, next, reason, at, streak));
    gauges(view, &vm.host, next)?;
    if next.phase == Phase::Open {
        view.series.count(&vm.host, &metrics::TRIPS, &view.name, reason.word())?;
    }
    if next.phase == Phase::Closed && view.record.outage_since != 0 {
        let outage = at.now.saturating_sub(view.record.outage_since) / MILLISECOND;
        view.series.record(&vm.host, &metrics::RECOVERY, &view.name, outage)?;
    }
    Ok(())
}

/// Sets the gauges to what the record says.
pub(crate) fn state<H: Host>(view: &View, host: &H) -> Result<(), Fault> {
    gauges(view, host, &view.record)
}

/// Sets the gauges to what they are without a circuit.
pub(crate) fn nothing<H: Host>(view: &View, host: &H) -> Result<(), Fault> {
    view.series.record(host, &metrics::STATE, &view.name, 0)?;
    if view.series.has(&metrics::OPEN_UNTIL) {
        view.series.record(host, &metrics::OPEN_UNTIL, &view.name, 0)?;
    }
    Ok(())
}

fn gauges<H: Host>(view: &View, host: &H, record: &Record) -> Result<(), Fault> {
    let disabled = view.policy.mode == crate::policy::Mode::Disabled;
    let (state, open_until) = match record.phase {
        _ if disabled => (0, 0),
        Phase::Closed | Phase::Ended => (0, 0),
        Phase::Probe | Phase::Ramp => (1, 0),
        Phase::Open => (2, record.open_until.div_ceil(SECOND)),
    };
    view.series.record(host, &metrics::STATE, &view.name, state)?;
    // What was never OPEN has no such gauge.
    if record.transitions() > 0 {
        view.series.record(host, &metrics::OPEN_UNTIL, &view.name, open_until)?;
    }
    Ok(())
}

fn state_word(phase: Phase) -> &'static str {
    match phase {
        // An upstream without a circuit is let through as one with a CLOSED one.
        Phase::Closed | Phase::Ended => "CLOSED",
        Phase::Open => "OPEN",
        Phase::Probe | Phase::Ramp => "HALF_OPEN",
    }
}

/// The transition line: a fixed phrase to search for, then one JSON object.
fn line(view: &View, next: &Record, reason: Reason, at: Moment, streak: u64) -> String {
    let window = view.window.count(at.now, at.tally, view.policy.trip.window);
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
        quoted(&view.name),
        state_word(view.record.phase),
        state_word(next.phase),
        reason.word(),
        next.transitions(),
        next.open_until.saturating_sub(at.now).min(next.open_until) / MILLISECOND,
        next.trips_in_a_row,
        window.calls(),
        window.failure,
        window.slow,
        window.over,
        view.policy.mode.word(),
    )
}
