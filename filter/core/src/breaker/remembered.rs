//! The metrics of upstreams whose circuits have ended.
//!
//! Envoy takes memory for each definition of a metric, and gives it back with the VM only. An upstream that has traffic
//! every few hours has a new circuit each time; it must not cost new definitions each time.

use std::rc::Rc;

use crate::view::Known;

#[derive(Clone, Default)]
pub(super) struct Remembered {
    /// Those that ended longest ago first.
    upstreams: Vec<(Rc<str>, Known)>,
}

impl Remembered {
    /// Keeps what is known of an upstream, beside so many others at most.
    pub(super) fn keep(&mut self, name: Rc<str>, known: Known, most: u32) {
        self.upstreams.retain(|(other, _)| *other != name);
        self.upstreams.push((name, known));
        while self.upstreams.len() > super::index(most) {
            self.upstreams.remove(0);
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Known> {
        let at = self.upstreams.iter().position(|(own, _)| **own == *name)?;
        Some(self.upstreams.remove(at).1)
    }
}
