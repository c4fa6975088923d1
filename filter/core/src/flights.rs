//! Calls in flight, so that the tick finds those that have waited too long for their answers, and those whose answers have
//! begun and do not end.
//!
//! A hung upstream behind a route without a timeout ends no call, and a breaker that only looks at ended calls never
//! trips on it; and an event stream that lives for hours is good long before it ends. So a call takes a place when it
//! begins and gives it back when it ends, which is a write or two: requests are many. Ticks are few, so that it is they
//! who look at every place and put the calls that are old in order, oldest first. A place takes 48 bytes and is used
//! again; those that a burst leaves behind are given up as far as they lie at the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::permit::Permit;

/// No place: the call is not among those in flight.
pub(crate) const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Flight {
    admitted: Admitted,
    start: u64,
    state: State,
    /// Ticks before it began, in 32 bits: they are only subtracted, and no call outlives so many.
    beat: u32,
    /// Envoy's number of the request.
    stream: u32,
}

/// By what a call was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admitted {
    /// Unseen: its start tells the generation.
    Unseen,
    /// Unseen, and before the clock stepped back: in an older generation than any that there is.
    Before,
    By {
        circuit: u32,
        generation: u64,
    },
}

impl Flight {
    /// What it was admitted with, as the tick has set it right.
    fn permit(&self, place: u32) -> Permit {
        match self.admitted {
            Admitted::By { circuit, generation } => Permit::Call { flight: place, circuit, generation },
            Admitted::Unseen | Admitted::Before => Permit::Calm { flight: place, start: self.unseen_since() },
        }
    }

    /// When it was let go, if unseen.
    #[inline]
    fn unseen_since(&self) -> u64 {
        if self.admitted == Admitted::Before { 0 } else { self.start }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free {
        /// The place that is free after it.
        next: u32,
    },
    Waiting,
    Answered {
        /// When its answer began.
        since: u64,
    },
    /// Nobody minds any longer how long it takes.
    Left,
    /// It was settled by the tick.
    Settled,
}

/// How a call ended, as far as its waiting tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The tick has settled it.
    SettledBefore,
    /// Its answer never began.
    Unanswered { start: u64 },
    /// Its answer had begun, or nobody minded.
    Otherwise,
}

/// A call that the tick must look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Old {
    pub(crate) flight: u32,
    pub(crate) permit: Permit,
    pub(crate) start: u64,
    /// When its answer began, or else its start.
    pub(crate) since: u64,
    pub(crate) stream: u32,
}

/// A call in flight.
pub(crate) struct Call<'a> {
    flight: &'a mut Flight,
    free: &'a mut u32,
    place: u32,
}

impl Call<'_> {
    /// When it was let go unseen, as the tick has set it right.
    #[inline]
    pub(crate) fn unseen_since(&self) -> u64 {
        self.flight.unseen_since()
    }

    /// It has ended: its place is free.
    #[inline]
    pub(crate) fn end(self) -> Ended {
        let ended = match self.flight.state {
            State::Settled => Ended::SettledBefore,
            State::Waiting => Ended::Unanswered { start: self.flight.start },
            State::Answered { .. } | State::Left | State::Free { .. } => Ended::Otherwise,
        };
        self.flight.state = State::Free { next: *self.free };
        *self.free = self.place;
        ended
    }
}

#[derive(Debug)]
pub(crate) struct Flights {
    places: Vec<Flight>,
    /// The first free place.
    free: u32,
    beats: u32,
}

impl Flights {
    pub(crate) fn new() -> Flights {
        Flights { places: Vec::new(), free: NOWHERE, beats: 0 }
    }

    /// A call begins to wait that was let go unseen: its place.
    #[inline]
    pub(crate) fn begin_unseen(&mut self, stream: u32, start: u64) -> u32 {
        self.begin(stream, start, Admitted::Unseen)
    }

    /// A call of a circuit begins to wait, admitted in `generation`: its place.
    pub(crate) fn begin_seen(&mut self, stream: u32, start: u64, circuit: u32, generation: u64) -> u32 {
        self.begin(stream, start, Admitted::By { circuit, generation })
    }

    #[inline(always)]
    fn begin(&mut self, stream: u32, start: u64, admitted: Admitted) -> u32 {
        if self.free as usize >= self.places.len() {
            self.make_room();
        }
        let place = self.free;
        if let Some(flight) = self.places.get_mut(place as usize)
            && let State::Free { next } = flight.state
        {
            *flight = Flight { admitted, start, state: State::Waiting, beat: self.beats, stream };
            self.free = next;
        }
        place
    }

    /// One more free place.
    #[cold]
    fn make_room(&mut self) {
        self.free = u32::try_from(self.places.len()).unwrap_or(NOWHERE);
        let state = State::Free { next: NOWHERE };
        self.places.push(Flight { admitted: Admitted::Unseen, start: 0, state, beat: 0, stream: 0 });
    }

