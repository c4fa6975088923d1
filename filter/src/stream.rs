//! One request: admitted once, settled once.
//!
//! Envoy calls the module for more than admitted requests. A request that an earlier filter rejected gets only
//! `on_log`. Our own reply runs through all response callbacks. HTTP/3 never gets `on_log`. So the permit is what is
//! settled. A stream has none before admission, none after a rejection, and none after it was settled. If it still
//! holds one when it is deleted, it is settled then.
//!
//! **Whose time it is.** The upstream's time begins with the request's last byte, which the callback on the request's
//! body tells. Another filter may hold the request back after that. Envoy's router says how long the upstream itself
//! took, in a header that is only read where it may matter ([`Stream::time_to_first_byte`]).

use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::{Admission, Origin, Permit, Request};
use circuit_breaker_core::clock::MILLISECOND;
use circuit_breaker_core::envoy::{self, Details, Exchange, Head};
use circuit_breaker_core::envoy::{grpc_timeout::grpc_timeout, retry_after};
use circuit_breaker_core::policy::classify::{Answer, Ending};

use crate::envoy::{ADDRESS, ATTEMPTS, CLUSTER, Envoy, FLAGS, Headers};
use crate::glance::Seen;
use crate::heads::Heads;
use crate::reply;
use crate::shared::Shared;

/// The router's own header: milliseconds from the request's last byte, as the router had it, to the answer's first.
const SERVICE_TIME: &str = "x-envoy-upstream-service-time";

/// How much too early one of Envoy's timers may be by our clock. A timer counts from the beginning of its worker's
/// present round of events, and on a busy worker our callback comes that much later in the round. A route's own
/// timeout that is less than this below the client's deadline passes for the deadline. That is the milder error: it
/// counts nothing against the upstream.
const EARLY: u64 = 25 * MILLISECOND;

/// From this time on a call's time is looked at more closely, under any policy. Below it a filter that holds requests
/// back is not worth another host call for each, and the histogram of latencies shows it.
const DOUBTFUL: u64 = 100 * MILLISECOND;

pub(crate) struct Stream<E: Envoy> {
    envoy: E,
    shared: Option<Rc<Shared<E>>>,
    /// Envoy's number of this request.
    id: u32,
    permit: Option<Permit>,
    start: u64,
    /// When the request's last byte came; `None`: it has not.
    complete: Option<u64>,
    /// Bytes of the body that a probe on trial has still to send, where its head says how many. Envoy tells of the
    /// end only after the last bytes, and the upstream waits for these.
    left: Option<u64>,
    /// How long the client's own deadline lets it wait.
    deadline: Option<u64>,
    head: Head,
    /// How long the upstream took, once it had the whole request.
    first_byte: Option<u64>,
    /// How long a fault filter held it back before the upstream had it.
    injected_delay: u64,
    grpc_status: Option<u32>,
    /// The upstream's own status, where the head was looked at.
    own_status: Option<u32>,
    /// The circuit that rejected it, where it was sent to a fallback and has not landed.
    fell_from: Option<Origin>,
}

impl<E: Envoy> Stream<E> {
    pub(crate) fn new(envoy: E, id: u32, shared: Option<Rc<Shared<E>>>) -> Stream<E> {
        Stream {
            envoy,
            shared,
            id,
            permit: None,
            start: 0,
            complete: None,
            left: None,
            deadline: None,
            head: Head::None,
            first_byte: None,
            injected_delay: 0,
            grpc_status: None,
            own_status: None,
            fell_from: None,
        }
    }

    /// Decides about this request. `headers_only`: it has no body. False: it was answered in the upstream's place.
    pub(crate) fn admit(&mut self, headers_only: bool) -> bool {
        let Some(shared) = self.shared.clone() else { return true };
        let Ok(mut breaker) = shared.breaker.try_borrow_mut() else { return true };
        if breaker.minds_paths()
            && let Some(path) = self.envoy.header(Headers::Request, ":path")
        {
            if let Some(report) = breaker.health(&path, self.envoy.now()) {
                return !reply::health(&self.envoy, &report);
            }
            if exempts(&breaker, &path) {
                return true;
            }
        }
        let request = Request { stream: self.id, whole: headers_only || self.is_upgrade() };
        if !headers_only {
            // A gRPC call has a body. Its deadline makes Envoy's router time out in the client's name.
            self.deadline = self.envoy.header(Headers::Request, "grpc-timeout").and_then(|value| grpc_timeout(&value));
        }
        self.start = self.envoy.now();
        self.complete = request.whole.then_some(self.start);
        if breaker.is_calm() {
            self.permit = Some(breaker.admit_unseen(request, self.start));
            return true;
        }
        let Some(upstream) = self.envoy.text(CLUSTER) else { return true };
        match breaker.admit(request, &upstream, self.start) {
            Admission::Pass(permit) => {
                self.permit = Some(permit);
                if matches!(permit, Permit::Probe { .. }) && !request.whole {
                    self.left = self.envoy.header(Headers::Request, "content-length").and_then(|value| number(&value));
                }
                true
            }
            Admission::Reject { circuit, .. } if self.fall_back(&mut breaker, request, circuit) => true,
            rejected @ Admission::Reject { .. } => self.reply(&mut breaker, rejected, headers_only),
        }
    }

