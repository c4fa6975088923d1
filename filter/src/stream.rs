//! One request: admitted once, settled once.
//!
//! Envoy calls us for more than admitted requests. A request that a filter before us rejected gets only `on_log`; our own
//! reply runs through all response callbacks; HTTP/3 never gets `on_log`. So the permit is what is settled: there is none
//! before admission, none after a rejection, and none after it was settled; and whatever still holds one when the stream
//! is deleted is settled then.

use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::outcome::Answer;
use circuit_breaker_core::permit::{Admission, Permit};
use circuit_breaker_core::retry_after;

use crate::envoy::{ADDRESS, CLUSTER, Envoy, Headers};
use crate::glance::Ended;
use crate::reply;
use crate::root::Shared;

pub(crate) struct Stream<E: Envoy> {
    envoy: E,
    shared: Option<Rc<Shared<E>>>,
    /// Envoy's number of this request.
    id: u32,
    permit: Option<Permit>,
    start: u64,
    first_byte: Option<u64>,
    grpc_status: Option<u32>,
    /// The circuit that did not want it, where it was sent to a fallback and has not landed.
    fell_from: Option<u32>,
}

impl<E: Envoy> Stream<E> {
    pub(crate) fn new(envoy: E, id: u32, shared: Option<Rc<Shared<E>>>) -> Stream<E> {
        Stream { envoy, shared, id, permit: None, start: 0, first_byte: None, grpc_status: None, fell_from: None }
    }

    /// Decides about this request. `headers_only`: it has no body. False: it was answered in the upstream's place.
    pub(crate) fn admit(&mut self, headers_only: bool) -> bool {
        let Some(shared) = &self.shared else { return true };
        let Ok(mut breaker) = shared.breaker.try_borrow_mut() else { return true };
        if breaker.has_exempt_paths()
            && self.envoy.header(Headers::Request, ":path").is_some_and(|path| exempts(&breaker, &path))
        {
            return true;
        }
        self.start = self.envoy.now();
        if breaker.is_calm() {
            self.permit = Some(breaker.admit_unseen(self.id, self.start));
            return true;
        }
        let Some(upstream) = self.envoy.text(CLUSTER) else { return true };
        match breaker.admit(self.id, &upstream, self.start) {
            Admission::Pass(permit) => {
                self.permit = Some(permit);
                true
            }
            Admission::Reject { circuit, cause, retry_after } => {
                if let Some(permit) = fall_back(&self.envoy, &mut breaker, self.id, circuit, self.start) {
                    (self.permit, self.fell_from) = (Some(permit), Some(circuit));
                    return true;
                }
                let rejection = breaker.rejection(circuit);
                let sent = rejection
                    .is_some_and(|rejection| reply::send(&self.envoy, rejection, cause, retry_after, headers_only));
                if sent {
                    breaker.rejected(circuit, cause);
                }
                !sent
            }
        }
    }

    /// The answer begins.
    pub(crate) fn response_headers(&mut self, end_of_stream: bool) {
        if let Some(permit) = self.permit {
            let now = self.envoy.now();
            self.first_byte = Some(now.saturating_sub(self.start));
            if end_of_stream {
                self.read_grpc_status(Headers::Response);
            }
            self.answered(permit, now);
        }
    }

    pub(crate) fn response_trailers(&mut self) {
        if self.permit.is_some() {
            self.read_grpc_status(Headers::ResponseTrailers);
        }
    }

    /// The call no longer waits; and a probe is judged by its headers, since a stream may go on for hours.
    fn answered(&mut self, mut permit: Permit, now: u64) {
        let Some(shared) = &self.shared else { return };
        let Ok(mut breaker) = shared.breaker.try_borrow_mut() else { return };
        if let Some(from) = self.fell_from.take() {
            permit = land(&self.envoy, &mut breaker, from, permit, self.start);
            self.permit = Some(permit);
        }
        breaker.arrived(permit, now);
        if matches!(permit, Permit::Probe { .. }) {
            let answer = self.answer(&Ended::read(&self.envoy, true), false);
            breaker.answered(permit, &answer, now.saturating_sub(self.start), now);
        }
    }

