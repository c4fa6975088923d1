//! Every field of the configuration, once: name, what it may hold, default, meaning.
//!
//! The parser checks a document against these tables. The table of `filter/config.md` is tested against them.
//! Defaults are the texts below, read by the same parser. A field that is not here does not exist, and is refused.

mod half_open;

pub(super) use half_open::ACTIVE_PROBE;
use half_open::HALF_OPEN;

/// One field of a section.
pub struct Field {
    /// Its key in the document.
    pub name: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// The default as JSON; empty where the field is absent unless given.
    pub default: &'static str,
    /// The meaning, as `filter/config.md` shows it.
    pub meaning: &'static str,
}

/// What a field may hold.
pub enum Kind {
    /// A section with fields of its own.
    Section(&'static [Field]),
    /// A list of at most [`MOST_UPSTREAMS`] sections of this shape.
    Sections(&'static [Field]),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One of these words, or a duration.
    ChoiceOrDuration(&'static [&'static str]),
    /// One of these words, or a section with fields of its own, all of which must be given.
    ChoiceOrSection(&'static [&'static str], &'static [Field]),
    /// A duration, at least this many nanoseconds.
    Duration {
        /// Smallest value, in nanoseconds.
        min: u64,
    },
    /// 0, or [`LEAST_PERCENT`] to 100.
    Percent,
    /// A whole number in this range.
    Integer {
        /// Smallest value.
        min: u32,
        /// Largest value.
        max: u32,
    },
    /// A number, decimals allowed, in this range.
    Factor {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
    },
    /// Text of at most this many characters.
    Text {
        /// Largest length in characters.
        max: u32,
    },
    /// Nothing, or visible ASCII characters that begin with `begins`.
    Visible {
        /// How the text begins.
        begins: &'static str,
        /// Largest length in characters.
        max: u32,
    },
    /// A header's value: text of at most this many characters, none of which is a control character.
    Line {
        /// Largest length in characters.
        max: u32,
    },
    /// A list of some of these words.
    Choices(&'static [&'static str]),
    /// A list of HTTP statuses: 429, "5xx", "500-504".
    Statuses,
    /// An HTTP status, 200 to 599, of a reply that has a body: none of [`BODILESS`].
    Status,
    /// A list of paths, each with or without a trailing `/*`.
    Paths,
    /// One path without its query.
    Path,
    /// A list of host names, each with or without a leading label `*`.
    Hosts,
    /// true or false.
    Flag,
    /// At most [`MOST_HEADERS`] header names, none of [`CONNECTION_HEADERS`], and their values.
    Headers,
}

/// Statuses whose replies have no body (RFC 9110, 15.3.5, 15.3.6, 15.4.5). A proxy in front takes a body after one of
/// them for the beginning of the next answer, and closes the connection.
pub const BODILESS: [u32; 3] = [204, 205, 304];
/// The longest reply body. Each of thousands of rejections a second carries it. A whole page is better served by a
/// fallback.
const LONGEST_BODY: u32 = 4096;
/// Longest text of a matcher: Envoy's cluster names are far shorter.
pub const LONGEST_NAME: u32 = 512;
/// The smallest share above 0, in percent: shares are kept as millionths of the whole.
pub const LEAST_PERCENT: f64 = 0.0001;
/// Headers of the connection or of the protocol. If a policy set them, the message would break.
pub const CONNECTION_HEADERS: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "host",
];
/// The longest value of a header, in characters.
pub const LONGEST_VALUE: u32 = 4096;
/// Headers that a section sets. More of them would break the message: Envoy takes 100 headers in all.
pub const MOST_HEADERS: usize = 64;
/// Entries of `upstreams`: as many as there may be circuits. All are read on Envoy's main thread.
pub const MOST_UPSTREAMS: usize = 10_000;
/// No bound on calls needs more than this, and sums of it cannot overflow.
const MOST_CALLS: u32 = 1_000_000;

