//! Calls in flight, oldest first, so that the tick finds those that have waited too long for their answers, and those
//! whose answers have begun and do not end.
//!
//! A hung upstream behind a route without a timeout ends no call, and a breaker that only looks at ended calls never
//! trips on it; and an event stream that lives for hours is good long before it ends. So each VM keeps its calls in two
//! lists: waiting by their start, answered by the beginning of the answer. A call joins at the end and leaves from
//! anywhere in one step, and the tick walks from the front only as far as calls are old. No request ever scans them. One
//! call takes 64 bytes while it is in flight; places are used again.

use crate::permit::Permit;

/// No place: the call is not in the list.
pub(crate) const NOWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Flight {
    permit: Permit,
    start: u64,
    /// When it joined the list that it is in.
    joined: u64,
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
    /// Its answer has begun.
    Answered,
    /// Nobody minds any longer how long it takes.
    Left,
    /// It was settled by the tick.
    Settled,
}

impl State {
    /// Its list, where it is in one.
    fn list(self) -> Option<usize> {
        match self {
            State::Waiting => Some(0),
            State::Answered => Some(1),
            State::Free | State::Left | State::Settled => None,
        }
    }
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
    /// From its start to the beginning of its answer; 0 where there is none.
    pub(crate) first_byte: u64,
    pub(crate) stream: u32,
}

#[derive(Debug)]
pub(crate) struct Flights {
    places: Vec<Flight>,
    free: Vec<u32>,
    /// First and last of the waiting calls, and of the answered ones.
    ends: [(u32, u32); 2],
    beats: u64,
}

impl Flights {
    pub(crate) fn new() -> Flights {
        Flights { places: Vec::new(), free: Vec::new(), ends: [(NOWHERE, NOWHERE); 2], beats: 0 }
    }

