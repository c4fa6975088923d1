//! The table at the end.

use super::evidence::Evidence;
use super::fault::Fault;
use super::invariants::Finding;
use super::journal::{Call, End, Span};
use super::log::Stretch;
use super::upstreams::UPSTREAMS;
use crate::scenario::State;

/// Breaches of one invariant that are told in full.
const TOLD: usize = 6;

/// What happened to each upstream, one row a line, with a head.
#[must_use]
pub fn upstreams(evidence: &Evidence) -> Vec<[String; 8]> {
    let head = ["upstream", "requests", "good", "rejected", "trips", "OPEN s", "HALF_OPEN s", "sick s"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(UPSTREAMS.iter().map(|(upstream, _)| row(evidence, upstream)));
    rows
}

fn row(evidence: &Evidence, upstream: &str) -> [String; 8] {
    let calls = || evidence.entries.calls.iter().filter(|call| call.upstream == upstream);
    let count = |is_meant: fn(&Call) -> bool| calls().filter(|call| is_meant(call)).count().to_string();
    let life = evidence.life(upstream);
    let trips = life.iter().filter(|stretch| stretch.state == State::Open).count();
    [
        upstream.to_owned(),
        calls().count().to_string(),
        count(|call| call.end == End::Answered(200)),
        count(|call| matches!(call.end, End::Rejected(_))),
        trips.to_string(),
        format!("{:.0}", time(&life, State::Open)),
        format!("{:.0}", time(&life, State::HalfOpen)),
        format!("{:.0}", sick(evidence, upstream)),
    ]
}

/// Seconds that a circuit was in a state.
fn time(life: &[Stretch], state: State) -> f64 {
    let own = life.iter().filter(|stretch| stretch.state == state);
    own.map(|stretch| stretch.span.seconds()).fold(0.0, std::ops::Add::add)
}

/// The phases of an upstream, each with its fault.
#[must_use]
pub fn phases(evidence: &Evidence, upstream: &str) -> Vec<(Span, Fault)> {
    let own: Vec<_> = evidence.entries.phases.iter().filter(|phase| phase.upstream == upstream).collect();
    let until = |at: usize| own.get(at + 1).map_or(evidence.end, |next| next.from);
    own.iter().enumerate().map(|(at, phase)| (Span { from: phase.from, to: until(at) }, phase.fault)).collect()
}

fn sick(evidence: &Evidence, upstream: &str) -> f64 {
    let phases = phases(evidence, upstream);
    let sick = phases.iter().filter(|(_, fault)| *fault != Fault::Healthy);
    sick.map(|(span, _)| span.seconds()).fold(0.0, std::ops::Add::add)
}

/// Prints the rows, the findings, and what broke them.
pub fn print(evidence: &Evidence, findings: &[Finding]) {
    println!();
    for row in upstreams(evidence) {
        let [name, rest @ ..] = row;
        print!("{name:<10}");
        rest.iter().for_each(|cell| print!("{cell:>13}"));
        println!();
    }
    let stalled = evidence.entries.stalls.iter().map(Span::seconds).fold(0.0, std::ops::Add::add);
    println!("\n{:.0} s; this machine did not let us run for {stalled:.1} s of it\n", evidence.end);
    for finding in findings {
        let word = if finding.broken.is_empty() { "kept  " } else { "BROKEN" };
        println!("{word}  {}\n        {}", finding.invariant, finding.seen);
        for breach in finding.broken.iter().take(TOLD) {
            println!("        - {breach}");
        }
        if let Some(more @ 1..) = finding.broken.len().checked_sub(TOLD) {
            println!("        - and {more} more");
        }
    }
}
