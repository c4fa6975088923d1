//! What Envoy says of an ended exchange, read as who ended it and how. Only this module knows Envoy's own words: its
//! response flags and its `response_code_details`.
//!
//! **Details decide first, flags second.** `via_upstream` means that the answer is the upstream's own and whole, and
//! then no flag says more. Flags stay from what came before: a retry that found no room (UO), retries that ran out
//! (URX), a delay that a fault filter injected (DI). Any other detail means that the answer is somebody else's. Then
//! flags tell whether Envoy gave it because it could not get the upstream's. Where neither says so, the answer came
//! from another filter, from Envoy's own limit, or because of the client.
//!
//! Statuses and details: Envoy's `envoy/stream_info/stream_info.h` and `source/common/router/router.cc`, 1.33 to 1.40.

pub mod grpc_timeout;
pub mod retry_after;
pub(crate) mod stat_name;

use crate::policy::classify::{Ending, FailureKind};

/// What `response_code_details` says, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    /// The upstream's own answer.
    ViaUpstream,
    /// The upstream's redirect, which Envoy follows itself: the client does not see it.
    InternalRedirect,
    /// Anything else, or nothing.
    Other,
}

/// The text of [`Details::ViaUpstream`].
pub const VIA_UPSTREAM: &str = "via_upstream";
const INTERNAL_REDIRECT: &str = "internal_redirect";
/// A stream's longest time is over (a route's `max_stream_duration`). Envoy 1.40 sets no flag for it.
const MAX_DURATION: &str = "max_duration_timeout";

/// `response_code_details` and `response.flags`, as the module reads them.
#[must_use]
pub fn read(details: &str, flags: u64) -> (Details, u64) {
    match details {
        VIA_UPSTREAM => (Details::ViaUpstream, flags),
        INTERNAL_REDIRECT => (Details::InternalRedirect, flags),
        MAX_DURATION => (Details::Other, flags | flag::DURATION_TIMEOUT),
        _ => (Details::Other, flags),
    }
}

/// Bits of `response.flags`: `1 << CoreResponseFlag`, unchanged since 1.33.
mod flag {
    pub(super) const NO_HEALTHY_UPSTREAM: u64 = 1 << 1;
    pub(super) const UPSTREAM_REQUEST_TIMEOUT: u64 = 1 << 2;
    pub(super) const LOCAL_RESET: u64 = 1 << 3;
    pub(super) const UPSTREAM_REMOTE_RESET: u64 = 1 << 4;
    pub(super) const UPSTREAM_CONNECTION_FAILURE: u64 = 1 << 5;
    pub(super) const UPSTREAM_CONNECTION_TERMINATION: u64 = 1 << 6;
    pub(super) const UPSTREAM_OVERFLOW: u64 = 1 << 7;
    pub(super) const DELAY_INJECTED: u64 = 1 << 9;
    pub(super) const FAULT_INJECTED: u64 = 1 << 10;
    pub(super) const DOWNSTREAM_CONNECTION_TERMINATION: u64 = 1 << 14;
    pub(super) const STREAM_IDLE_TIMEOUT: u64 = 1 << 16;
    pub(super) const UPSTREAM_MAX_STREAM_DURATION: u64 = 1 << 19;
    pub(super) const DURATION_TIMEOUT: u64 = 1 << 22;
    pub(super) const UPSTREAM_PROTOCOL_ERROR: u64 = 1 << 23;
    pub(super) const DNS_RESOLUTION_FAILED: u64 = 1 << 26;
    pub(super) const DOWNSTREAM_REMOTE_RESET: u64 = 1 << 28;
}

const CLIENT_GONE: u64 = flag::DOWNSTREAM_CONNECTION_TERMINATION | flag::DOWNSTREAM_REMOTE_RESET;
/// Limits on the whole exchange. They say something about the upstream only until its answer has begun.
const STREAM_LIMIT: u64 = flag::STREAM_IDLE_TIMEOUT | flag::UPSTREAM_MAX_STREAM_DURATION | flag::DURATION_TIMEOUT;
/// Timeouts that a client can cause by a deadline of its own.
const DEADLINE: u64 = flag::UPSTREAM_REQUEST_TIMEOUT | flag::DURATION_TIMEOUT;

