//! Room for another circuit where a proxy has as many as it may have.

use super::Breaker;
use crate::host::{Fault, Host};
use crate::idle::RECENTLY;
use crate::record::Phase;

/// Circuits that are asked to make room for one: what this VM knows of their use may be a bucket of their windows old.
const ASKED: usize = 8;

impl<H: Host> Breaker<H> {
    /// Ends the CLOSED circuit that nobody has used for longest: its slot, and the generation that the next one begins with.
    /// `None`: all of them are in use, and nobody looks again before the next tick.
    pub(super) fn make_room(&mut self, now: u64) -> Result<Option<(u32, u64)>, Fault> {
        if self.crowded {
            return Ok(None);
        }
        let mut idle: Vec<(u64, u32)> = self
            .circuits
            .numbered()
            .filter(|(_, view)| view.record.phase == Phase::Closed && !view.record.foreign)
            .map(|(slot, view)| (view.used.idle(now), slot))
            .filter(|(idle, _)| *idle >= RECENTLY)
            .collect();
        idle.sort_unstable_by(|one, other| other.cmp(one));
        for (_, slot) in idle.into_iter().take(ASKED) {
            let Some((view, vm)) = self.parts(slot) else { continue };
            let made = view.make_room(vm, now)?;
            if view.is_gone() {
                self.clear(slot);
            }
            if let Some(born) = made {
                return Ok(Some((slot, born)));
            }
        }
        self.crowded = true;
        Ok(None)
    }
}