const fn field(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Field {
    // Meanings are for documents and tests. In the module they would only take space.
    let meaning = if cfg!(all(target_arch = "wasm32", not(feature = "testing"))) { "" } else { meaning };
    Field { name, kind, default, meaning }
}

/// The whole document.
pub static CONFIG: &[Field] = &[
    field("default", Kind::Section(POLICY), "{}", "the policy of every upstream"),
    field(
        "upstreams",
        Kind::Sections(UPSTREAM),
        "[]",
        "policies of some upstreams: `match` and any field of `default`",
    ),
    field("exempt", Kind::Section(EXEMPT), "{}", "requests that are never counted and never rejected"),
    field(
        "health",
        Kind::Section(HEALTH),
        "",
        "a path that the module answers itself, for probes from outside: 200, or 503 while upstreams are cut off",
    ),
    field("limits", Kind::Section(LIMITS), "{}", "what the module may take of the proxy"),
];

/// Fields of a policy. `default` has them, and so has an `upstreams` entry beside `match`.
pub static POLICY: &[Field] = &[
    field(
        "mode",
        Kind::Choice(&["enforce", "observe", "forceOpen", "disabled"]),
        r#""enforce""#,
        "`observe` does everything but reject; `forceOpen` rejects everything; `disabled` does nothing",
    ),
    field("trip", Kind::Section(TRIP), "{}", "CLOSED to OPEN when any condition holds; 0 switches one off"),
    field("failure", Kind::Section(FAILURE), "{}", "what counts as a failure"),
    field("open", Kind::Section(OPEN), "{}", "how long OPEN lasts"),
    field("halfOpen", Kind::Section(HALF_OPEN), "{}", "how traffic comes back"),
    field("rejection", Kind::Section(REJECTION), "{}", "what a rejected request gets"),
    field("fallback", Kind::Section(FALLBACK), "{}", "where a request goes instead of being rejected"),
];

/// Fields of an `upstreams` entry.
pub static UPSTREAM: &[Field] = &[
    field("match", Kind::Section(MATCH), "", "which upstreams; the most specific entry wins, whatever the order"),
    field("mode", Kind::Choice(&["enforce", "observe", "forceOpen", "disabled"]), "", "as in `default`"),
    field("trip", Kind::Section(TRIP), "", "as in `default`, field by field"),
    field("failure", Kind::Section(FAILURE), "", "as in `default`, field by field"),
    field("open", Kind::Section(OPEN), "", "as in `default`, field by field"),
    field("halfOpen", Kind::Section(HALF_OPEN), "", "as in `default`, field by field"),
    field("rejection", Kind::Section(REJECTION), "", "as in `default`, field by field"),
    field("fallback", Kind::Section(FALLBACK), "", "as in `default`; `headers: {}` switches it off"),
];

static MATCH: &[Field] = &[
    field("host", Kind::Text { max: LONGEST_NAME }, "", "host name; `*` only as the leading label"),
    field("port", Kind::Integer { min: 1, max: 65_535 }, "", "port"),
    field("subset", Kind::Text { max: LONGEST_NAME }, "", "DestinationRule subset"),
    field("cluster", Kind::Text { max: LONGEST_NAME }, "", "Envoy's cluster name as it is; alone"),
];

static TRIP: &[Field] = &[
    field("consecutiveFailures", Kind::Integer { min: 0, max: MOST_CALLS }, "5", "failures in a row, over all workers"),
    field("failureRatePercent", Kind::Percent, "50", "failures of the window's calls, with at least `minimumCalls`"),
    field(
        "slowCallRatePercent",
        Kind::Percent,
        "100",
        "slow calls of the window's calls, with at least `minimumCalls`",
    ),
    field(
        "slowCallDuration",
        Kind::Duration { min: 0 },
        r#""60s""#,
        "a call that waits so long for its answer's first byte is slow and one more failure in a row, at once and not \
        when it ends; it waits from its request's last byte on; `0s`: no call is slow",
    ),
    field(
        "latencyPercentile",
        Kind::Percent,
        "0",
        "this percentile of the window's latencies, with at least `minimumCalls`, ...",
    ),
    field(
        "latencyThreshold",
        Kind::Duration { min: 0 },
        r#""0s""#,
        "... is over this, exactly; a call's latency is the time to its answer's first byte, or to its end without one",
    ),
    field(
        "minimumCalls",
        Kind::Integer { min: 1, max: MOST_CALLS },
        "20",
        "calls in the window before a rate means anything",
    ),
    field("window", Kind::Section(WINDOW), r#"{"duration": "10s"}"#, "what the rates are taken over"),
];

static WINDOW: &[Field] = &[
    // Ten buckets of a tick each, and a tick is never shorter than 100 ms.
    field("duration", Kind::Duration { min: crate::clock::SECOND }, "", "the last so many seconds, in ten buckets"),
    field(
        "calls",
        Kind::Integer { min: 10, max: MOST_CALLS },
        "",
        "or the last so many calls, whatever their age; not fewer than `minimumCalls`",
    ),
];

static FAILURE: &[Field] = &[
    field(
        "httpStatus",
        Kind::Statuses,
        r#"["5xx"]"#,
        "an upstream's failing statuses: `429`, `\"5xx\"`, `\"500-504\"`",
    ),
    field(
        "grpcStatus",
        Kind::Choices(&GRPC_CODES),
        r#"["UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]"#,
        "failing gRPC statuses; a call that has one is judged by it alone",
    ),
    field(
        "upstreamErrors",
        Kind::Choices(&["connect", "timeout", "reset", "noHealthyUpstream", "overflow"]),
        r#"["connect", "timeout", "reset", "noHealthyUpstream"]"#,
        "what Envoy could not do with the upstream; the others are neutral",
    ),
    field(
        "clientCancel",
        Kind::ChoiceOrDuration(&["neutral", "failure"]),
        r#""10s""#,
        "a client that leaves: a failure where it had waited this long for its answer's first byte (or its own gRPC \
        deadline had); `failure`: whenever it leaves; `neutral`: never",
    ),
    field(
        "injectedFaults",
        Kind::Choice(&["neutral", "failure"]),
        r#""neutral""#,
        "faults that this proxy's own fault filter injects; `failure`: they count as the upstream's, for drills",
    ),
    field(
        "rateLimited",
        Kind::Choice(&["soft", "failure", "ignore"]),
        r#""soft""#,
        "429, RESOURCE_EXHAUSTED: `soft` is nothing in CLOSED and fails a probe",
    ),
    field(
        "attempts",
        Kind::Choice(&["final", "all"]),
        r#""final""#,
        "`final`: one outcome a request; `all`: attempts that Envoy's retries hid count as failed calls too",
    ),
];

/// gRPC's codes, by their numbers.
pub static GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

static OPEN: &[Field] = &[
    field("baseDuration", Kind::Duration { min: 100 * crate::clock::MILLISECOND }, r#""30s""#, "the first OPEN"),
    field("multiplier", Kind::Factor { min: 1.0, max: 100.0 }, "2", "n-th trip in a row: base x multiplier^(n-1)"),
    field(
        "maxDuration",
        Kind::Duration { min: 100 * crate::clock::MILLISECOND },
        r#""300s""#,
        "cap of it, before the jitter",
    ),
    field("jitterPercent", Kind::Percent, "20", "lengthens by up to so much, so that a fleet does not probe in step"),
    field(
        "maxRetryAfter",
        Kind::Duration { min: 0 },
        r#""300s""#,
        "an upstream's `retry-after` or `grpc-retry-pushback-ms` can lengthen the open time up to this; `0s` ignores it",
    ),
];

static REJECTION: &[Field] = &[
    field("status", Kind::Status, "503", "HTTP status (gRPC: always UNAVAILABLE)"),
    field("body", Kind::Text { max: LONGEST_BODY }, r#""upstream circuit is open\n""#, "body, and gRPC's message"),
    field("contentType", Kind::Line { max: 256 }, r#""text/plain""#, "its content type"),
    field("headers", Kind::Headers, "{}", "added to the reply"),
    field("retryAfter", Kind::Flag, "true", "say when to come back: `retry-after`, `grpc-retry-pushback-ms`"),
];

static FALLBACK: &[Field] = &[field(
    "headers",
    Kind::Headers,
    "{}",
    "set on a request that the circuit rejects, which is then routed again, once; none: it is rejected",
)];

static EXEMPT: &[Field] =
    &[field("paths", Kind::Paths, "[]", "paths without their query; `/x/*` stands for all below `/x/`")];

/// Fields of the health endpoint.
pub(super) static HEALTH: &[Field] = &[
    field("path", Kind::Path, "", "the path, exactly; a request with a query is another one"),
    field("upstreams", Kind::Hosts, "[]", "hosts whose circuits decide; none: all; those in `observe` never do"),
    field(
        "unhealthyWhen",
        Kind::ChoiceOrSection(&["any", "all"], UNHEALTHY),
        r#""any""#,
        "how many of them are OPEN, or in HALF_OPEN and still probed, ...",
    ),
    field("after", Kind::Duration { min: 0 }, r#""10s""#, "... for so long, before the answer is 503"),
    field(
        "recoverAfter",
        Kind::Duration { min: 0 },
        r#""30s""#,
        "for so long that must not be so, before the answer is 200 again",
    ),
    field("detail", Kind::Flag, "false", "name the upstreams in the answer"),
];

static UNHEALTHY: &[Field] = &[field("percent", Kind::Percent, "", "or this share of them")];

static LIMITS: &[Field] = &[
    field(
        "maxCircuits",
        Kind::Integer { min: 1, max: 10_000 },
        "1024",
        "past it the CLOSED circuit that was idle for longest makes room, if for a minute at least; else new upstreams pass \
         through unprotected, and a metric counts them",
    ),
    field(
        "idleCircuit",
        Kind::Duration { min: crate::clock::SECOND },
        r#""1h""#,
        "a circuit that no request was for in so long ends, unless it is OPEN; the next request begins another one",
    ),
    field(
        "latencyHistograms",
        Kind::Integer { min: 0, max: 10_000 },
        "128",
        "upstreams with a `circuit_breaker_latency_ms`, first come, first served: Envoy takes several KB for each",
    ),
];

/// Sections that are a match or a window. If one is given again it replaces the earlier one as a whole.
pub(super) fn merges(name: &str) -> bool {
    !matches!(name, "match" | "window" | "headers")
}
