//! Probes of the breaker's own (`halfOpen.activeProbe`): sent at a tick, so that no user pays for the test and an upstream
//! without traffic recovers.
//!
//! The worker whose compare-and-swap takes the lease sends the probe, and no other does until that lease is settled or
//! over. It is settled by the answer; by the tick, where none has come in time; or by nobody, where the worker died: then
//! the lease ends, and another worker sends the next one.
//!
//! **Where the host refuses to send** (it has no cluster of that name), nobody would ever learn that the upstream is well
//! again. So users' requests test, as if no such probes were wanted, until the circuit's next transition.

use super::Breaker;
use crate::breaker::view::View;
use crate::circuit::transitions::{Change, Verdict};
use crate::host::{Fault, Host};
use crate::policy::active::ActiveProbe;
use crate::policy::{Mode, Policy};
use crate::shared::vm::Vm;
use crate::telemetry::metrics;

/// Probes that one worker sends at a tick. Many circuits may end OPEN at once, as where `forceOpen` is lifted for all,
/// and requests wait meanwhile. What is left is still due at the next tick, and for the other workers.
const SENT_AT_A_TICK: usize = 16;

/// A probe that is out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The host's number of it.
    call: u32,
    circuit: u32,
    held: Held,
    /// When it has failed if there is no answer.
    times_out: u64,
}

/// The lease of a probe.
#[derive(Clone, Copy, Debug)]
struct Held {
    generation: u64,
    number: u32,
}

impl<H: Host> Breaker<H> {
    /// Sends the probes that are due.
    pub(super) fn probe_upstreams(&mut self, now: u64) {
        if !self.probes_itself {
            return;
        }
        for circuit in self.circuits.to_probe(now, SENT_AT_A_TICK) {
            let Some((view, vm)) = self.parts(circuit) else { continue };
            let sent = view.send_probe(vm, now);
            if let Some(Some((call, held, timeout))) = self.noted(sent) {
                self.sent.push(Sent { call, circuit, held, times_out: now.saturating_add(timeout) });
            }
        }
    }

    /// The answer to one of the breaker's own probes has come, by the host's number of it. `None`: it was broken off, or
    /// there is none.
    pub fn probe_answered(&mut self, call: u32, status: Option<u32>, now: u64) {
        let Some(at) = self.sent.iter().position(|sent| sent.call == call) else { return };
        let sent = self.sent.swap_remove(at);
        // A clock that has leapt since the last tick makes no answer late: the host's own timer has not run out.
        let in_time = status.filter(|_| now < sent.times_out.saturating_add(self.leap(now)));
        self.end_sent(sent, in_time, now);
    }

    /// Ends the probes that have no answer in time. The host has a timer of its own and is nearly always first.
    pub(super) fn end_overdue(&mut self, now: u64) {
        let is_overdue = |sent: &Sent| now >= sent.times_out;
        while let Some(at) = self.sent.iter().position(is_overdue) {
            let sent = self.sent.swap_remove(at);
            self.end_sent(sent, None, now);
        }
    }

    fn end_sent(&mut self, sent: Sent, status: Option<u32>, now: u64) {
        if !self.lives(sent.circuit, sent.held.generation, now) {
            return;
        }
        let Some((view, vm)) = self.parts(sent.circuit) else { return };
        let ended = view.end_own_probe(vm, sent.held, verdict(&view.policy, status), now);
        self.noted(ended);
    }

    /// The clock has stepped back: no probe waits longer than one that is sent now.
    pub(super) fn rebase_sent(&mut self, now: u64) {
        for sent in &mut self.sent {
            let timeout = self.circuits.get(sent.circuit).map_or(0, |view| view.policy.half_open.longest_probe());
            sent.times_out = sent.times_out.min(now.saturating_add(timeout));
        }
    }

    /// The clock has leapt ahead, or the worker was stopped: no probe counts as waiting in that time.
    pub(super) fn leap_sent(&mut self, by: u64) {
        self.sent.iter_mut().for_each(|sent| sent.times_out = sent.times_out.saturating_add(by));
    }
}

/// What an answer says of the upstream.
fn verdict(policy: &Policy, status: Option<u32>) -> Verdict {
    let expected = policy.half_open.active.as_ref().map(|probe| &probe.expected);
    let is_good = expected.zip(status).is_some_and(|(expected, status)| expected.contains(status));
    if is_good { Verdict::Good } else { Verdict::Bad }
}

impl View {
    /// The probe that the breaker itself sends here.
    fn own_probe(&self) -> Option<&ActiveProbe> {
        let is_on = matches!(self.policy.mode, Mode::Enforce | Mode::Observe) && !self.cannot_probe;
        self.policy.half_open.active.as_ref().filter(|_| is_on)
    }

    /// Whether no request of a user is a probe here.
    pub(super) fn probes_itself(&self) -> bool {
        self.own_probe().is_some()
    }

    /// Whether this worker is to send a probe now, as far as it knows.
    pub(super) fn is_probe_due(&self, now: u64) -> bool {
        self.probes_itself() && self.record.is_probe_due(&self.policy, now)
    }

    /// Takes the lease and sends a probe. Returns the host's number of it, its lease, and how long it may take. `None`:
    /// another worker was faster, or it has failed at once.
    fn send_probe<H: Host>(&mut self, vm: &Vm<H>, now: u64) -> Result<Option<(u32, Held, u64)>, Fault> {
        let mut number = 0;
        let leased = self.change(vm, now, &mut |sight| {
            let (record, given) = sight.record.lease_own(sight.policy, sight.at.now)?;
            number = given;
            Some(Change { record, reason: None })
        })?;
        let Some(change) = leased else { return Ok(None) };
        let held = Held { generation: change.record.generation, number };
        let Some(probe) = self.own_probe() else { return Ok(None) };
        let timeout = probe.timeout;
        match vm.host.send(&self.name, probe) {
            Ok(Some(call)) => Ok(Some((call, held, timeout))),
            Ok(None) => self.end_own_probe(vm, held, Verdict::Bad, now).map(|()| None),
            Err(error) => {
                self.cannot_probe = true;
                self.change(vm, now, &mut |sight| sight.record.unsent(sight.at.now, held.generation, held.number))?;
                Err(error.into())
            }
        }
    }

    fn end_own_probe<H: Host>(&mut self, vm: &Vm<H>, held: Held, verdict: Verdict, now: u64) -> Result<(), Fault> {
        let component = if verdict == Verdict::Good { "success" } else { "failure" };
        let changed = self.change(vm, now, &mut |sight| {
            sight.record.end_probe(sight.policy, &sight.at, held.generation, held.number, verdict)
        })?;
        // Last: a count that fails must not lose what the probe has found out.
        if changed.is_some() {
            self.series.count(&vm.host, &metrics::PROBES, &self.name, component)?;
        }
        Ok(())
    }
}
