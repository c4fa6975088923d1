//! The circuits that one VM has, by slot and by name.
//!
//! A VM reads the names of all circuits of its proxy at once. To meet a circuit costs a hundred times as much, so a
//! VM does it when a request goes there, or when the circuit's turn comes at a tick. A circuit's number is its slot.
//!
//! **A new configuration** meets them all again. It shares what the older one knows of a circuit, until either of
//! them changes it; only then is it copied. Copying ten thousand at once would keep requests waiting for a tenth of a
//! second.

use std::rc::Rc;

use super::index;
use crate::breaker::view::View;
use crate::circuit::record::Phase;
use crate::names::{self, Index};

#[derive(Default)]
pub(super) struct Circuits {
    // Each has an allocation of its own. A list of a thousand that grows would leave holes of its own size, and Wasm
    // gives none back.
    views: Vec<Option<Rc<View>>>,
    /// What an older configuration knows of circuits that are still to be met under this one.
    inherited: Vec<Option<Inherited>>,
    /// Those of them that are not CLOSED: time moves these, and only a tick does where no request comes.
    moving: Vec<u32>,
    /// `None`: the slot is free, as far as this VM knows.
    names: Vec<Option<Rc<str>>>,
    numbers: Index,
    /// The circuit that a name led to last.
    last: u32,
    /// Where the round through all circuits goes on.
    round: usize,
    /// All slots before this one are met.
    met: usize,
    /// Slots that are not free.
    held: usize,
}

/// A circuit as an older configuration knew it.
pub(super) struct Inherited {
    pub(super) view: Rc<View>,
    /// Nanoseconds that the clock has leapt since.
    pub(super) leap: u64,
}

impl Circuits {
    /// The circuits of an older configuration, each still to be met. `leap`: nanoseconds that no tick of the older
    /// one has seen.
    pub(super) fn inherit(older: &Circuits, leap: u64) -> Circuits {
        let own = |view: &Rc<View>| Inherited { view: Rc::clone(view), leap };
        let passed_on =
            |earlier: &Inherited| Inherited { view: Rc::clone(&earlier.view), leap: earlier.leap.saturating_add(leap) };
        let is_moving = |(_, inherited): &(u32, &Option<Inherited>)| {
            inherited.as_ref().is_some_and(|inherited| inherited.view.record.phase != Phase::Closed)
        };
        let earlier = older.inherited.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        let inherited = |(view, earlier): (&Option<Rc<View>>, Option<&Inherited>)| {
            view.as_ref().map(own).or_else(|| earlier.map(passed_on))
        };
        let inherited: Vec<_> = older.views.iter().zip(earlier).map(inherited).collect();
        Circuits {
            views: older.views.iter().map(|_| None).collect(),
            moving: (0..).zip(&inherited).filter(is_moving).map(|(slot, _)| slot).collect(),
            inherited,
            names: older.names.clone(),
            numbers: older.numbers.clone(),
            held: older.held,
            ..Circuits::default()
        }
    }

    /// Whether an older configuration knows it.
    pub(super) fn is_inherited(&self, circuit: u32) -> bool {
        self.inherited.get(index(circuit)).is_some_and(Option::is_some)
    }

    /// What an older configuration knows of it.
    pub(super) fn take_inherited(&mut self, circuit: u32) -> Option<Inherited> {
        self.inherited.get_mut(index(circuit))?.take()
    }

    /// The clock has leapt.
    pub(super) fn leap(&mut self, by: u64, now: u64) {
        self.iter_mut().for_each(|view| view.used.leap(by, now));
        self.inherited.iter_mut().flatten().for_each(|inherited| inherited.leap = inherited.leap.saturating_add(by));
    }

    #[inline]
    pub(super) fn get(&self, circuit: u32) -> Option<&View> {
        self.views.get(index(circuit))?.as_deref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, circuit: u32) -> Option<&mut View> {
        self.views.get_mut(index(circuit))?.as_mut().map(Rc::make_mut)
    }

    /// The circuit of this name, and its number. Most requests go where the one before went, so that one comparison
    /// tells and no search is needed. (In the module, where size counts, there is one copy of this function.)
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

    // A function of its own, so that the comparison before it is inlined into its callers.
    #[inline(never)]
    fn look_up(&mut self, name: &str) -> Option<u32> {
        let is_its = |circuit: &u32| self.name(*circuit).is_some_and(|own| names::same(own, name));
        self.last = self.numbers.candidates(name).find(is_its)?;
        Some(self.last)
    }

    pub(super) fn name(&self, circuit: u32) -> Option<&Rc<str>> {
        self.names.get(index(circuit))?.as_ref()
    }

