//! The circuits that one VM has, by number and by name.
//!
//! A VM reads the names of all circuits of its proxy at once, and meets each circuit, which costs a hundred times as much,
//! when a request goes there or when its turn comes at a tick.

use std::rc::Rc;

use super::index;
use crate::names::{self, Index};
use crate::view::View;

#[derive(Default)]
pub(super) struct Circuits {
    // Each by itself: a list of a thousand that grows would leave holes of its own size behind, and Wasm gives none back.
    #[allow(clippy::vec_box)]
    views: Vec<Option<Box<View>>>,
    names: Vec<Rc<str>>,
    numbers: Index,
    /// The circuit that a name led to last.
    last: u32,
    /// Where the round through all circuits goes on.
    round: usize,
    /// All before it are met.
    met: usize,
}

impl Circuits {
    #[inline]
    pub(super) fn get(&self, circuit: u32) -> Option<&View> {
        self.views.get(index(circuit))?.as_deref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, circuit: u32) -> Option<&mut View> {
        self.views.get_mut(index(circuit))?.as_deref_mut()
    }

    /// The circuit of this name, and its number. Requests mostly go where the one before went: then one comparison tells, and no search is
    /// needed. (In the module, where size counts, there is one copy of it.)
    #[cfg_attr(not(target_arch = "wasm32"), inline)]
    #[cfg_attr(target_arch = "wasm32", inline(never))]
    pub(super) fn named(&mut self, name: &str) -> Option<(u32, &mut View)> {
        if !self.get(self.last).is_some_and(|view| names::same(&view.name, name)) {
            self.look_up(name)?;
        }
        let circuit = self.last;
        self.get_mut(circuit).map(|view| (circuit, view))
    }

    /// The number of the circuit of this name.
    pub(super) fn number_of(&mut self, name: &str) -> Option<u32> {
        match self.named(name) {
            Some((circuit, _)) => Some(circuit),
            None => self.look_up(name),
        }
    }

    // Apart, so that the comparison becomes a part of its callers.
    #[inline(never)]
    fn look_up(&mut self, name: &str) -> Option<u32> {
        let is_its = |circuit: &u32| self.name(*circuit).is_some_and(|own| names::same(own, name));
        self.last = self.numbers.candidates(name).find(is_its)?;
        Some(self.last)
    }

    /// The number that the next circuit gets.
    pub(super) fn next(&self) -> u32 {
        u32::try_from(self.views.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn name(&self, circuit: u32) -> Option<&Rc<str>> {
        self.names.get(index(circuit))
    }

    /// Adds a circuit that is still to be met.
    pub(super) fn push(&mut self, name: Rc<str>) {
        self.numbers.insert(&name, self.next());
        self.names.push(name);
        self.views.push(None);
    }

    pub(super) fn set(&mut self, circuit: u32, view: View) {
        if let Some(place) = self.views.get_mut(index(circuit)) {
            *place = Some(Box::new(view));
        }
    }

    /// The first circuit that is still to be met.
    pub(super) fn unmet(&mut self) -> Option<u32> {
        while self.views.get(self.met).is_some_and(Option::is_some) {
            self.met = self.met.saturating_add(1);
        }
        (self.met < self.views.len()).then_some(u32::try_from(self.met).unwrap_or(u32::MAX))
    }

    pub(super) fn len(&self) -> usize {
        self.views.len()
    }

    /// The next so many circuits of an endless round through all.
    pub(super) fn next_of_round(&mut self, count: usize) -> impl Iterator<Item = &mut View> {
        let from = if self.round < self.views.len() { self.round } else { 0 };
        self.round = from.saturating_add(count);
        self.views.iter_mut().skip(from).take(count).filter_map(Option::as_deref_mut)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut View> {
        self.views.iter_mut().filter_map(Option::as_deref_mut)
    }
}
