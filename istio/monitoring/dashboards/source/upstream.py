"""Upstream: all that the mesh knows of one service as an upstream: state, calls, causes, speed, hosts and pool."""

from board import UPSTREAM, dashboard, one_upstream, proxies
from panels import (BLUE, FAILURES, GREEN, OUTCOMES, PURPLE, QUANTILES, RED, REJECTIONS, SOURCE, STATE_WORDS, STATES, TEXT, TRIPS,
                    YELLOW, lines, stat, steps, timeline, words)
from queries import RANGE, RATE, grown, query

# The worst of the subsets that are chosen, in each proxy.
HERE = "max by (cluster, namespace, pod) (circuit_breaker_state{U})"
CALLS = f"sum(rate(circuit_breaker_calls_total{{U}}[{RATE}]))"
JUDGED = f'sum(rate(circuit_breaker_calls_total{{U,component=~"success|failure|slow"}}[{RATE}]))'
FAILED = f'(sum(rate(circuit_breaker_calls_total{{U,component="failure"}}[{RATE}])) or vector(0))'
REJECTED = f"(sum(rate(circuit_breaker_rejected_total{{U}}[{RATE}])) or vector(0))"
SERVED = f'sum(rate(circuit_breaker_calls_total{{U,component=~"success|slow"}}[{RATE}]))'


def quantile(share, histogram, time=RATE):
    """A quantile of one of the breaker's histograms, in seconds."""
    buckets = histogram + "_bucket{U}"
    counts = grown(buckets, time) if time == RANGE else f"(rate({buckets}[{time}]))"
    return f"histogram_quantile({share}, sum by (le) {counts}) / 1000"


NUMBERS = [
    (stat("State", "The worst over all proxies.", [("max(circuit_breaker_state{U})", "state")], mappings=words(STATES),
          thresholds=steps((None, GREEN), (1, YELLOW), (2, RED))), 4),
    (stat("Proxies OPEN", "Proxies that send it nothing now, of those that know it.",
          [(f"count({HERE} >= 2) or vector(0)", "OPEN"), (f"count({HERE})", "of all")], text="value_and_name",
          thresholds=steps((None, TEXT))), 5),
    (stat("Next probe in", "Until the proxy that waits longest tests it again. While it is not OPEN there is nothing to wait for.",
          [("clamp_min(max(circuit_breaker_open_until_seconds{U} > 0) - time(), 0)", "next probe")], unit="s", decimals=0, none="–"), 3),
    (stat("Calls that did not fail", "Of the calls that were sent to it and say something about it. Slow ones did not fail.",
          [(f"1 - {FAILED} / {JUDGED}", "success")], unit="percentunit", decimals=1,
          thresholds=steps((None, RED), (0.95, YELLOW), (0.99, TEXT)), none="no calls"), 4),
    (stat("Rejected", "Of the requests for it, those that the breaker answered itself.",
          [(f"{REJECTED} / ({REJECTED} + {CALLS})", "rejected")], unit="percentunit", decimals=1,
          thresholds=steps((None, TEXT), (0.001, PURPLE)), none="no requests"), 4),
    (stat("Answers within (p95)", "To the first byte of the answer, for calls that were sent.",
          [(quantile(0.95, "circuit_breaker_latency_ms"), "p95")], unit="s", none="no calls"), 4),
]

STORY = [
    (timeline("State in each proxy", "Of each proxy in which it was not CLOSED at some time in this range.",
              [("""max by (namespace, pod) (circuit_breaker_state{U})
                  and on (namespace, pod) max by (namespace, pod) (max_over_time(circuit_breaker_state{U}[$__range])) > 0""", "{{pod}}")],
              none="CLOSED in all proxies."), 16),
    (lines("Proxies by state", "How many proxies hold which state: do all see the same fault?",
           [(f"count({HERE} == 0)", "CLOSED"), (f"count({HERE} == 1)", "HALF_OPEN"), (f"count({HERE} >= 2)", "OPEN")], stack=True,
           decimals=0, named=STATE_WORDS), 8),
]

