//! What the soak itself did and saw, with the times: the half of the evidence that comes from outside Envoy.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::fault::Fault;

/// Seconds since the run began.
pub type At = f64;

/// What happened from one time to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Its beginning.
    pub from: At,
    /// Its end.
    pub to: At,
}

impl Span {
    /// Its length.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        (self.to - self.from).max(0.0)
    }

    /// Whether the two have a moment in common.
    #[must_use]
    pub fn meets(&self, other: &Span) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// How a request ended for its client.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Answered with this status, by the upstream or by Envoy in its place.
    Answered(u16),
    /// Rejected by the breaker: what `x-circuit-breaker` said.
    Rejected(String),
    /// The client left before it had an answer.
    Left,
    /// The connection ended without an answer.
    Broken,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Its number, which its path ends with.
    pub id: u64,
    /// Where it was to go.
    pub upstream: String,
    /// From the moment before it was sent to the moment after it ended.
    pub span: Span,
    /// How it ended.
    pub end: End,
}

/// The behaviour of an upstream from some time on.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Which upstream.
    pub upstream: String,
    /// The time from which all of its requests meet this behaviour.
    pub from: At,
    /// What it does with requests.
    pub fault: Fault,
}

/// What was done to Envoy.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A good configuration; the upstream that it forces open, if any.
    Good(Option<String>),
    /// A configuration that must be refused.
    Bad,
    /// A module that traps.
    Trapping,
}

/// An update, from the moment before it was written until Envoy had taken or refused it.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// When.
    pub span: Span,
    /// What.
    pub what: What,
}

/// A look at the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When.
    pub at: At,
    /// Resident memory of Envoy in MB.
    pub resident: f64,
    /// The largest linear memory of its VMs in MB.
    pub vm: f64,
    /// VMs with a linear memory.
    pub vms: usize,
}

/// All entries so far.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// Requests, in the order of their ends.
    pub calls: Vec<Call>,
    /// Phases of the upstreams, oldest first.
    pub phases: Vec<Phase>,
    /// Updates, oldest first.
    pub updates: Vec<Update>,
    /// Looks at the process, oldest first.
    pub samples: Vec<Sample>,
    /// Times in which this process did not run, and perhaps Envoy did not either.
    pub stalls: Vec<Span>,
    /// Times in which clients sent requests to all upstreams.
    pub traffic: Vec<Span>,
    /// Breaches of an invariant that were noticed at once.
    pub complaints: Vec<String>,
    /// Scrapes of `/stats/prometheus`.
    pub scrapes: u64,
    /// Names of upstreams that have come so far, without the eight that stay.
    pub names: u64,
}

/// The journal of a run.
#[derive(Debug)]
pub struct Journal {
    start: SystemTime,
    entries: Mutex<Entries>,
}

impl Journal {
    /// A journal that begins now.
    #[must_use]
    pub fn begin() -> Journal {
        Journal { start: SystemTime::now(), entries: Mutex::default() }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> At {
        self.start.elapsed().unwrap_or(Duration::ZERO).as_secs_f64()
    }

    /// The time that Envoy writes as seconds since 1970.
    #[must_use]
    pub fn at(&self, since_1970: f64) -> At {
        since_1970 - self.start.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
    }

    /// Enters something, or looks something up.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn with<T>(&self, act: impl FnOnce(&mut Entries) -> T) -> T {
        act(&mut self.entries.lock().expect("no holder panics"))
    }

    /// Enters that an invariant was broken.
    pub fn complain(&self, what: String) {
        eprintln!("soak: {:.1} s: {what}", self.now());
        self.with(|entries| entries.complaints.push(what));
    }
}