/// Reasons why Envoy could not get the upstream's answer. The first one that is set decides. A failed connect comes
/// before a reset: a connection that never existed was not broken off.
const UNAVAILABLE: [(u64, FailureKind); 4] = [
    (flag::UPSTREAM_CONNECTION_FAILURE | flag::DNS_RESOLUTION_FAILED, FailureKind::Connect),
    (
        flag::LOCAL_RESET
            | flag::UPSTREAM_REMOTE_RESET
            | flag::UPSTREAM_CONNECTION_TERMINATION
            | flag::UPSTREAM_PROTOCOL_ERROR,
        FailureKind::Reset,
    ),
    (flag::NO_HEALTHY_UPSTREAM, FailureKind::NoHealthyUpstream),
    (flag::UPSTREAM_OVERFLOW, FailureKind::Overflow),
];

const REQUEST_TIMEOUT: u32 = 408;
const GATEWAY_TIMEOUT: u32 = 504;

/// An ended exchange, as Envoy and the filter's own callbacks tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// `response_code_details`.
    pub details: Details,
    /// `response.flags`.
    pub flags: u64,
    /// `response.code`; 0 where there was none.
    pub status: u32,
    /// The request's last byte has come.
    pub complete: bool,
    /// The head of an answer has come, from the upstream or from anybody else.
    pub head: Head,
    /// The client's own deadline (`grpc-timeout`) has passed.
    pub deadline_passed: bool,
    /// Envoy's router has had the request. It is only asked where the client left.
    pub sent: bool,
    /// Envoy had a host of the upstream for it. It is only asked where the client left.
    pub host_chosen: bool,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// None came.
    None,
    /// One came, with more to follow.
    Open,
    /// One came that was the whole answer. Each of Envoy's own answers to a gRPC request is like that.
    Whole,
}

/// Whether the client left. The caller then asks for [`Exchange::sent`] and [`Exchange::host_chosen`].
#[must_use]
pub fn client_is_gone(flags: u64) -> bool {
    flags & CLIENT_GONE != 0
}

/// Whether a fault filter has held the request back.
#[must_use]
pub fn is_delayed(flags: u64) -> bool {
    flags & flag::DELAY_INJECTED != 0
}

/// Whether Envoy gave up because of time.
#[must_use]
pub fn is_deadline(flags: u64) -> bool {
    flags & DEADLINE != 0
}

/// Whether the whole exchange ran out of its time, which counts from the request's first byte.
#[must_use]
pub fn is_of_whole_exchange(flags: u64) -> bool {
    flags & STREAM_LIMIT != 0
}

impl Exchange {
    /// Whether this is the upstream's own answer, whole.
    #[must_use]
    pub fn answered(status: u32) -> Exchange {
        Exchange {
            details: Details::ViaUpstream,
            flags: 0,
            status,
            complete: true,
            head: Head::Open,
            deadline_passed: false,
            sent: true,
            host_chosen: true,
        }
    }

    fn has(&self, flags: u64) -> bool {
        self.flags & flags != 0
    }