    /// What the breaker is to know of how this request ended.
    fn answer(&self, ended: &Ended, count_attempts: bool) -> Answer {
        let Ended { status, flags, from_upstream, .. } = *ended;
        let attempts = if count_attempts { self.envoy.number("upstream\0request_attempt_count") } else { None };
        let attempts = attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(1);
        let retry_after = if from_upstream { self.retry_after(status) } else { None };
        Answer { status, flags, from_upstream, grpc_status: self.grpc_status, attempts, retry_after }
    }

    /// When a failing upstream wants to be asked again.
    fn retry_after(&self, status: u32) -> Option<u64> {
        if self.grpc_status.is_some_and(|code| code != 0) {
            let pushback = |map| self.envoy.header(map, "grpc-retry-pushback-ms");
            let value = pushback(Headers::ResponseTrailers).or_else(|| pushback(Headers::Response));
            return value.and_then(|value| retry_after::grpc(&value));
        }
        let failed = status == 429 || status >= 500;
        let value = if failed { self.envoy.header(Headers::Response, "retry-after") } else { None };
        value.and_then(|value| retry_after::http(&value, self.envoy.now()))
    }

    pub(crate) fn settle(&mut self) {
        let Some(mut permit) = self.permit.take() else { return };
        let Some(shared) = &self.shared else { return };
        let Ok(mut breaker) = shared.breaker.try_borrow_mut() else { return };
        if let Some(from) = self.fell_from.take() {
            permit = land(&self.envoy, &mut breaker, from, permit, self.start);
        }
        if permit == Permit::Uncounted {
            return;
        }
        let ended = match permit {
            // A probe is to show that the upstream is well: there even a good answer may not be anybody's.
            Permit::Probe { .. } => Ended::read(&self.envoy, true),
            Permit::Call { .. } => shared.ended(true),
            Permit::Calm { .. } | Permit::Uncounted => shared.ended(false),
        };
        let upstream = ended.upstream.as_deref();
        let well = ended.is_well() && self.grpc_status.is_none_or(|code| code == 0) && breaker.trusts_good_statuses();
        if well && breaker.settle_well(permit, upstream.unwrap_or_default(), self.first_byte) {
            return;
        }
        let answer = self.answer(&ended, breaker.counts_attempts());
        breaker.settle(permit, upstream, &answer, self.first_byte, self.envoy.now());
    }

    fn read_grpc_status(&mut self, map: Headers) {
        let value = self.envoy.header(map, "grpc-status");
        self.grpc_status = value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok());
    }
}

/// Sends to its fallback what a circuit does not want; `None`: it is to be rejected.
fn fall_back<E: Envoy>(envoy: &E, breaker: &mut Breaker<E>, stream: u32, circuit: u32, now: u64) -> Option<Permit> {
    let carries = |(name, value): &(String, String)| {
        envoy.header(Headers::Request, name).is_some_and(|carried| carried == value.as_bytes())
    };
    // It came by a fallback already, whoever says so: once is enough.
    if breaker.fallback(circuit).iter().all(carries) {
        return None;
    }
    let permit = breaker.fall_back(stream, circuit, now)?;
    for (name, value) in breaker.fallback(circuit) {
        // The request is on its way: what the host will not do leaves it where it was, which the landing tells.
        let _ = envoy.set_request_header(name, value);
    }
    Some(permit)
}

/// Where a request landed that was sent to a fallback: Envoy tells from the answer on.
fn land<E: Envoy>(envoy: &E, breaker: &mut Breaker<E>, from: u32, permit: Permit, start: u64) -> Permit {
    let upstream = envoy.text(CLUSTER).unwrap_or_default();
    // Answered by a filter before the route was taken again, it is still said to be where it came from.
    let unmoved = breaker.upstream(from).is_some_and(|from| **from == *upstream) && envoy.property(ADDRESS).is_none();
    if unmoved { permit } else { breaker.landed(from, permit, &upstream, start, envoy.now()) }
}

fn exempts<E: Envoy>(breaker: &Breaker<E>, path: &[u8]) -> bool {
    std::str::from_utf8(path).is_ok_and(|path| breaker.is_exempt(path))
}

impl<E: Envoy> Drop for Stream<E> {
    fn drop(&mut self) {
        self.settle();
    }
}