    /// Gives a slot to a circuit that is still to be met. What was known of the slot, or of another slot of this
    /// name, has ended. The caller gets it back.
    pub(super) fn put(&mut self, slot: u32, name: &str) -> Vec<Rc<View>> {
        if self.name(slot).is_some_and(|own| names::same(own, name)) {
            // The circuit has ended here, and begun anew in the same slot.
            return if self.get(slot).is_some_and(View::is_gone) {
                self.forget(slot).into_iter().collect()
            } else {
                Vec::new()
            };
        }
        let elsewhere = self.look_up(name);
        let ended = [elsewhere, Some(slot)].into_iter().flatten().filter_map(|slot| self.clear(slot)).collect();
        let at = index(slot);
        self.reach(at.saturating_add(1));
        if let Some(place) = self.names.get_mut(at) {
            *place = Some(name.into());
            self.numbers.insert(name, slot);
            self.held = self.held.saturating_add(1);
            self.met = self.met.min(at);
        }
        ended
    }

    /// From now on there are at least this many slots. A new one is free.
    pub(super) fn reach(&mut self, slots: usize) {
        if self.names.len() < slots {
            self.names.resize(slots, None);
            self.views.resize_with(slots, || None);
        }
    }

    /// The slot is free. What was known of its circuit is handed back.
    pub(super) fn clear(&mut self, slot: u32) -> Option<Rc<View>> {
        if let Some(name) = self.names.get_mut(index(slot)).and_then(Option::take) {
            self.numbers.remove(&name, slot);
            self.held = self.held.saturating_sub(1);
        }
        self.forget(slot)
    }

    /// The circuit must be met again.
    fn forget(&mut self, slot: u32) -> Option<Rc<View>> {
        self.met = self.met.min(index(slot));
        let inherited = self.take_inherited(slot).map(|inherited| inherited.view);
        self.views.get_mut(index(slot))?.take().or(inherited)
    }

    pub(super) fn set(&mut self, circuit: u32, view: View) {
        if let Some(place) = self.views.get_mut(index(circuit)) {
            *place = Some(Rc::new(view));
        }
    }

    /// The first circuit that is still to be met.
    pub(super) fn unmet(&mut self) -> Option<u32> {
        while let Some(slot) = self.moving.last().copied() {
            if self.is_inherited(slot) && self.name(slot).is_some() {
                return Some(slot);
            }
            self.moving.pop();
        }
        let is_done = |at: usize| {
            self.views.get(at).is_some_and(Option::is_some) || self.names.get(at).is_some_and(Option::is_none)
        };
        let first = (self.met..self.views.len()).find(|at| !is_done(*at));
        self.met = first.unwrap_or(self.views.len());
        first.and_then(|first| u32::try_from(first).ok())
    }

    /// Circuits held.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Slots that are free, as far as this VM knows.
    pub(super) fn free(&self) -> Vec<u32> {
        if self.held == self.names.len() {
            return Vec::new();
        }
        (0..).zip(&self.names).filter(|(_, name)| name.is_none()).map(|(slot, _)| slot).collect()
    }

    /// The slots of circuits that have ended.
    pub(super) fn gone(&self) -> Vec<u32> {
        let gone = |(_, view): &(u32, &Option<Rc<View>>)| view.as_deref().is_some_and(View::is_gone);
        (0..).zip(&self.views).filter(gone).map(|(slot, _)| slot).collect()
    }

    /// The slots of circuits that the breaker itself is to probe now, so many at most.
    pub(super) fn to_probe(&self, now: u64, most: usize) -> Vec<u32> {
        let due = |(_, view): &(u32, &Option<Rc<View>>)| view.as_deref().is_some_and(|view| view.is_probe_due(now));
        (0..).zip(&self.views).filter(due).map(|(slot, _)| slot).take(most).collect()
    }

    /// The slots of the next few circuits in an endless round through all of them.
    pub(super) fn next_of_round(&mut self, count: usize) -> impl Iterator<Item = &mut View> {
        let from = if self.round < self.views.len() { self.round } else { 0 };
        self.round = from.saturating_add(count);
        self.views.iter_mut().skip(from).take(count).flatten().map(Rc::make_mut)
    }

    /// Slots that were ever used, as far as this VM knows.
    pub(super) fn slots(&self) -> usize {
        self.views.len()
    }

    /// Only to look: none is copied that an older configuration shares.
    pub(super) fn iter(&self) -> impl Iterator<Item = &View> {
        self.views.iter().flatten().map(|view| &**view)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut View> {
        self.views.iter_mut().flatten().map(Rc::make_mut)
    }

    /// All that is known of circuits, by an older configuration too: the slot, and by how many nanoseconds the clock has
    /// leapt since it was known.
    pub(super) fn known(&self) -> impl Iterator<Item = (u32, &View, u64)> {
        let own = (0..).zip(&self.views).filter_map(|(slot, view)| Some((slot, view.as_deref()?, 0)));
        let inherited = (0..).zip(&self.inherited).filter_map(|(slot, inherited)| {
            let inherited = inherited.as_ref()?;
            Some((slot, &*inherited.view, inherited.leap))
        });
        own.chain(inherited)
    }
}