    /// A connection that is to change to another protocol has no end of its request: the upstream answers its head. A
    /// request that only claims this, and has a body to come, is treated like any other, or its client could make a
    /// probe hang.
    fn is_upgrade(&self) -> bool {
        let header = |name| self.envoy.header(Headers::Request, name);
        header("upgrade").is_some()
            && header(":method").is_some_and(|method| method == b"GET")
            && header("connection")
                .is_some_and(|value| value.to_ascii_lowercase().windows(7).any(|word| word == b"upgrade"))
            && header("content-length").is_none()
            && header("transfer-encoding").is_none()
    }

    /// Answers in the upstream's place. True: the host refused, and the request goes on, uncounted.
    fn reply(&self, breaker: &mut Breaker<E>, rejected: Admission, headers_only: bool) -> bool {
        let Admission::Reject { circuit, cause, retry_after } = rejected else { return true };
        let rejection = breaker.rejection(circuit);
        let sent =
            rejection.is_some_and(|rejection| reply::send(&self.envoy, rejection, cause, retry_after, headers_only));
        if sent {
            breaker.rejected(circuit, cause);
        }
        !sent
    }

    /// So many bytes of the request's body have come. False: it was answered in the upstream's place.
    pub(crate) fn request_body(&mut self, size: usize, end_of_stream: bool) -> bool {
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        self.left = self.left.map(|left| left.saturating_sub(size));
        if end_of_stream || self.left == Some(0) { self.request_ended() } else { true }
    }

    /// The request's last byte has come. False: it was answered in the upstream's place, and the upstream does not
    /// get that byte.
    pub(crate) fn request_ended(&mut self) -> bool {
        let (Some(permit), None) = (self.permit, self.complete) else { return true };
        let Some(shared) = self.shared.clone() else { return true };
        let Ok(mut breaker) = shared.breaker.try_borrow_mut() else { return true };
        let now = self.envoy.now();
        self.complete = Some(now);
        match breaker.request_ended(permit, now) {
            Admission::Pass(permit) => {
                self.permit = Some(permit);
                true
            }
            rejected @ Admission::Reject { .. } => {
                self.permit = None;
                // An answer that has begun is not replaced.
                self.head != Head::None || self.reply(&mut breaker, rejected, false)
            }
        }
    }

    /// The answer begins.
    pub(crate) fn response_headers(&mut self, end_of_stream: bool) {
        let Some(permit) = self.permit else { return };
        let Some(shared) = self.shared.clone() else { return };
        let Ok(mut breaker) = shared.breaker.try_borrow_mut() else { return };
        let now = self.envoy.now();
        // A filter that replaces an answer sends another head after the first one.
        self.own_status = self.own_status.or_else(|| shared.own_status());
        self.head = if end_of_stream { Head::Whole } else { Head::Open };
        if end_of_stream {
            self.read_grpc_status(Headers::Response);
        }
        self.answered(&mut breaker, permit, now);
    }

    pub(crate) fn response_trailers(&mut self) {
        if self.permit.is_some() {
            self.read_grpc_status(Headers::ResponseTrailers);
        }
    }

    /// How long the upstream took, of the time that has `passed` since it had the whole request.
    fn time_to_first_byte(&mut self, breaker: &Breaker<E>, passed: u64) -> u64 {
        if passed < DOUBTFUL && breaker.is_in_time(passed) {
            return passed;
        }
        let told = self.envoy.header(Headers::Response, SERVICE_TIME);
        let told = told.and_then(|value| number(&value)).map(|told| told.saturating_mul(MILLISECOND));
        let delayed = envoy::is_delayed(self.envoy.number(FLAGS).unwrap_or(0));
        let took = match told {
            Some(told) => told.min(passed),
            // Envoy is told to keep its headers to itself, so nobody knows which part of the time was the delay.
            None if delayed => 0,
            None => passed,
        };
        if delayed {
            self.injected_delay = passed.saturating_sub(took);
        }
        took
    }

    /// The call no longer waits. A probe is judged by its headers, since a stream may go on for hours.
    fn answered(&mut self, breaker: &mut Breaker<E>, mut permit: Permit, now: u64) {
        if let Some(from) = self.fell_from.take() {
            permit = self.land(breaker, from, permit);
            self.permit = Some(permit);
        }
        // A call that passed only because the mode is observe has no place there, but it has a time.
        let here = || self.complete.map_or(0, |complete| now.saturating_sub(complete));
        let waited = breaker.arrived(permit, now).unwrap_or_else(here);
        self.first_byte = Some(self.time_to_first_byte(breaker, waited));
        if matches!(permit, Permit::Probe { .. }) {
            let ended = Seen::read(&self.envoy);
            let answer = self.answer(&ended, false);
            let upstream = ended.upstream.as_deref();
            self.permit = Some(breaker.answered(permit, upstream, &answer, self.first_byte, now));
        }
    }

