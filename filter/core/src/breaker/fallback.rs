//! Requests that a circuit rejects and that may go elsewhere. Where that is, and why it must be found out:
//! [`super::landing`].

use super::Breaker;
use crate::breaker::landing::{Landing, Place};
use crate::breaker::permit::{Admission, Origin, Permit, Request};
use crate::breaker::view::View;
use crate::clock;
use crate::clock::SECOND;
use crate::host::{ABSENT, Fault, Host};
use crate::shared::vm::Vm;
use crate::telemetry::metrics;

/// A scout that has not landed by then is lost: its client left, or its worker trapped. Another one may go.
const SCOUT_LOST: u64 = SECOND;

/// Where the next request to a fallback would land.
enum Ahead {
    /// In this upstream, or in none.
    Known(String),
    /// Nobody knows: this request is to find out.
    Unknown,
    /// Nowhere that it may go.
    Closed,
}

impl<H: Host> Breaker<H> {
    /// Headers of the circuit's fallback; none: there is no fallback.
    #[must_use]
    pub fn fallback(&self, circuit: u32) -> &[(String, String)] {
        self.circuits.get(circuit).map_or(&[], |view| &view.policy.fallback)
    }

    /// Leave to send a request to the fallback that `circuit` rejects, and the origin that [`Breaker::landed`] is to
    /// be told. `None`: the fallback's own circuit rejects it too, or a scout is still finding out where the fallback
    /// leads.
    ///
    /// Only for a request that does not carry the fallback's headers yet: it goes elsewhere once and never twice.
    pub fn fall_back(&mut self, request: impl Into<Request>, circuit: u32, now: u64) -> Option<(Permit, Origin)> {
        let request = request.into();
        let configuration = self.config.hash;
        let (view, vm) = self.parts(circuit)?;
        if view.policy.fallback.is_empty() {
            return None;
        }
        let origin = Origin { circuit, born: view.record.born };
        let ahead = ahead(view, vm, configuration, now);
        let permit = match self.noted(ahead)? {
            Ahead::Closed => return None,
            Ahead::Unknown => self.admit_unseen(request, now),
            Ahead::Known(upstream) if upstream.is_empty() => Permit::Uncounted,
            Ahead::Known(upstream) => match self.admit_seen(request, &upstream, now) {
                Admission::Reject { .. } => return None,
                Admission::Pass(Permit::Call { circuit, generation, .. }) => {
                    // It gets a place like a request that was let go unseen, so that the tick looks where it really
                    // is.
                    let flight = self.admit_unseen(request, now).flight();
                    Permit::Call { circuit, generation, flight }
                }
                Admission::Pass(permit) => permit,
            },
        };
        // The circuit may have ended while the fallback's one was looked for. The request is let go all the same.
        if let Some((view, vm)) = self.parts(circuit).filter(|(view, _)| view.record.born == origin.born)
            && let Err(error) = view.series.count(&vm.host, &metrics::FALLBACK, &view.name, "")
        {
            vm.failed(error.into());
        }
        Some((permit, origin))
    }

    /// A request that was sent to the fallback of `from` has landed in `upstream` (empty: in none). Returns the
    /// permit that it is to be settled with. A permit of another circuit is given back, and the circuit of `upstream`
    /// counts the request.
    pub fn landed(&mut self, from: Origin, permit: Permit, upstream: &str, now: u64) -> Permit {
        let configuration = self.config.hash;
        let lives = self.lives(from.circuit, from.born, now);
        if let Some((view, vm)) = self.parts(from.circuit).filter(|_| lives) {
            let learned = learn(view, vm, configuration, upstream);
            self.noted(learned);
        }
        self.relocate(permit, Some(upstream), now)
    }
}

fn ahead<H: Host>(view: &mut View, vm: &Vm<H>, configuration: u32, now: u64) -> Result<Ahead, Fault> {
    if let Some(known) = known(view) {
        return Ok(known);
    }
    let key = view.fallback_key();
    let (told, expected) = vm.host.get(&key)?.map_or((None, ABSENT), |(bytes, cas)| (Landing::decode(&bytes), cas));
    let holds = |landing: &Landing| landing.configuration == configuration && landing.born == view.record.born;
    let told = told.filter(holds).map(|landing| landing.place);
    if let Some(Place::Scouted { since }) = &told
        && clock::left(now, since.saturating_add(SCOUT_LOST), SCOUT_LOST) > 0
    {
        return Ok(Ahead::Closed);
    }
    view.landing = told;
    if let Some(known) = known(view) {
        return Ok(known);
    }
    let place = Place::Scouted { since: now };
    let scout = Landing { configuration, born: view.record.born, place }.encode();
    Ok(if vm.host.swap(&key, &scout, expected)? { Ahead::Unknown } else { Ahead::Closed })
}

/// What this worker knows. If the fallback leads back to its own upstream, that knowledge holds for one outage: the
/// routes may be right in the next.
fn known(view: &View) -> Option<Ahead> {
    match &view.landing {
        Some(Place::At { upstream, generation }) if **upstream == *view.name => {
            (*generation == view.record.generation).then_some(Ahead::Closed)
        }
        Some(Place::At { upstream, .. }) => Some(Ahead::Known(upstream.clone())),
        Some(Place::Scouted { .. }) | None => None,
    }
}

fn learn<H: Host>(view: &mut View, vm: &Vm<H>, configuration: u32, upstream: &str) -> Result<(), Fault> {
    if view.is_gone() {
        return Ok(());
    }
    let place = Place::At { generation: view.record.generation, upstream: upstream.to_owned() };
    let same = |known: &Place| match known {
        Place::At { upstream: known, .. } => known == upstream && **known != *view.name,
        Place::Scouted { .. } => false,
    };
    if view.landing.as_ref().is_some_and(same) {
        return Ok(());
    }
    let key = view.fallback_key();
    let expected = vm.host.get(&key)?.map_or(ABSENT, |(_, cas)| cas);
    // Another worker was faster: its request landed a moment ago, which is as good.
    let landing = Landing { configuration, born: view.record.born, place };
    vm.host.swap(&key, &landing.encode(), expected)?;
    if *upstream == *view.name {
        vm.say_once_of(
            &key,
            &view.name,
            &format!(
                "circuit_breaker fallback of {} leads back to itself: no route matches its headers, and requests are \
                 rejected instead",
                crate::json::quoted(&view.name)
            ),
        );
    }
    view.landing = Some(landing.place);
    Ok(())
}