    /// Who ended it, and how.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match self.details {
            Details::ViaUpstream => return Ending::Answered,
            Details::InternalRedirect => return Ending::Followed,
            Details::Other => {}
        }
        if self.has(flag::UPSTREAM_REQUEST_TIMEOUT | STREAM_LIMIT) && !(self.left_before_any_head()) {
            return self.out_of_time();
        }
        let failed = UNAVAILABLE.iter().find(|(flags, _)| self.has(*flags)).map(|(_, kind)| Ending::Failed(*kind));
        if self.has(CLIENT_GONE) {
            return self.client_left(failed);
        }
        match failed {
            Some(failed) => failed,
            None if self.has(flag::FAULT_INJECTED) => Ending::Injected,
            None => Ending::Elsewhere,
        }
    }

    /// The client left, and Envoy then let go of the upstream, which may set flags too. The one who left first
    /// decides.
    fn left_before_any_head(&self) -> bool {
        self.has(CLIENT_GONE) && self.head == Head::None
    }

    /// A timeout of Envoy's ran out.
    fn out_of_time(&self) -> Ending {
        let route = self.has(flag::UPSTREAM_REQUEST_TIMEOUT);
        if !self.complete && !self.has_begun() {
            // The client was still sending: the upstream owed nothing.
            return Ending::Elsewhere;
        }
        if self.deadline_passed && self.has(DEADLINE) {
            return if self.has_begun() { Ending::Elsewhere } else { self.left_waiting() };
        }
        if !route && self.has_begun() {
            // Envoy ended the stream by its own limit, while the upstream was answering.
            return Ending::Elsewhere;
        }
        Ending::Failed(FailureKind::Timeout)
    }

    /// Whether the answer that had begun is the upstream's. Envoy itself answers a timeout with one of these two
    /// statuses, and such an answer is whole where it is gRPC's.
    fn has_begun(&self) -> bool {
        self.head == Head::Open && !matches!(self.status, REQUEST_TIMEOUT | GATEWAY_TIMEOUT)
    }

    fn client_left(&self, failed: Option<Ending>) -> Ending {
        match (self.head, failed) {
            (Head::None, _) if !self.complete || !self.sent => Ending::Elsewhere,
            (Head::None, _) => self.left_waiting(),
            // Envoy had given up before the client left.
            (_, Some(failed)) => failed,
            (_, None) => Ending::LeftAfterHead { own: self.host_chosen },
        }
    }

    fn left_waiting(&self) -> Ending {
        Ending::LeftWaiting { delayed: is_delayed(self.flags) }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use FailureKind::{Connect, NoHealthyUpstream, Overflow, Reset, Timeout};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const WAITING: Ending = Ending::LeftWaiting { delayed: false };

    /// An exchange in which Envoy or another filter had the last word.
    fn other(flags: u64, status: u32) -> Exchange {
        Exchange { details: Details::Other, flags, ..Exchange::answered(status) }
    }

    /// The meaning of each of Envoy's thirty flags alone, by its bit: first before any answer of the upstream, then
    /// after its answer of status 200 had begun.
    fn table() -> [(Ending, Ending); 30] {
        let failed = |kind| (Ending::Failed(kind), Ending::Failed(kind));
        let limit = (Ending::Failed(Timeout), Ending::Elsewhere);
        let gone = (Ending::LeftAfterHead { own: true }, Ending::LeftAfterHead { own: true });
        let none = (Ending::Elsewhere, Ending::Elsewhere);
        [
            none,                                 // 0 LH: Envoy's own health check
            failed(NoHealthyUpstream),            // 1 UH
            failed(Timeout),                      // 2 UT: the route's patience, also with the body
            failed(Reset),                        // 3 LR
            failed(Reset),                        // 4 UR
            failed(Connect),                      // 5 UF
            failed(Reset),                        // 6 UC
            failed(Overflow),                     // 7 UO
            none,                                 // 8 NR
            none,                                 // 9 DI: nothing by itself
            (Ending::Injected, Ending::Injected), // 10 FI
            none,                                 // 11 RL
            none,                                 // 12 UAEX
            none,                                 // 13 RLSE
            gone,                                 // 14 DC
            none,                                 // 15 URX: says nothing more than the flag beside it
            limit,                                // 16 SI
            none,                                 // 17 IH
            none,                                 // 18 DPE
            limit,                                // 19 UMSDR
            none,                                 // 20 RFCF
            none,                                 // 21 NFCF
            limit,                                // 22 DT
            failed(Reset),                        // 23 UPE
            none,                                 // 24 NC
            none,                                 // 25 OM
            failed(Connect),                      // 26 DF
            none,                                 // 27 DO
            gone,                                 // 28 DR
            none,                                 // 29 UDO
        ]
    }

    #[test]
    fn each_of_the_thirty_flags_says_who_ended_it() {
        for (bit, (before, begun)) in table().into_iter().enumerate() {
            assert_eq!(other(1 << bit, 504).ending(), before, "bit {bit} with Envoy's own answer");
            let grpc = Exchange { head: Head::Whole, ..other(1 << bit, 200) };
            assert_eq!(grpc.ending(), before, "bit {bit} with Envoy's own answer over gRPC");
            assert_eq!(other(1 << bit, 200).ending(), begun, "bit {bit} in the middle of the upstream's answer");
        }
    }

    #[test]
    fn no_flag_changes_what_the_upstream_itself_has_answered() {
        for flags in (0..30).map(|bit| 1_u64 << bit).chain([u64::MAX]) {
            for status in [200, 404, 503] {
                for complete in [false, true] {
                    let own = Exchange { flags, complete, ..Exchange::answered(status) };
                    assert_eq!(own.ending(), Ending::Answered);
                    let redirect = Exchange { details: Details::InternalRedirect, ..own };
                    assert_eq!(redirect.ending(), Ending::Followed);
                }
            }
        }
    }

    #[test]
    fn a_streams_longest_time_has_its_flag_though_envoy_sets_none() {
        let (details, flags) = read("max_duration_timeout", 0);
        assert_eq!(Exchange { details, flags, ..Exchange::answered(504) }.ending(), Ending::Failed(Timeout));
        assert_eq!(read("via_upstream", 1 << 7), (Details::ViaUpstream, 1 << 7));
        assert_eq!(read("internal_redirect", 0), (Details::InternalRedirect, 0));
        assert_eq!(read("cors_response", 0), (Details::Other, 0));
    }

    #[test]
    fn two_flags_say_what_the_stronger_one_says() {
        const UO: u64 = 1 << 7;
        const DI: u64 = 1 << 9;
        const URX: u64 = 1 << 15;
        for (flags, ending) in [
            (1 << 6 | UO, Ending::Failed(Reset)),
            (1 << 5 | UO, Ending::Failed(Connect)),
            (1 << 2 | URX, Ending::Failed(Timeout)),
            (1 << 5 | DI, Ending::Failed(Connect)),
            (1 << 10 | DI, Ending::Injected),
            (1 << 12 | DI, Ending::Elsewhere),
            (1 << 2 | 1 << 4, Ending::Failed(Timeout)),
        ] {
            assert_eq!(other(flags, 503).ending(), ending, "{flags:#x}");
        }
    }

    #[test]
    fn a_client_that_is_still_sending_makes_no_timeout() {
        for bit in [2, 16, 19, 22] {
            for status in [408, 504] {
                let sending = Exchange { complete: false, ..other(1 << bit, status) };
                assert_eq!(sending.ending(), Ending::Elsewhere, "bit {bit}");
            }
        }
        let refused = Exchange { complete: false, ..other(1 << 5, 503) };
        assert_eq!(refused.ending(), Ending::Failed(Connect), "whom no client can make refuse");
    }

    #[test]
    fn a_deadline_of_the_clients_own_is_its_leaving() {
        for bit in [2, 22] {
            let passed = Exchange { deadline_passed: true, head: Head::Whole, ..other(1 << bit, 200) };
            assert_eq!(passed.ending(), WAITING, "bit {bit}");
            let begun = Exchange { deadline_passed: true, ..other(1 << bit, 200) };
            assert_eq!(begun.ending(), Ending::Elsewhere, "bit {bit}, in the middle of the answer");
        }
        let idle = Exchange { deadline_passed: true, ..other(1 << 16, 504) };
        assert_eq!(idle.ending(), Ending::Failed(Timeout), "an idle stream is no deadline");
    }

    #[test]
    fn who_left_first_decides() {
        for gone in [1 << 14, 1 << 28] {
            let left = Exchange { head: Head::None, status: 0, ..other(gone, 0) };
            assert_eq!(left.ending(), WAITING);
            for after in [1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 16] {
                let flags = gone | after;
                assert_eq!(Exchange { flags, ..left }.ending(), WAITING, "Envoy then lets go of the upstream");
                let told = other(flags, 504).ending();
                assert!(matches!(told, Ending::Failed(_)), "Envoy had said so before: {told:?}");
            }
            assert_eq!(Exchange { complete: false, ..left }.ending(), Ending::Elsewhere, "it was still sending");
            assert_eq!(Exchange { sent: false, ..left }.ending(), Ending::Elsewhere, "another filter held it");
            let delayed = Exchange { flags: gone | 1 << 9, ..left };
            assert_eq!(delayed.ending(), Ending::LeftWaiting { delayed: true });
            let head = Exchange { host_chosen: false, ..other(gone, 503) };
            assert_eq!(head.ending(), Ending::LeftAfterHead { own: false });
        }
    }
}
