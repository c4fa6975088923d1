//! The upstream that most calls of a worker go to.
//!
//! At a call's end the module can ask Envoy "where did it go?", and Envoy copies a name into the module. Or it can
//! ask "did it go to this one?", and Envoy copies nothing, which costs half as much. A wrong guess costs a tenth more
//! than the plain question. Most proxies send most of their calls to one upstream (an inbound sidecar sends all of
//! them). So a guess is worth having where there is such an upstream, and only there.
//!
//! Finding it must cost a call next to nothing. The names that Envoy tells vote by the algorithm of Boyer and Moore
//! ("MJRTY", 1981), which finds a majority, if there is one, with one name and one number. Every answer still tells
//! its upstream, by a name or by a guess that held. So no count depends on what is found here.

use std::rc::Rc;

/// The least number of answers that one turn judges. So many are no accident of a moment. And a few hundred times the
/// price of a wrong guess is less than a new guess costs to prepare.
const SAMPLE: u32 = 256;

/// A guess is given up where it holds for less than this part of the answers. That is well above the seventh at which
/// it no longer pays, since another guess would have to be prepared.
const WORTH: u32 = 4;

/// A leader becomes the next guess when its votes, less those for all others together, are this part of all votes. A
/// leader by one vote may be any upstream.
const CLEAR: u32 = 4;

/// Guesses the upstream of the next call from the calls before.
#[derive(Debug, Default)]
pub(crate) struct Favourite {
    guess: Option<Rc<str>>,
    /// Answers for which the guess held.
    held: u32,
    /// Answers that told a name.
    told: u32,
    /// The leader among the names told, and by how many votes it leads.
    leader: String,
    lead: u32,
}

impl Favourite {
    /// The upstream that is guessed at present, if any.
    #[must_use]
    pub(crate) fn guess(&self) -> Option<&Rc<str>> {
        self.guess.as_ref()
    }

    /// A call has ended, and the guess held.
    pub(crate) fn held(&mut self) {
        self.held = self.held.saturating_add(1);
    }

    /// A call has ended, and its upstream was told by name.
    pub(crate) fn told(&mut self, upstream: &str) {
        self.told = self.told.saturating_add(1);
        if self.leader == upstream {
            self.lead = self.lead.saturating_add(1);
        } else if self.lead > 0 {
            self.lead = self.lead.saturating_sub(1);
        } else {
            upstream.clone_into(&mut self.leader);
            self.lead = 1;
        }
    }

    /// Called from time to time: takes the best guess now. True: it is another upstream than before, or none.
    pub(crate) fn turn(&mut self) -> bool {
        let answers = self.held.saturating_add(self.told);
        if answers < SAMPLE {
            return false;
        }
        let worth_it = self.held.saturating_mul(WORTH) >= answers;
        let clear = self.lead.saturating_mul(CLEAR) >= self.told;
        let before = self.guess.take();
        self.guess = match (worth_it, clear) {
            (true, _) => before.clone(),
            (false, true) => Some(Rc::from(&*self.leader)),
            (false, false) => None,
        };
        (self.held, self.told, self.lead) = (0, 0, 0);
        self.guess != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Ends `calls` calls to the upstreams in turn. Whether the guess then changes.
    fn turn(favourite: &mut Favourite, upstreams: &[&str], calls: usize) -> bool {
        for upstream in upstreams.iter().cycle().take(calls) {
            if favourite.guess().is_some_and(|guess| &**guess == *upstream) {
                favourite.held();
            } else {
                favourite.told(upstream);
            }
        }
        favourite.turn()
    }

    fn guess(favourite: &Favourite) -> Option<&str> {
        favourite.guess().map(|guess| &**guess)
    }

    #[test]
    fn the_upstream_that_most_calls_go_to_is_guessed() {
        let mut favourite = Favourite::default();
        assert!(!turn(&mut favourite, &["a"], 255), "too few to tell");
        assert!(turn(&mut favourite, &["a", "b", "a", "c"], 1));
        assert_eq!(guess(&favourite), Some("a"));
        for _ in 0..3 {
            assert!(!turn(&mut favourite, &["a", "b", "c"], 999), "a third is worth it");
        }
        assert_eq!(guess(&favourite), Some("a"));
    }

    #[test]
    fn where_no_upstream_stands_out_none_is_guessed() {
        let mut favourite = Favourite::default();
        assert!(!turn(&mut favourite, &["a", "b"], 1000));
        assert!(!turn(&mut favourite, &["a", "b", "c", "d", "e", "a"], 1000));
        assert_eq!(guess(&favourite), None);
    }

    #[test]
    fn a_guess_that_no_longer_holds_gives_way() {
        let mut favourite = Favourite::default();
        assert!(turn(&mut favourite, &["a"], 1000));
        assert!(turn(&mut favourite, &["b"], 1000), "to the one that calls go to now");
        assert_eq!(guess(&favourite), Some("b"));
        assert!(turn(&mut favourite, &["a", "c", "d", "e", "f"], 1000), "or to none");
        assert_eq!(guess(&favourite), None);
    }
}
