//! The health endpoint: what the proxy says of its upstreams as a whole to those who ask from outside.
//!
//! Each worker looks at its circuits at its ticks and writes what it sees into the overall health of the proxy
//! ([`crate::shared::overall`]). It reads that before it looks, so that an older look never replaces a newer one. An
//! answer costs one read, and a look through the circuits only where one of them is cut off.
//!
//! A circuit decides unless it is in `observe`, which is to change nothing, or `disabled`.

use std::fmt::Write;

use super::Breaker;
use super::view::View;
use crate::circuit::record::Phase;
use crate::clock::SECOND;
use crate::host::{ABSENT, Fault, Host};
use crate::json::quoted_whole;
use crate::keys::overall_key;
use crate::policy::Mode;
use crate::policy::health::Health;
use crate::policy::upstream::Upstream;
use crate::shared::overall::Overall;

/// What one look at the circuits has found, of those that decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    circuits: usize,
    cut_off: usize,
}

/// The answer of the health endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether the upstreams are well as a whole.
    pub healthy: bool,
    /// JSON.
    pub body: String,
}

/// A circuit that waits so long for a probe has no traffic, and the breaker itself cannot ask. A probe takes a minute at
/// most, unless the policy gives it more, and ends this stage.
const UNTESTED: u64 = 300 * SECOND;

/// Circuits that an answer lists. A probe's reader needs no more, and the answer stays some kilobytes.
const LISTED: usize = 100;

impl View {
    /// Whether it decides about the health of the whole.
    pub(super) fn decides(&self, now: u64) -> bool {
        self.of_health
            && matches!(self.policy.mode, Mode::Enforce | Mode::ForceOpen)
            && !self.is_gone()
            && !self.is_untested(now)
    }

    /// Whether nobody tests it. An upstream that was deleted while it was OPEN would else decide until its circuit ends.
    fn is_untested(&self, now: u64) -> bool {
        self.record.phase == Phase::Probe && (self.cannot_probe || now.saturating_sub(self.record.since) >= UNTESTED)
    }

    /// Whether its upstream gets no traffic, or only what tests it.
    pub(super) fn is_cut_off(&self) -> bool {
        matches!(self.record.phase, Phase::Open | Phase::Probe)
    }

    /// Whether its upstream is one of those that `health` names.
    pub(super) fn is_of(&mut self, health: Option<&Health>) {
        self.of_health = health.is_some_and(|health| health.is_decided_by(&Upstream::parse(&self.name)));
    }
}

impl Look {
    pub(super) fn add(&mut self, view: &View, now: u64) {
        if view.decides(now) {
            self.circuits = self.circuits.saturating_add(1);
            self.cut_off = self.cut_off.saturating_add(usize::from(view.is_cut_off()));
        }
    }
}

impl<H: Host> Breaker<H> {
    /// Whether there is a path that is exempt or that the module answers itself. If there is none, nobody needs to read
    /// the path.
    #[must_use]
    #[inline]
    pub fn minds_paths(&self) -> bool {
        !self.config.exempt.is_empty() || self.config.health.is_some()
    }

    /// The answer, where a request's path is that of the health endpoint.
    #[must_use]
    pub fn health(&self, path: &[u8], now: u64) -> Option<Report> {
        let health = self.config.health.as_ref().filter(|health| health.path.as_bytes() == path)?;
        // Where the breaker itself does not work, all upstreams pass for well.
        let known = if self.vm.is_blind() { Ok((None, ABSENT)) } else { self.overall() };
        let overall = self.noted(known).and_then(|(overall, _)| overall).unwrap_or(Overall::well(now));
        let healthy = overall.at(now, health.after, health.recover_after).healthy;
        let (circuits, open) = (self.look.circuits, self.list_cut_off(health.detail, now));
        Some(Report { healthy, body: format!("{{\"healthy\":{healthy},\"circuits\":{circuits},\"open\":[{open}]}}\n") })
    }

    fn list_cut_off(&self, detail: bool, now: u64) -> String {
        let mut list = String::new();
        if self.look.cut_off == 0 {
            // Anybody may ask as often as they like, so nobody goes through all circuits without need.
            return list;
        }
        for view in self.circuits.iter().filter(|view| view.decides(now) && view.is_cut_off()).take(LISTED) {
            let comma = if list.is_empty() { "" } else { "," };
            let named = if detail { format!("\"upstream\":{},", quoted_whole(&view.name)) } else { String::new() };
            let state = if view.record.phase == Phase::Open { "OPEN" } else { "HALF_OPEN" };
            let since = view.record.outage_since / SECOND;
            // Writing to a String cannot fail.
            let _ = write!(list, "{comma}{{{named}\"state\":\"{state}\",\"since\":{since}}}");
        }
        list
    }

    /// The overall health and its compare-and-swap number, before a look at the circuits; `None` where nobody asks.
    pub(super) fn overall_before(&self) -> Option<(Option<Overall>, u32)> {
        self.config.health.as_ref()?;
        self.noted(self.overall())
    }

    /// Keeps what a look at the circuits has found, and writes it down where that changes the overall health. Another
    /// worker that was faster has seen as much.
    pub(super) fn judge_health(&mut self, (known, cas): (Option<Overall>, u32), look: Look, now: u64) {
        self.look = look;
        let Some(health) = &self.config.health else { return };
        let sick = health.when.is_met(look.cut_off, look.circuits);
        let next = known.unwrap_or(Overall::well(now)).seen(sick, now, health.after, health.recover_after);
        if known.is_none_or(|known| known.is_outdated_by(next)) {
            self.noted(self.vm.host.swap(&overall_key(), &next.encode(), cas).map_err(Fault::from));
        }
    }

    fn overall(&self) -> Result<(Option<Overall>, u32), Fault> {
        let there = self.vm.host.get(&overall_key())?;
        Ok(there.map_or((None, ABSENT), |(bytes, cas)| (Overall::decode(&bytes), cas)))
    }
}