    /// What the breaker is to know of how this request ended.
    fn answer(&self, ended: &Seen, count_attempts: bool) -> Answer {
        let ending = self.exchange(ended).ending();
        let attempts = if count_attempts { self.envoy.number(ATTEMPTS) } else { None };
        let attempts = attempts.and_then(|attempts| u32::try_from(attempts).ok()).unwrap_or(1);
        let retry_after = if ending == Ending::Answered { self.retry_after(ended.status) } else { None };
        let injected_delay = self.injected_delay;
        Answer { ending, status: ended.status, grpc_status: self.grpc_status, attempts, retry_after, injected_delay }
    }

    fn exchange(&self, ended: &Seen) -> Exchange {
        let Seen { status, flags, details, .. } = *ended;
        let open = details == Details::Other && envoy::client_is_gone(flags);
        Exchange {
            details,
            flags,
            status,
            complete: self.complete.is_some(),
            head: self.head,
            deadline_passed: envoy::is_deadline(flags) && self.deadline_has_passed(flags),
            sent: !open || self.envoy.is_sent(),
            host_chosen: !open || self.envoy.property(ADDRESS).is_some(),
        }
    }

    /// Whether it was the client's own deadline that ran out, and not a longer timeout of the route.
    fn deadline_has_passed(&self, flags: u64) -> bool {
        let since = if envoy::is_of_whole_exchange(flags) { self.start } else { self.complete.unwrap_or(self.start) };
        let passed = self.envoy.now().saturating_sub(since);
        self.deadline.is_some_and(|deadline| passed.saturating_add(EARLY) >= deadline)
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
        let Some(shared) = self.shared.clone() else { return };
        let Ok(mut breaker) = shared.breaker.try_borrow_mut() else { return };
        if let Some(from) = self.fell_from.take() {
            permit = self.land(&mut breaker, from, permit);
        }
        if permit == Permit::Uncounted {
            return;
        }
        let ended = self.as_the_head_says(shared.ended(), &shared.heads, &breaker);
        let upstream = ended.upstream.as_deref();
        let well = ended.is_well() && self.grpc_status.is_none_or(|code| code == 0) && self.injected_delay == 0;
        if well
            && breaker.trusts_good_statuses()
            && breaker.settle_well(permit, upstream.unwrap_or_default(), self.first_byte)
        {
            return;
        }
        let answer = self.answer(&ended, breaker.counts_attempts());
        breaker.settle(permit, upstream, &answer, self.first_byte, self.envoy.now());
    }

    /// The upstream's own status, where a filter on the answer's way has made another one of it.
    fn as_the_head_says(&self, ended: Seen, heads: &Heads, breaker: &Breaker<E>) -> Seen {
        if ended.details == Details::ViaUpstream && ended.status >= 500 {
            heads.failed();
        }
        let may_be_changed = ended.details == Details::ViaUpstream || ended.flags == 0;
        match self.own_status {
            Some(status) if may_be_changed && (status, Details::ViaUpstream) != (ended.status, ended.details) => {
                if !heads.are_changed() {
                    heads.changed();
                    breaker.answers_are_changed();
                }
                Seen { status, details: Details::ViaUpstream, ..ended }
            }
            _ => ended,
        }
    }

    fn read_grpc_status(&mut self, map: Headers) {
        let value = self.envoy.header(map, "grpc-status");
        self.grpc_status = value.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok());
    }

    /// Sends a request that a circuit rejects to the circuit's fallback. False: it is to be rejected.
    fn fall_back(&mut self, breaker: &mut Breaker<E>, request: Request, circuit: u32) -> bool {
        let carries = |(name, value): &(String, String)| {
            self.envoy.header(Headers::Request, name).is_some_and(|carried| carried == value.as_bytes())
        };
        // It already came by a fallback, whoever sent it: once is enough.
        if breaker.fallback(circuit).iter().all(carries) {
            return false;
        }
        let Some((permit, origin)) = breaker.fall_back(request, circuit, self.start) else { return false };
        for (name, value) in breaker.fallback(circuit) {
            // The request is on its way. If the host does not set a header, the request stays where it was, and its
            // landing tells.
            let _ = self.envoy.set_request_header(name, value);
        }
        let _ = self.envoy.clear_route_cache();
        (self.permit, self.fell_from) = (Some(permit), Some(origin));
        true
    }

    /// Where a request landed that was sent to a fallback. Envoy tells that from the answer on.
    fn land(&self, breaker: &mut Breaker<E>, from: Origin, permit: Permit) -> Permit {
        let upstream = self.envoy.text(CLUSTER).unwrap_or_default();
        // If a filter answered before the route was taken again, Envoy still names the upstream that it came from.
        let stayed = breaker.upstream(from.circuit).is_some_and(|from| **from == *upstream);
        let unmoved = stayed && self.envoy.property(ADDRESS).is_none();
        if unmoved { permit } else { breaker.landed(from, permit, &upstream, self.envoy.now()) }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn exempts<E: Envoy>(breaker: &Breaker<E>, path: &[u8]) -> bool {
    std::str::from_utf8(path).is_ok_and(|path| breaker.is_exempt(path))
}

impl<E: Envoy> Drop for Stream<E> {
    fn drop(&mut self) {
        self.settle();
    }
}