REQUESTS = [
    (lines("Requests by outcome",
           """All requests for it. rejected: the breaker answered. neutral: the call says nothing about its present state, such as one that the
           client gave up.""",
           [(f"sum by (component) (rate(circuit_breaker_calls_total{{U}}[{RATE}]))", "{{component}}"),
            (f"sum(rate(circuit_breaker_rejected_total{{U}}[{RATE}]))", "rejected"),
            (f"sum(rate(circuit_breaker_fallback_total{{U}}[{RATE}]))", "fallback")], unit="reqps", stack=True, named=OUTCOMES), 12),
    (lines("Success rate",
           """upstream: of the calls that were sent. callers: of all requests, rejections among them; without the breaker these would have been
           failures or waits. The fallback's answers are not in it.""",
           [(f"1 - {FAILED} / {JUDGED}", "upstream"), (f"{SERVED} / ({CALLS} + {REJECTED})", "callers")], unit="percentunit", maximum=1,
           named={"upstream": BLUE, "callers": PURPLE}), 12),
]

CAUSES = [
    (lines("Failures by kind",
           """http: a status that the policy calls a failure. timeout: the route gave up. connect, reset: the connection.
           no_healthy_upstream: all hosts ejected or gone.""",
           [(f"sum by (component) (rate(circuit_breaker_failures_total{{U}}[{RATE}]))", "{{component}}")], unit="reqps", stack=True,
           none="No call failed.", named=FAILURES), 8),
    (lines("Trips by reason", "Circuits that opened, over all proxies. probe_failed and ramp_failed: it was not well yet.",
           [(f"sum by (component) {grown('circuit_breaker_trips_total{U}', RATE)}", "{{component}}")], bars=True, decimals=0,
           none="Nothing tripped.", named=TRIPS), 8),
    (lines("Rejected by reason", "open, probe_limit, ramp: the circuit's state. forced: a policy says forceOpen. would reject: in observe.",
           [(f"sum by (component) (rate(circuit_breaker_rejected_total{{U}}[{RATE}]))", "{{component}}"),
            (f"sum(rate(circuit_breaker_would_reject_total{{U}}[{RATE}]))", "would reject")], unit="reqps", stack=True,
           none="Nothing was rejected.", named=REJECTIONS), 8),
]

SPEED = [
    (lines("Time to the answer",
           """From the request's last byte to the answer's first, of calls that were sent. Only the first limits.latencyHistograms upstreams of a
           proxy have it.""",
           [(quantile(share, "circuit_breaker_latency_ms"), name) for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))],
           unit="s", none="No calls.", named=QUANTILES), 8),
    (stat("Recovery (p50, p95)",
          "From the first OPEN to CLOSED again, so all trips in a row are one recovery. Those that ended in this range.",
          [(quantile(share, "circuit_breaker_recovery_time_ms", RANGE), name) for share, name in ((0.5, "p50"), (0.95, "p95"))],
          unit="s", none="no recovery ended", text="value_and_name", decimals=1), 4),
    (lines("The breaker's own probes",
           """Only with halfOpen.activeProbe. Failures that go on while the upstream is well: its path is not there, or not allowed.""",
           [(f"sum by (component) (rate(circuit_breaker_probes_total{{U}}[{RATE}]))", "{{component}}")], unit="reqps",
           none="No probes of its own.", named={"success": GREEN, "failure": RED}), 6),
    (lines("Slow calls and waits beyond latencyThreshold",
           """slow: calls that took slowCallDuration or more; one that hangs is here as soon as it has waited that long. over the threshold:
           only where a policy sets latencyThreshold.""",
           [(f'sum(rate(circuit_breaker_calls_total{{U,component="slow"}}[{RATE}]))', "slow"),
            (f"sum(rate(circuit_breaker_over_threshold_total{{U}}[{RATE}]))", "over the threshold")], unit="reqps",
           none="No slow calls.", named={"slow": YELLOW, "over the threshold": PURPLE}), 6),
]

POOL = "envoy_cluster_circuit_breakers_default_"


