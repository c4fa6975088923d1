//! What a VM of a new version of the module does before the old version is gone: it defines all that was counted.
//!
//! Envoy first tries a new module in a VM of its own on the main thread. Then it makes the VMs of the workers, and
//! drops the old ones. When the last old VM goes, Envoy forgets every metric that no new VM has defined, and a first
//! tick would come too late. So a VM defines what is there as soon as it is configured. That changes no circuit:
//! Envoy may still take the update back.
//!
//! The first definition of a name in a new module is dear: some 25 us, under a lock that all threads share, since
//! Envoy tries all its patterns for labels on it. So one VM does it and not each. The first VM keeps no request
//! waiting, so it may take long. The others do the rest bit by bit, one VM at a time.
//!
//! What is done is noted for each module by its name. A VM that trapped begins anew at any time, right before a mended
//! module comes too: the new VMs must not take its work for theirs.

use super::Breaker;
use crate::circuit::layout::Slot;
use crate::clock::MILLISECOND;
use crate::host::{ABSENT, Fault, Host};
use crate::keys::{kept_key, process_key, slots_key};
use crate::shared::slots::Slots;
use crate::telemetry::ledger::Ledger;

/// How long the first VM of a new module works on it, at most. Nobody should wait longer for the main thread.
const FIRST: u64 = 500 * MILLISECOND;

/// How long any other VM works on it at a time: its worker keeps requests waiting meanwhile.
const OTHERS: u64 = 4 * MILLISECOND;

/// The least time that a circuit takes where its names are new to Envoy (200 us are usual). Names that Envoy knows
/// take 10 us. Then this VM is not the first one: its worker came late, or it replaces a VM that trapped.
const DEAR: u64 = 50_000;

/// A VM whose last step is older than this has left the work to the others, or was ended in the middle of it.
const LEFT: u64 = 10 * MILLISECOND;

/// Work that is older than this was done when the module was in use before, and may be gone: Envoy configures all VMs
/// of one module within a fraction of it.
const FRESH: u64 = 250 * MILLISECOND;

/// Whether what an older version of the module has counted is defined yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    /// This VM has not looked.
    Begins,
    /// Not all of it.
    GoesOn,
    /// All of it.
    Done,
}

/// How far the VMs of a module have come.
#[derive(Clone, Copy)]
struct Kept {
    /// When, in nanoseconds since 1970.
    at: u64,
    /// Slots.
    slots: u32,
}

/// All slots are kept.
const ALL: u32 = u32::MAX;

impl Kept {
    fn decode(bytes: &[u8]) -> Option<Kept> {
        let (at, rest) = bytes.split_first_chunk()?;
        Some(Kept { at: u64::from_le_bytes(*at), slots: u32::from_le_bytes(*rest.first_chunk()?) })
    }

    fn encode(self) -> Vec<u8> {
        [&self.at.to_le_bytes()[..], &self.slots.to_le_bytes()].concat()
    }

    /// Whether `at` is less than `time` nanoseconds away, before or after `now`: another thread's clock may be ahead.
    /// A clock that stepped back says no.
    fn is_within(self, time: u64, now: u64) -> bool {
        now.abs_diff(self.at) < time
    }
}

impl<H: Host> Breaker<H> {
    /// Defines what an older version of the module has counted. It works for some milliseconds, or for half a second
    /// where the names are new to Envoy. False: nothing is left to do. True: the caller is to call it again after
    /// about as long. `clock`: nanoseconds since 1970.
    ///
    /// It changes no circuit and makes no series.
    pub fn keep(&mut self, clock: &dyn Fn() -> u64) -> bool {
        if self.keeping != Keeping::Done {
            // What a fault leaves undone is done when the circuits are met. No request need wait for it.
            let goes_on = self.keep_on(clock).unwrap_or(false);
            self.keeping = if goes_on { Keeping::GoesOn } else { Keeping::Done };
        }
        self.keeping == Keeping::GoesOn
    }

    /// Whether something is left.
    fn keep_on(&self, clock: &dyn Fn() -> u64) -> Result<bool, Fault> {
        let host = &self.vm.host;
        // Where no VM has ever met the process, there is nothing to keep.
        let Some((process, _)) = host.get(&process_key())? else { return Ok(false) };
        let process = process.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let began = clock();
        let (mut kept, mut cas) = self.kept()?;
        let first = self.keeping == Keeping::Begins && !kept.is_within(FRESH, began);
        if first {
            kept.slots = 0;
            Ledger::default().define_all(host, process, "")?;
        } else if kept.slots == ALL {
            return Ok(false);
        } else if kept.is_within(LEFT, began) {
            return Ok(true);
        }
        let list = host.get(&slots_key())?.and_then(|(bytes, _)| Slots::decode(&bytes));
        let used = list.map_or(0, |list| list.used);
        let mut done = 0_u64;
        loop {
            let now = clock();
            let took = now.wrapping_sub(began);
            let is_dear = first && took >= done.saturating_mul(DEAR);
            if took >= if is_dear { FIRST } else { OTHERS } {
                return Ok(true);
            }
            done = done.saturating_add(1);
            let slots = if kept.slots < used { kept.slots.saturating_add(1) } else { ALL };
            if !host.swap(&kept_key(host.module()), &Kept { at: now, slots }.encode(), cas)? {
                return Ok(true);
            }
            if slots == ALL {
                return Ok(false);
            }
            if let Slot::Taken(name) = self.read(kept.slots)? {
                Ledger::of(kept.slots).define_all(host, process, &name)?;
            }
            (kept, cas) = self.kept()?;
        }
    }

    fn kept(&self) -> Result<(Kept, u32), Fault> {
        let there = self.vm.host.get(&kept_key(self.vm.host.module()))?;
        let kept = there.as_ref().and_then(|(bytes, _)| Kept::decode(bytes));
        Ok((kept.unwrap_or(Kept { at: 0, slots: 0 }), there.map_or(ABSENT, |(_, cas)| cas)))
    }
}
