//! Room for another circuit in a proxy that has as many as it may have.

use super::Breaker;
use crate::breaker::idle::RECENTLY;
use crate::circuit::layout::Slot;
use crate::circuit::record::Phase;
use crate::host::{Fault, Host};

/// Circuits that are asked in turn to make room for one. What this VM knows of their use may be a bucket of their
/// windows old.
const ASKED: usize = 8;

impl<H: Host> Breaker<H> {
    /// Notices the circuits that other workers have ended since the last tick.
    pub(super) fn notice_ends(&mut self, now: u64) {
        for view in self.circuits.iter_mut() {
            if let Err(fault) = view.refresh(&self.vm, now) {
                self.vm.failed(fault);
            }
        }
        self.clear_ended();
    }

    /// Frees the slots of the circuits that have ended.
    pub(super) fn clear_ended(&mut self) {
        self.circuits.gone().into_iter().for_each(|slot| self.clear(slot));
    }

    /// Ends the CLOSED circuit that has been unused for longest. Returns its slot, and the generation that the next
    /// circuit begins with. `None`: all of them are in use, and nobody looks again before the next tick.
    pub(super) fn make_room(&mut self, now: u64) -> Result<Option<(u32, u64)>, Fault> {
        if self.crowded {
            return Ok(None);
        }
        // No tick has seen this leap yet.
        let leap = self.leap(now);
        for _ in 0..ASKED {
            let Some(slot) = self.idle_for_longest(now.saturating_sub(leap)) else { break };
            if self.circuits.is_inherited(slot) {
                self.meet(slot, now)?;
            }
            let Some((view, vm)) = self.parts(slot) else { break };
            let made = view.make_room(vm, now, leap)?;
            let ended = view.is_gone();
            if ended {
                self.clear(slot);
            }
            if let Some(born) = made {
                return Ok(Some((slot, born)));
            }
            // Another worker has ended it before it was taken over from an older configuration.
            if ended && let Slot::Free { born } = self.read(slot)? {
                return Ok(Some((slot, born)));
            }
        }
        self.crowded = true;
        Ok(None)
    }

    /// The CLOSED circuit that has been unused for longest, as far as this VM knows. `None` where each was used
    /// lately.
    fn idle_for_longest(&self, now: u64) -> Option<u32> {
        let closed =
            self.circuits.known().filter(|(_, view, _)| view.record.phase == Phase::Closed && !view.record.foreign);
        let idle = closed.map(|(slot, view, leap)| (view.used.idle(now.saturating_sub(leap)), slot));
        let idle = idle.filter(|(idle, _)| *idle >= RECENTLY);
        idle.max().map(|(_, slot)| slot)
    }
}
