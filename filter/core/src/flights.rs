//! Calls that wait for their answers, oldest first, so that the tick finds those that have waited too long.
//!
//! A hung upstream behind a route without a timeout ends no call, and a breaker that only looks at ended calls never
//! trips on it. So each VM keeps its waiting calls in a list by their start: a call joins at the end, leaves from
//! anywhere in one step, and the tick walks from the front only as far as calls are old. No request ever scans it. One
//! call takes 56 bytes while it waits; places are used again.

use crate::permit::Permit;

/// No place: the call is not in the list.
pub(crate) const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Flight {
    permit: Permit,
    start: u64,
    /// Ticks before it began.
    beat: u64,
    /// Envoy's number of the request.
    stream: u32,
    before: u32,
    after: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Waiting,
    /// It has its answer, or nobody minds how long it takes.
    Left,
    /// It waited too long and was settled as slow.
    Aged,
}

/// How a call ended, as far as its waiting tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was settled as slow while it waited.
    SettledBefore,
    /// Its answer never began.
    Unanswered { start: u64 },
    /// Its answer had begun, or nobody minded.
    Otherwise,
}

/// A call that has waited long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) flight: u32,
    pub(crate) permit: Permit,
    pub(crate) start: u64,
    pub(crate) stream: u32,
}

#[derive(Debug)]
pub(crate) struct Flights {
    places: Vec<Flight>,
    free: Vec<u32>,
    first: u32,
    last: u32,
    beats: u64,
}

impl Flights {
    pub(crate) fn new() -> Flights {
        Flights { places: Vec::new(), free: Vec::new(), first: NOWHERE, last: NOWHERE, beats: 0 }
    }

    /// A call begins to wait.
    pub(crate) fn begin(&mut self, stream: u32, start: u64) -> u32 {
        let flight = Flight {
            permit: Permit::Uncounted,
            start,
            beat: self.beats,
            stream,
            before: self.last,
            after: NOWHERE,
            state: State::Waiting,
        };
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.places.push(flight);
                u32::try_from(self.places.len().saturating_sub(1)).unwrap_or(NOWHERE)
            }
        };
        let last = self.last;
        if let Some(slot) = self.at(place) {
            *slot = flight;
        }
        match self.at(last) {
            Some(last) => last.after = place,
            None => self.first = place,
        }
        self.last = place;
        place
    }

    /// What the call was admitted with.
    pub(crate) fn admitted(&mut self, flight: u32, permit: Permit) {
        if let Some(flight) = self.at(flight) {
            flight.permit = permit;
        }
    }

    /// Its answer has begun: it no longer waits.
    pub(crate) fn arrive(&mut self, flight: u32) {
        self.leave(flight, State::Left);
    }

    /// It was settled because it waited too long.
    pub(crate) fn age(&mut self, flight: u32) {
        self.leave(flight, State::Aged);
    }

    /// It has ended.
    pub(crate) fn end(&mut self, place: u32) -> Ended {
        let Some(flight) = self.at(place).filter(|flight| flight.state != State::Free) else { return Ended::Otherwise };
        let ended = match flight.state {
            State::Aged => Ended::SettledBefore,
            State::Waiting => Ended::Unanswered { start: flight.start },
            State::Left | State::Free => Ended::Otherwise,
        };
        self.arrive(place);
        if let Some(flight) = self.at(place) {
            flight.state = State::Free;
        }
        self.free.push(place);
        ended
    }

    /// A tick: what counts time where the clock may step.
    pub(crate) fn beat(&mut self) {
        self.beats = self.beats.saturating_add(1);
    }

    /// Calls that have waited at least `age`, by the clock and by half as many ticks: a clock that jumps ahead does not
    /// make all calls old at once.
    pub(crate) fn older_than(&self, now: u64, age: u64, tick: u64) -> Vec<Waiting> {
        let beats = age.checked_div(tick.saturating_mul(2)).unwrap_or(0);
        let mut old = Vec::new();
        let mut place = self.first;
        while let Some(flight) = self.places.get(place as usize) {
            if now.saturating_sub(flight.start) < age || self.beats.saturating_sub(flight.beat) < beats {
                break;
            }
            old.push(Waiting { flight: place, permit: flight.permit, start: flight.start, stream: flight.stream });
            place = flight.after;
        }
        old
    }

    fn at(&mut self, place: u32) -> Option<&mut Flight> {
        self.places.get_mut(place as usize)
    }

    fn leave(&mut self, place: u32, state: State) {
        let Some(flight) = self.at(place).filter(|flight| flight.state == State::Waiting) else { return };
        flight.state = state;
        let (before, after) = (flight.before, flight.after);
        match self.at(before) {
            Some(before) => before.after = after,
            None => self.first = after,
        }
        match self.at(after) {
            Some(after) => after.before = before,
            None => self.last = before,
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn streams(flights: &Flights, now: u64, age: u64) -> Vec<u32> {
        flights.older_than(now, age, 1).iter().map(|waiting| waiting.stream).collect()
    }

    #[test]
    fn calls_leave_from_anywhere_and_the_old_ones_are_found_in_order() {
        let mut flights = Flights::new();
        let places: Vec<u32> = (0..6).map(|stream| flights.begin(stream, u64::from(stream))).collect();
        for _ in 0..100 {
            flights.beat();
        }
        assert_eq!(streams(&flights, 10, 7), [0, 1, 2, 3]);
        flights.arrive(places[0]);
        flights.age(places[2]);
        assert_eq!(flights.end(places[5]), Ended::Unanswered { start: 5 });
        assert_eq!(streams(&flights, 100, 7), [1, 3, 4]);
        assert_eq!(flights.end(places[2]), Ended::SettledBefore);
        assert_eq!(flights.end(places[2]), Ended::Otherwise, "its place is free");
        assert_eq!(
            (flights.end(places[0]), flights.end(places[1])),
            (Ended::Otherwise, Ended::Unanswered { start: 1 })
        );
        assert_eq!(streams(&flights, 100, 7), [3, 4]);
    }

    #[test]
    fn places_are_used_again() {
        let mut flights = Flights::new();
        for turn in 0..1000 {
            let place = flights.begin(turn, u64::from(turn));
            flights.arrive(place);
            flights.end(place);
        }
        assert_eq!((flights.places.len(), flights.first, flights.last), (1, NOWHERE, NOWHERE));
    }

    #[test]
    fn a_clock_that_jumps_ahead_makes_no_call_old() {
        let mut flights = Flights::new();
        flights.begin(1, 0);
        flights.beat();
        assert_eq!(streams(&flights, 1_000_000, 1000), [0_u32; 0]);
    }
}