    /// The call in a place, where one is there.
    #[inline]
    pub(crate) fn call(&mut self, place: u32) -> Option<Call<'_>> {
        let flight = self.places.get_mut(place as usize)?;
        match flight.state {
            State::Free { .. } => None,
            _ => Some(Call { flight, free: &mut self.free, place }),
        }
    }

    /// Its answer has begun: it no longer waits.
    #[inline]
    pub(crate) fn arrive(&mut self, place: u32, now: u64) {
        if let Some(flight) = self.places.get_mut(place as usize)
            && flight.state == State::Waiting
        {
            flight.state = State::Answered { since: now };
        }
    }

    /// Nobody minds any longer how long it takes.
    pub(crate) fn forget(&mut self, place: u32) {
        if let Some(flight) = self.places.get_mut(place as usize)
            && matches!(flight.state, State::Waiting | State::Answered { .. })
        {
            flight.state = State::Left;
        }
    }

    /// The tick has settled it.
    pub(crate) fn settled(&mut self, place: u32) {
        if let Some(flight) = self.places.get_mut(place as usize)
            && !matches!(flight.state, State::Free { .. })
        {
            flight.state = State::Settled;
        }
    }

    /// The clock has stepped back: what began later than now waits from now on, and where only its start tells in which
    /// generation it was admitted, it was in an older one than any that there is.
    pub(crate) fn rebase(&mut self, now: u64) {
        for flight in &mut self.places {
            if flight.admitted == Admitted::Unseen && flight.start > now {
                flight.admitted = Admitted::Before;
            }
            flight.start = flight.start.min(now);
            if let State::Answered { since } = &mut flight.state {
                *since = (*since).min(now);
            }
        }
    }

    /// A tick: what counts time where the clock may step.
    pub(crate) fn beat(&mut self) {
        self.beats = self.beats.wrapping_add(1);
        self.trim();
    }

    /// Gives up the free places at the end. Those that are left are used again from the front, so that the end comes
    /// free as the calls there end.
    fn trim(&mut self) {
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

    /// Calls that have waited at least `age`, by the clock and by half as many ticks: a clock that jumps ahead does not
    /// make all calls old at once.
    pub(crate) fn waiting_for(&self, now: u64, age: u64, tick: u64) -> Vec<Old> {
        let beats = age.checked_div(tick.saturating_mul(2)).unwrap_or(0);
        self.oldest(now, age, |flight| {
            let late = u64::from(self.beats.wrapping_sub(flight.beat)) >= beats;
            (late && flight.state == State::Waiting).then_some(flight.start)
        })
    }

    /// Calls whose answers began at least `age` ago.
    pub(crate) fn answered_since(&self, now: u64, age: u64) -> Vec<Old> {
        self.oldest(now, age, |flight| match flight.state {
            State::Answered { since } => Some(since),
            State::Free { .. } | State::Waiting | State::Left | State::Settled => None,
        })
    }

    /// The calls that are at least `age` old since the time that `since` tells, oldest first.
    fn oldest(&self, now: u64, age: u64, since: impl Fn(&Flight) -> Option<u64>) -> Vec<Old> {
        let mut old: BinaryHeap<(Reverse<u64>, Reverse<u32>)> = BinaryHeap::new();
        for (place, flight) in (0..).zip(&self.places) {
            if let Some(since) = since(flight).filter(|since| now.saturating_sub(*since) >= age) {
                old.push((Reverse(since), Reverse(place)));
            }
        }
        let mut calls = Vec::with_capacity(old.len());
        while let Some((Reverse(since), Reverse(place))) = old.pop() {
            if let Some(flight) = self.places.get(place as usize) {
                let Flight { start, stream, .. } = *flight;
                calls.push(Old { flight: place, permit: flight.permit(place), start, since, stream });
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
        flights.begin_unseen(stream, start)
    }

    fn end(flights: &mut Flights, place: u32) -> Ended {
        flights.call(place).map_or(Ended::Otherwise, Call::end)
    }

    fn streams(flights: &Flights, now: u64, age: u64) -> Vec<u32> {
        flights.waiting_for(now, age, 1).iter().map(|waiting| waiting.stream).collect()
    }

    #[test]
    fn calls_leave_from_anywhere_and_the_old_ones_are_found_in_order() {
        let mut flights = Flights::new();
        let places: Vec<u32> = (0..6).map(|stream| begin(&mut flights, stream, u64::from(stream))).collect();
        for _ in 0..100 {
            flights.beat();
        }
        assert_eq!(streams(&flights, 10, 7), [0, 1, 2, 3]);
        flights.arrive(places[0], 9);
        flights.settled(places[2]);
        assert_eq!(end(&mut flights, places[5]), Ended::Unanswered { start: 5 });
        assert_eq!(streams(&flights, 100, 7), [1, 3, 4]);
        assert_eq!(end(&mut flights, places[2]), Ended::SettledBefore);
        assert_eq!(end(&mut flights, places[2]), Ended::Otherwise, "its place is free");
        assert_eq!(
            (end(&mut flights, places[0]), end(&mut flights, places[1])),
            (Ended::Otherwise, Ended::Unanswered { start: 1 })
        );
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
            flights.answered_since(now, 10).iter().map(|old| old.stream).collect()
        };
        assert_eq!(answered(&flights, 30), [2, 0]);
        flights.settled(places[0]);
        assert_eq!((answered(&flights, 50), end(&mut flights, places[0])), (vec![2, 3], Ended::SettledBefore));
        assert_eq!((end(&mut flights, places[3]), end(&mut flights, places[2])), (Ended::Otherwise, Ended::Otherwise));
        assert_eq!(answered(&flights, 50), [0_u32; 0]);
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
        flights.beat();
        assert_eq!(flights.places.len(), 4, "up to the last that is taken");
        let next: Vec<u32> = (0..3).map(|stream| begin(&mut flights, stream, 0)).collect();
        assert_eq!(next, [0, 2, 4], "each that is free, and then a new one");
        for place in [0, 1, 2, 3, 4] {
            assert_eq!(end(&mut flights, place), Ended::Unanswered { start: 0 });
        }
        flights.beat();
        assert_eq!((flights.places.len(), begin(&mut flights, 7, 0)), (0, 0));
        assert_eq!(end(&mut flights, 999), Ended::Otherwise, "a place that is given up");
    }

    #[test]
    fn a_clock_that_jumps_ahead_makes_no_call_old() {
        let mut flights = Flights::new();
        begin(&mut flights, 1, 0);
        flights.beat();
        assert_eq!(streams(&flights, 1_000_000, 1000), [0_u32; 0]);
    }
}
