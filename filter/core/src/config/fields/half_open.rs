//! The fields of `halfOpen`.

use super::{Field, Kind, LONGEST_NAME, field};
use crate::clock::MILLISECOND;
use crate::policy::MOST_PROBES;

pub(super) static HALF_OPEN: &[Field] = &[
    field(
        "maxConcurrentProbes",
        Kind::Integer { min: 1, max: MOST_PROBES },
        "1",
        "probes in flight over all workers of the proxy",
    ),
    field("successThreshold", Kind::Integer { min: 1, max: 1000 }, "3", "good probes before the ramp"),
    field(
        "probeTimeout",
        Kind::Duration { min: 100 * MILLISECOND },
        "",
        "a probe that waits so long for its answer has failed; if not given, `slowCallDuration`, or 60s where that is off",
    ),
    field(
        "activeProbe",
        Kind::Section(ACTIVE_PROBE),
        "{}",
        "a request that the breaker itself sends to test the upstream; users' requests are rejected until such probes were good",
    ),
    field("ramp", Kind::Section(RAMP), "{}", "the way from a few calls to all of them"),
];

pub(in crate::config) static ACTIVE_PROBE: &[Field] = &[
    field(
        "path",
        Kind::Visible { begins: "/", max: LONGEST_NAME },
        "",
        "path and query, such as `/healthz`; if not given, or empty: there are no such probes, and users' requests test",
    ),
    field("method", Kind::Choice(&["GET", "HEAD"]), r#""GET""#, "method"),
    field(
        "authority",
        Kind::Visible { begins: "", max: LONGEST_NAME },
        r#""""#,
        "its `host`; empty: the upstream's own host",
    ),
    field("headers", Kind::Headers, "{}", "further headers"),
    field(
        "interval",
        Kind::Duration { min: 100 * MILLISECOND },
        r#""1s""#,
        "from one probe to the next; one is in flight at a time, over all workers of the proxy",
    ),
    field(
        "timeout",
        Kind::Duration { min: 100 * MILLISECOND },
        r#""1s""#,
        "a probe that has no whole answer by then has failed",
    ),
    field(
        "expectedStatus",
        Kind::Statuses,
        r#"["2xx"]"#,
        "statuses of good answers, below 500; with any other the probe has failed",
    ),
];

static RAMP: &[Field] = &[
    field("initialPercent", Kind::Percent, "10", "share of requests admitted at first"),
    field(
        "duration",
        Kind::Duration { min: 0 },
        r#""30s""#,
        "to 100 percent, by evidence; `0s` goes straight to CLOSED",
    ),
];
