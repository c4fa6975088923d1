//! Calls in flight. The tick finds here the calls that have waited too long for their answers, and those whose
//! answers have begun and do not end.
//!
//! A hung upstream behind a route without a timeout ends no call, so a breaker that only looks at ended calls never
//! trips on it. And an event stream that lives for hours is good long before it ends. So a call takes a place when it
//! begins, and gives it back when it ends. This costs a write or two, since requests are many. Ticks are few, so the
//! tick looks at every place, and sorts the old calls, oldest first. A place takes 56 bytes and is used again. After
//! a burst the free places at the end of the list are given up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::flight::{Admitted, Early, Ended, Flight, Held, Old, State};
use super::permit::{NOWHERE, Request};

/// A call in flight.
pub(super) struct Call<'a> {
    flight: &'a mut Flight,
    free: &'a mut u32,
    place: u32,
}

impl Call<'_> {
    /// When it was let go unseen, corrected by the tick where the clock stepped back.
    #[inline]
    pub(super) fn unseen_since(&self) -> u64 {
        self.flight.unseen_since()
    }

    /// It has ended: its place is free.
    #[inline]
    pub(super) fn end(self) -> Ended {
        let early = match self.flight.state {
            State::Settled(early) => Some(early),
            _ => None,
        };
        self.flight.state = State::Free { next: *self.free };
        *self.free = self.place;
        Ended { early, since: self.flight.since }
    }
}

#[derive(Debug)]
pub(super) struct Flights {
    places: Vec<Flight>,
    /// The first free place.
    free: u32,
}

impl Flights {
    pub(super) fn new() -> Flights {
        Flights { places: Vec::new(), free: NOWHERE }
    }

    /// Begins a call that is let go unseen. Returns its place.
    #[inline]
    pub(super) fn begin_unseen(&mut self, request: Request, start: u64) -> u32 {
        self.begin(request, start, Admitted::Unseen)
    }

    /// Begins a call of a circuit, admitted in `generation`. Returns its place.
    pub(super) fn begin_seen(&mut self, request: Request, start: u64, circuit: u32, generation: u64) -> u32 {
        self.begin(request, start, Admitted::By { circuit, generation })
    }

    #[inline(always)]
    fn begin(&mut self, request: Request, start: u64, admitted: Admitted) -> u32 {
        if self.free as usize >= self.places.len() {
            self.make_room();
        }
        let place = self.free;
        if let Some(flight) = self.places.get_mut(place as usize)
            && let State::Free { next } = flight.state
        {
            let Request { stream, whole } = request;
            let state = if whole { State::Waiting { look_at: 0 } } else { State::Sending };
            *flight = Flight { admitted, start, since: start, state, stream, whole, held: Held::Unknown };
            self.free = next;
        }
        place
    }

    /// One more free place.
    #[cold]
    fn make_room(&mut self) {
        self.free = u32::try_from(self.places.len()).unwrap_or(NOWHERE);
        let state = State::Free { next: NOWHERE };
        let admitted = Admitted::Unseen;
        let held = Held::Unknown;
        self.places.push(Flight { admitted, start: 0, since: 0, state, stream: 0, whole: true, held });
    }