    /// A call begins to wait.
    pub(crate) fn begin(&mut self, stream: u32, start: u64) -> u32 {
        let flight = Flight {
            permit: Permit::Uncounted,
            start,
            joined: start,
            beat: self.beats,
            stream,
            before: NOWHERE,
            after: NOWHERE,
            state: State::Free,
        };
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.places.push(flight);
                u32::try_from(self.places.len().saturating_sub(1)).unwrap_or(NOWHERE)
            }
        };
        if let Some(slot) = self.at(place) {
            *slot = flight;
        }
        self.join(place, State::Waiting);
        place
    }

    /// What the call was admitted with.
    pub(crate) fn admitted(&mut self, flight: u32, permit: Permit) {
        if let Some(flight) = self.at(flight) {
            flight.permit = permit;
        }
    }

    /// What the call was admitted with, as the tick has set it right.
    pub(crate) fn permit(&self, place: u32) -> Option<Permit> {
        self.places.get(place as usize).filter(|flight| flight.state != State::Free).map(|flight| flight.permit)
    }

    /// Its answer has begun: it no longer waits.
    pub(crate) fn arrive(&mut self, place: u32, now: u64) {
        if self.at(place).is_some_and(|flight| flight.state == State::Waiting) {
            self.leave(place, State::Left);
            if let Some(flight) = self.at(place) {
                flight.joined = now;
            }
            self.join(place, State::Answered);
        }
    }

    /// Nobody minds any longer how long it takes.
    pub(crate) fn forget(&mut self, place: u32) {
        self.leave(place, State::Left);
    }

    /// The tick has settled it.
    pub(crate) fn settled(&mut self, place: u32) {
        self.leave(place, State::Settled);
    }

    /// The tick has settled it, after it left its list.
    pub(crate) fn settle_left(&mut self, place: u32) {
        if let Some(flight) = self.at(place).filter(|flight| flight.state == State::Left) {
            flight.state = State::Settled;
        }
    }

    /// It has ended.
    pub(crate) fn end(&mut self, place: u32) -> Ended {
        let Some(flight) = self.at(place).filter(|flight| flight.state != State::Free) else { return Ended::Otherwise };
        let ended = match flight.state {
            State::Settled => Ended::SettledBefore,
            State::Waiting => Ended::Unanswered { start: flight.start },
            State::Answered | State::Left | State::Free => Ended::Otherwise,
        };
        self.forget(place);
        if let Some(flight) = self.at(place) {
            flight.state = State::Free;
        }
        self.free.push(place);
        ended
    }

    /// The clock has stepped back: what began later than now waits from now on, and where only its start tells in which
    /// generation it was admitted, it was in an older one than any that there is.
    pub(crate) fn rebase(&mut self, now: u64) {
        for flight in &mut self.places {
            if let Permit::Calm { start, .. } = &mut flight.permit
                && *start > now
            {
                *start = 0;
            }
            (flight.start, flight.joined) = (flight.start.min(now), flight.joined.min(now));
        }
    }

    /// A tick: what counts time where the clock may step.
    pub(crate) fn beat(&mut self) {
        self.beats = self.beats.saturating_add(1);
    }

    /// Calls that have waited at least `age`, by the clock and by half as many ticks: a clock that jumps ahead does not
    /// make all calls old at once.
    pub(crate) fn waiting_for(&self, now: u64, age: u64, tick: u64) -> Vec<Old> {
        let beats = age.checked_div(tick.saturating_mul(2)).unwrap_or(0);
        self.oldest(State::Waiting, |flight| {
            now.saturating_sub(flight.joined) >= age && self.beats.saturating_sub(flight.beat) >= beats
        })
    }

    /// Calls whose answers began at least `age` ago.
    pub(crate) fn answered_since(&self, now: u64, age: u64) -> Vec<Old> {
        self.oldest(State::Answered, |flight| now.saturating_sub(flight.joined) >= age)
    }

    /// The calls of a list, as far as they are old.
    fn oldest(&self, state: State, is_old: impl Fn(&Flight) -> bool) -> Vec<Old> {
        let mut old = Vec::new();
        let mut place = state.list().and_then(|list| self.ends.get(list)).map_or(NOWHERE, |(first, _)| *first);
        while let Some(flight) = self.places.get(place as usize).filter(|flight| is_old(flight)) {
            let (permit, start, stream) = (flight.permit, flight.start, flight.stream);
            old.push(Old { flight: place, permit, start, first_byte: flight.joined.saturating_sub(start), stream });
            place = flight.after;
        }
        old
    }

    fn at(&mut self, place: u32) -> Option<&mut Flight> {
        self.places.get_mut(place as usize)
    }

    /// Joins the list of `state` at its end.
    fn join(&mut self, place: u32, state: State) {
        let Some((first, last)) = state.list().and_then(|list| self.ends.get_mut(list)) else { return };
        let before = std::mem::replace(last, place);
        if *first == NOWHERE {
            *first = place;
        }
        if let Some(before) = self.at(before) {
            before.after = place;
        }
        if let Some(flight) = self.at(place) {
            (flight.before, flight.after, flight.state) = (before, NOWHERE, state);
        }
    }

    /// Leaves its list, if it is in one.
    fn leave(&mut self, place: u32, next: State) {
        let Some(flight) = self.at(place) else { return };
        let Some(list) = flight.state.list() else { return };
        let (before, after) = (flight.before, flight.after);
        flight.state = next;
        if let Some(before) = self.at(before) {
            before.after = after;
        }
        if let Some(after) = self.at(after) {
            after.before = before;
        }
        let Some((first, last)) = self.ends.get_mut(list) else { return };
        if *first == place {
            *first = after;
        }
        if *last == place {
            *last = before;
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
        flights.waiting_for(now, age, 1).iter().map(|waiting| waiting.stream).collect()
    }

    #[test]
    fn calls_leave_from_anywhere_and_the_old_ones_are_found_in_order() {
        let mut flights = Flights::new();
        let places: Vec<u32> = (0..6).map(|stream| flights.begin(stream, u64::from(stream))).collect();
        for _ in 0..100 {
            flights.beat();
        }
        assert_eq!(streams(&flights, 10, 7), [0, 1, 2, 3]);
        flights.arrive(places[0], 9);
        flights.settled(places[2]);
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
    fn answered_calls_are_found_by_the_beginning_of_their_answers() {
        let mut flights = Flights::new();
        let places: Vec<u32> = (0..4).map(|stream| flights.begin(stream, 0)).collect();
        for (place, now) in [(2, 10), (0, 20), (3, 30)] {
            flights.arrive(places[place], now);
        }
        let answered = |flights: &Flights, now| -> Vec<u32> {
            flights.answered_since(now, 10).iter().map(|old| old.stream).collect()
        };
        assert_eq!(answered(&flights, 30), [2, 0]);
        flights.settled(places[0]);
        assert_eq!((answered(&flights, 50), flights.end(places[0])), (vec![2, 3], Ended::SettledBefore));
        assert_eq!((flights.end(places[3]), flights.end(places[2])), (Ended::Otherwise, Ended::Otherwise));
        assert_eq!(answered(&flights, 50), [0_u32; 0]);
    }

    #[test]
    fn places_are_used_again() {
        let mut flights = Flights::new();
        for turn in 0..1000 {
            let place = flights.begin(turn, u64::from(turn));
            flights.arrive(place, u64::from(turn));
            flights.end(place);
        }
        assert_eq!((flights.places.len(), flights.ends), (1, [(NOWHERE, NOWHERE); 2]));
    }

    #[test]
    fn a_clock_that_jumps_ahead_makes_no_call_old() {
        let mut flights = Flights::new();
        flights.begin(1, 0);
        flights.beat();
        assert_eq!(streams(&flights, 1_000_000, 1000), [0_u32; 0]);
    }
}