def in_use(active, remaining):
    """The share of a pool that is in use, in the proxy where it is largest."""
    return f"max(envoy_cluster_{active}{{C}} / (envoy_cluster_{active}{{C}} + {POOL}{remaining}{{C}}))"


HOSTS = [
    (lines("Hosts that outlier detection has ejected",
           """In the proxy that has ejected most. ejections/s: over all proxies. It takes out single bad hosts; the breaker acts when the rest
           does not help.""",
           [("max(envoy_cluster_outlier_detection_ejections_active{C})", "ejected now"),
            (f"sum(rate(envoy_cluster_outlier_detection_ejections_enforced_total{{C}}[{RATE}]))", "ejections/s")],
           none="No series: set proxyStatsMatcher (istio/monitoring/README.md).", about=1), 8),
    (lines("Pool in use",
           """Of what the DestinationRule's connectionPool allows, in the proxy where it is fullest. Open connections count, also idle ones; requests
           are turned away when waiting is at 100 %. Needs DISABLE_TRACK_REMAINING_CB_METRICS=false on istiod, as well.""",
           [(in_use("upstream_cx_active", "remaining_cx"), "connections"), (in_use("upstream_rq_active", "remaining_rq"), "requests"),
            (in_use("upstream_rq_pending_active", "remaining_pending"), "waiting")], unit="percentunit", maximum=1, limit=0.8, decimals=0,
           none="No series: set proxyStatsMatcher (istio/monitoring/README.md)."), 8),
    (lines("Turned away by a full pool",
           """Requests a second for which there was no room to wait, over all proxies. full: proxies whose pool is full now. Neutral to the
           breaker, unless the policy's upstreamErrors names overflow.""",
           [(f"sum(rate(envoy_cluster_upstream_rq_pending_overflow{{C}}[{RATE}]))", "turned away/s"),
            (f"sum({POOL}cx_open{{C}})", "connections full"), (f"sum({POOL}rq_pending_open{{C}})", "waiting full")],
           none="No series: set proxyStatsMatcher (istio/monitoring/README.md).", about=1), 8),
]

USERS = [
    (lines("Answers by status, as callers got them (Istio's telemetry)",
           """By the proxies that call it; needs Istio's own proxy image and a metrics provider. A rejection is a 503 here, too: the difference to
           the breaker's own count is the upstream's.""",
           [(f'sum by (response_code) (rate(istio_requests_total{{P,reporter="source",destination_service=~"$host"}}[{RATE}]))',
             "{{response_code}}")], unit="reqps", stack=True, none="No istio_requests_total."), 12),
    (lines("503 by cause (Istio's telemetry)",
           """503 of every kind beside the breaker's rejections. UH: no healthy host. UO: the pool is full. UF, UC: the connection. A dash or
           nothing: the upstream's own, or a rejection.""",
           [(f"""sum by (response_flags) (rate(istio_requests_total{{P,reporter="source",destination_service=~"$host",
               response_code="503"}}[{RATE}]))""", "503 {{response_flags}}"),
            (f"sum(rate(circuit_breaker_rejected_total{{U}}[{RATE}]))", "rejected")], unit="reqps", none="No istio_requests_total."), 12),
]

# Grafana makes one region of points that follow each other: the shade is the time for which some proxy was OPEN.
OPEN = {
    "name": "OPEN", "enable": True, "hide": False, "iconColor": RED, "datasource": SOURCE, "step": "15s",
    "expr": query("max by (tag) (circuit_breaker_state{U}) >= 2"), "titleFormat": "OPEN", "textFormat": "{{tag}}", "tagKeys": "",
    "useValueForTime": False,
}

BOARD = dashboard(
    UPSTREAM, "One upstream: its state in each proxy, its calls, why it failed, how it recovers, its hosts and its pool.",
    proxies() + one_upstream(),
    [(None, [(4, NUMBERS), (7, STORY), (9, REQUESTS)]),
     ("Why", [(8, CAUSES), (8, SPEED)]),
     ("Hosts and connection pool", [(8, HOSTS)]),
     ("What its callers got", [(8, USERS)])],
    [OPEN])