    /// The call in a place, where one is there.
    #[inline]
    pub(super) fn call(&mut self, place: u32) -> Option<Call<'_>> {
        let flight = self.places.get_mut(place as usize)?;
        match flight.state {
            State::Free { .. } => None,
            _ => Some(Call { flight, free: &mut self.free, place }),
        }
    }

    /// When the call in a place was let go, corrected by the tick where the clock stepped back.
    pub(super) fn start_of(&self, place: u32) -> Option<u64> {
        self.places.get(place as usize).map(Flight::unseen_since)
    }

    /// The request's last byte has come: from now on the call waits for its upstream.
    pub(super) fn complete(&mut self, place: u32, now: u64) {
        if let Some(flight) = self.places.get_mut(place as usize)
            && flight.state == State::Sending
        {
            (flight.since, flight.state) = (now, State::Waiting { look_at: 0 });
        }
    }

    /// Its answer has begun, so it no longer waits. Returns the nanoseconds that it waited for its upstream: 0 where
    /// the request is still coming. `None`: there is no such call.
    #[inline]
    pub(super) fn arrive(&mut self, place: u32, now: u64) -> Option<u64> {
        let flight = self.places.get_mut(place as usize)?;
        let waited = now.saturating_sub(flight.since);
        match flight.state {
            State::Sending => {
                flight.state = State::Answered { at: now };
                Some(0)
            }
            State::Waiting { .. } => {
                flight.state = State::Answered { at: now };
                Some(waited)
            }
            State::Free { .. } => None,
            State::Answered { .. } | State::Left | State::Settled(_) => Some(waited),
        }
    }

    /// No policy minds any longer how long it takes.
    pub(super) fn forget(&mut self, place: u32) {
        if let Some(flight) = self.places.get_mut(place as usize)
            && matches!(flight.state, State::Waiting { .. } | State::Answered { .. })
        {
            flight.state = State::Left;
        }
    }

    /// The tick need not look at it before this time.
    pub(super) fn look_later(&mut self, place: u32, at: u64) {
        if let Some(flight) = self.places.get_mut(place as usize)
            && let State::Waiting { look_at } = &mut flight.state
        {
            *look_at = at;
        }
    }

    /// Something has held it back: it waits for its upstream from now on at the earliest.
    pub(super) fn held_back(&mut self, place: u32, now: u64, held: Held) {
        if let Some(flight) = self.places.get_mut(place as usize) {
            (flight.since, flight.held) = (now, held);
        }
    }

    /// The tick has settled it.
    pub(super) fn settled(&mut self, place: u32, early: Early) {
        if let Some(flight) = self.places.get_mut(place as usize)
            && !matches!(flight.state, State::Free { .. })
        {
            flight.state = State::Settled(early);
        }
    }

    /// The clock has stepped back. A call that began later than now waits from now on. If only its start told its
    /// generation, it belongs to an older generation than all that there are.
    pub(super) fn rebase(&mut self, now: u64) {
        for flight in &mut self.places {
            if flight.admitted == Admitted::Unseen && flight.start > now {
                flight.admitted = Admitted::Before;
            }
            flight.start = flight.start.min(now);
            flight.since = flight.since.min(now);
            if let State::Answered { at } = &mut flight.state {
                *at = (*at).min(now);
            }
        }
    }

    /// The clock has leapt ahead, or the worker was stopped: no call counts as waiting in that time.
    pub(super) fn leap(&mut self, by: u64) {
        for flight in &mut self.places {
            flight.since = flight.since.saturating_add(by);
            match &mut flight.state {
                State::Answered { at } | State::Waiting { look_at: at } => *at = at.saturating_add(by),
                State::Free { .. } | State::Sending | State::Left | State::Settled(_) => {}
            }
        }
    }

    /// Gives up the free places at the end. The other free places are used again from the front, so that the end
    /// comes free when the calls there end.
    pub(super) fn trim(&mut self) {
        let kept = self.places.iter().rposition(|flight| !matches!(flight.state, State::Free { .. }));
        let kept = kept.map_or(0, |last| last.saturating_add(1));
        if kept == self.places.len() {
            return;
        }
        self.places.truncate(kept);
        self.free = NOWHERE;
        for (place, flight) in self.places.iter_mut().enumerate().rev() {
            if let State::Free { next } = &mut flight.state {
                *next = std::mem::replace(&mut self.free, u32::try_from(place).unwrap_or(NOWHERE));
            }
        }
    }

    /// Calls that have waited at least `age`.
    pub(super) fn waiting_for(&self, now: u64, age: u64) -> Vec<Old> {
        self.oldest(now, age, |flight| match flight.state {
            State::Waiting { look_at } if now >= look_at => Some(flight.since),
            _ => None,
        })
    }

    /// Calls whose answers began at least `age` ago, or `age_of_body` where the request had a body.
    pub(super) fn answered_since(&self, now: u64, age: u64, age_of_body: u64) -> Vec<Old> {
        self.oldest(now, age, |flight| match flight.state {
            State::Answered { at } if flight.whole || now.saturating_sub(at) >= age_of_body => Some(at),
            _ => None,
        })
    }

    /// The calls that are at least `age` old since the time that `at` tells, oldest first.
    fn oldest(&self, now: u64, age: u64, at: impl Fn(&Flight) -> Option<u64>) -> Vec<Old> {
        let mut old: BinaryHeap<(Reverse<u64>, Reverse<u32>)> = BinaryHeap::new();
        for (place, flight) in (0..).zip(&self.places) {
            if let Some(at) = at(flight).filter(|at| now.saturating_sub(*at) >= age) {
                old.push((Reverse(at), Reverse(place)));
            }
        }
        let mut calls = Vec::with_capacity(old.len());
        while let Some((Reverse(at), Reverse(place))) = old.pop() {
            if let Some(flight) = self.places.get(place as usize) {
                let Flight { since, stream, held, .. } = *flight;
                calls.push(Old { flight: place, permit: flight.permit(place), since, at, stream, held });
            }
        }
        calls
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn begin(flights: &mut Flights, stream: u32, start: u64) -> u32 {
        flights.begin_unseen(stream.into(), start)
    }

    /// What the tick has settled it as; `None`: there is no such call.
    fn end(flights: &mut Flights, place: u32) -> Option<Option<Early>> {
        flights.call(place).map(|call| call.end().early)
    }

    fn streams(flights: &Flights, now: u64, age: u64) -> Vec<u32> {
        flights.waiting_for(now, age).iter().map(|waiting| waiting.stream).collect()
    }

    #[test]
    fn calls_leave_from_anywhere_and_the_old_ones_are_found_in_order() {
        let mut flights = Flights::new();
        let places: Vec<u32> = (0..6).map(|stream| begin(&mut flights, stream, u64::from(stream))).collect();
        assert_eq!(streams(&flights, 10, 7), [0, 1, 2, 3]);
        flights.arrive(places[0], 9);
        flights.settled(places[2], Early::Hung);
        assert_eq!(end(&mut flights, places[5]), Some(None));
        assert_eq!(streams(&flights, 100, 7), [1, 3, 4]);
        assert_eq!(end(&mut flights, places[2]), Some(Some(Early::Hung)));
        assert_eq!(end(&mut flights, places[2]), None, "its place is free");
        assert_eq!((end(&mut flights, places[0]), end(&mut flights, places[1])), (Some(None), Some(None)));
        assert_eq!(streams(&flights, 100, 7), [3, 4]);
    }

    #[test]
    fn answered_calls_are_found_by_the_beginning_of_their_answers() {
        let mut flights = Flights::new();
        let places: Vec<u32> = (0..4).map(|stream| begin(&mut flights, stream, 0)).collect();
        for (place, now) in [(2, 10), (0, 20), (3, 30)] {
            flights.arrive(places[place], now);
        }
        let answered = |flights: &Flights, now| -> Vec<u32> {
            flights.answered_since(now, 10, 10).iter().map(|old| old.stream).collect()
        };
        assert_eq!(answered(&flights, 30), [2, 0]);
        flights.settled(places[0], Early::Good);
        assert_eq!((answered(&flights, 50), end(&mut flights, places[0])), (vec![2, 3], Some(Some(Early::Good))));
        assert_eq!((end(&mut flights, places[3]), end(&mut flights, places[2])), (Some(None), Some(None)));
        assert_eq!(answered(&flights, 50), [0_u32; 0]);
    }

    #[test]
    fn a_place_takes_what_is_said_of_it() {
        assert_eq!(size_of::<Flight>(), 56);
    }

    #[test]
    fn places_are_used_again() {
        let mut flights = Flights::new();
        for turn in 0..1000 {
            let place = begin(&mut flights, turn, u64::from(turn));
            flights.arrive(place, u64::from(turn));
            end(&mut flights, place);
        }
        assert_eq!(flights.places.len(), 1);
    }

    #[test]
    fn a_past_burst_leaves_no_places_to_look_at() {
        let mut flights = Flights::new();
        let places: Vec<u32> = (0..1000).map(|stream| begin(&mut flights, stream, 0)).collect();
        for place in places.iter().filter(|place| ![1, 3].contains(*place)) {
            end(&mut flights, *place);
        }
        flights.trim();
        assert_eq!(flights.places.len(), 4, "up to the last that is taken");
        let next: Vec<u32> = (0..3).map(|stream| begin(&mut flights, stream, 0)).collect();
        assert_eq!(next, [0, 2, 4], "each that is free, and then a new one");
        for place in [0, 1, 2, 3, 4] {
            assert_eq!(end(&mut flights, place), Some(None));
        }
        flights.trim();
        assert_eq!((flights.places.len(), begin(&mut flights, 7, 0)), (0, 0));
        assert_eq!(end(&mut flights, 999), None, "a place that is given up");
    }

    #[test]
    fn a_clock_that_leaps_ahead_makes_no_call_old() {
        let mut flights = Flights::new();
        let place = begin(&mut flights, 1, 0);
        let answered = begin(&mut flights, 2, 0);
        flights.arrive(answered, 10);
        flights.leap(1_000_000);
        assert_eq!((streams(&flights, 1_000_999, 1000), streams(&flights, 1_001_000, 1000)), (vec![], vec![1]));
        let begun = |now| flights.answered_since(now, 10, 10).len();
        assert_eq!((begun(1_000_019), begun(1_000_020)), (0, 1));
        assert_eq!(flights.call(place).map(|call| call.end().waited(1_000_007)), Some(Some(7)));
    }

    #[test]
    fn a_call_waits_from_its_requests_last_byte_on() {
        let mut flights = Flights::new();
        let place = flights.begin_unseen(Request { stream: 1, whole: false }, 0);
        assert_eq!(streams(&flights, 100, 7), [0_u32; 0], "the upstream owes nothing yet");
        flights.complete(place, 100);
        assert_eq!((streams(&flights, 106, 7), streams(&flights, 107, 7)), (vec![], vec![1]));
        flights.look_later(place, 120);
        assert_eq!((streams(&flights, 119, 7), streams(&flights, 120, 7)), (vec![], vec![1]), "looked at once");
        flights.held_back(place, 120, Held::Sent);
        assert_eq!((streams(&flights, 126, 7), streams(&flights, 127, 7)), (vec![], vec![1]));
        let ended = flights.call(place).map(Call::end).unwrap();
        assert_eq!((ended.early, ended.waited(150)), (None, Some(30)));
    }

    #[test]
    fn a_call_of_a_body_is_judged_by_its_beginning_later() {
        let mut flights = Flights::new();
        for (stream, whole) in [(0, true), (1, false)] {
            let place = flights.begin_unseen(Request { stream, whole }, 0);
            flights.arrive(place, 10);
        }
        let answered = |flights: &Flights, now| -> Vec<u32> {
            flights.answered_since(now, 10, 100).iter().map(|old| old.stream).collect()
        };
        assert_eq!((answered(&flights, 20), answered(&flights, 110)), (vec![0], vec![0, 1]));
    }
}
