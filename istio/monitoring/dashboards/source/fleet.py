"""Fleet: which upstreams are cut off, in how many proxies, what that costs, and whether the breaker itself is well."""

from board import FLEET, UPSTREAM, dashboard, proxies
from panels import (ERRORS, MODES, PURPLE, REJECTIONS, RED, STATES, TEXT, TRIPS, YELLOW, bars, lines, stat, steps, table, timeline, words)
from queries import RANGE, RATE, grown, split

WORST = "max by (tag) (circuit_breaker_state{B})"
TROUBLED = f"{WORST} and on (tag) max by (tag) (max_over_time(circuit_breaker_state{{B}}[{RANGE}])) > 0"
MISSING = """max by (cluster, namespace, pod) (envoy_server_live{P})
    unless on (cluster, namespace, pod) circuit_breaker_circuits{B}"""

NUMBERS = [
    (stat("OPEN", "Upstreams to which at least one proxy sends nothing now.",
          [(f"count({WORST} >= 2) or vector(0)", "OPEN")], thresholds=steps((None, TEXT), (1, RED))), 3),
    (stat("HALF_OPEN", "Upstreams on their way back: probes or a growing share of requests reach them, and no proxy is OPEN.",
          [(f"count({WORST} == 1) or vector(0)", "HALF_OPEN")], thresholds=steps((None, TEXT), (1, YELLOW))), 3),
    (stat("CLOSED", "Upstreams to which all proxies send everything. Those that nobody calls any more are not counted.",
          [(f"count({WORST} == 0) or vector(0)", "CLOSED")]), 3),
    (stat("Rejected", "Requests a second that the breaker answered in the upstream's place, over all proxies.",
          [(f"sum(rate(circuit_breaker_rejected_total{{B}}[{RATE}])) or vector(0)", "rejected")], unit="reqps",
          thresholds=steps((None, TEXT), (0.01, PURPLE)), spark=True), 5),
    (stat("With the breaker", "Proxies that run the breaker.", [("count(circuit_breaker_circuits{B}) or vector(0)", "with")]), 3),
    (stat("Without the breaker", """Proxies that are scraped and run no breaker: never chosen by a plugin, or they could not fetch the module
          and let traffic pass unprotected. Choose the namespaces that should have it.""",
          [(f"count({MISSING}) or vector(0)", "without")], thresholds=steps((None, TEXT), (1, YELLOW))), 4),
    (stat("Firing alerts", "Alerts of circuit-breaker-prometheusRule.yaml that fire now. Each has a runbook.",
          [('count(ALERTS{alertstate="firing",alertname=~"CircuitBreaker.*"}) or vector(0)', "firing")],
          thresholds=steps((None, TEXT), (1, RED))), 3),
]

STORY = timeline("Upstreams that were not CLOSED",
                 """The worst state over all proxies, of each upstream that was not CLOSED at some time in this range. An upstream that is
                 missing here was well. A row begins when its upstream left CLOSED for the first time.""",
                 [(TROUBLED, "{{tag}}")], none="All upstreams were CLOSED.", short=True)

ROW_LINK = {
    "title": "Open this upstream",
    "url": f"/d/{UPSTREAM}?${{datasource:queryparam}}&${{cluster:queryparam}}&${{namespace:queryparam}}&${{__url_time_range}}"
           "&var-host=${__data.fields.Host}",
    "targetBlank": False,
}

CUT_OFF = table("Not CLOSED now",
                """Who is cut off, in how many proxies, and when the next probe goes out. A circuit is a proxy's own, so proxies may differ.
                A click on a host opens its dashboard.""",
                [(f"{split(WORST + ' > 0')}", "state"),
                 ("count by (tag) (circuit_breaker_state{B} >= 2)", "open"),
                 (f"count by (tag) (circuit_breaker_state{{B}}) and on (tag) {WORST} > 0", "all"),
                 ("clamp_min(max by (tag) (circuit_breaker_open_until_seconds{B} > 0) - time(), 0)", "next"),
                 (f"sum by (tag) (rate(circuit_breaker_rejected_total{{B}}[{RATE}])) and on (tag) {WORST} > 0", "rejected"),
                 (f"sum by (tag) {grown('circuit_breaker_trips_total{B}', RANGE)} and on (tag) {WORST} > 0", "trips")],
                [("host", "Host", [("links", [ROW_LINK]), ("custom.width", 310)]), ("subset", "Subset", [("custom.width", 100)]),
                 ("port", "Port", [("custom.width", 80)]),
                 ("#A", "State", [("mappings", words(STATES)), ("thresholds", steps((None, TEXT), (1, YELLOW), (2, RED))),
                                  ("custom.cellOptions", {"type": "color-text"}), ("custom.width", 120)]),
                 ("#B", "Proxies OPEN", [("custom.width", 130)]), ("#C", "of all", [("custom.width", 90)]),
                 ("#D", "Next probe in", [("unit", "s"), ("decimals", 0)]),
                 ("#E", "Rejected", [("unit", "reqps")]), ("#F", "Trips", [("decimals", 0)])],
                join="tag", none="All upstreams are CLOSED.", sort="Rejected")

HARM = [
    (lines("Rejected by reason",
           """open: the circuit is OPEN. probe_limit: it is HALF_OPEN and has its probes. ramp: over the share that the ramp lets pass. forced: a
           policy says forceOpen.""",
           [(f"sum by (component) (rate(circuit_breaker_rejected_total{{B}}[{RATE}]))", "{{component}}")], unit="reqps", stack=True,
           none="Nothing was rejected.", named=REJECTIONS), 8),
    (bars("Ten upstreams that lost most requests", "Requests that were rejected in this range: what users did not get.",
          [(f"topk(10, sum by (tag) {grown('circuit_breaker_rejected_total{B}', RANGE)} > 0)", "{{tag}}")], none="Nothing was rejected.",
          short=True, color=PURPLE), 8),
    (lines("Would have been rejected (observe)",
           """What enforce would have rejected, by upstream. Nothing was. Look here for a week before you enforce: a line without an outage
           means that a threshold is too low.""",
           [(f"sum by (tag) (rate(circuit_breaker_would_reject_total{{B}}[{RATE}]))", "{{tag}}")], unit="reqps", stack=True, short=True,
           none="No upstream is observed, or all were well."), 8),
]

CAUSES = [
    (lines("Trips by reason",
           """Circuits that opened, over all proxies. consecutive: failures in a row. failure_rate, slow_rate, latency: a share or percentile of
           the window. probe_failed, ramp_failed: it was not well yet.""",
           [(f"sum by (component) {grown('circuit_breaker_trips_total{B}', RATE)}", "{{component}}")], bars=True, decimals=0,
           none="Nothing tripped.", named=TRIPS), 8),
    (lines("Share of proxies that agree",
           """Of the proxies that know an upstream, those in its commonest state. Low for long: some see a fault that others do not, such as one
           zone's network, or they have different policies.""",
           [("""max by (tag) (count_values by (tag) ("state", circuit_breaker_state{B}))
               / on (tag) count by (tag) (circuit_breaker_state{B})
               and on (tag) max by (tag) (max_over_time(circuit_breaker_state{B}[$__range])) > 0""", "{{tag}}")], unit="percentunit",
           maximum=1, short=True, none="All upstreams were CLOSED."), 8),
    (timeline("Not in enforce",
              "Upstreams whose mode was something other than enforce: what the breaker sees there, it may not act upon.",
              [("max by (tag) (circuit_breaker_mode{B}) > 0", "{{tag}}")], MODES, none="All upstreams are in enforce.", short=True), 8),
]

ITSELF = [
    (table("Policies and modules in use",
           """Proxies by the policy that they use and the module that runs it: more than one line for long is a rollout that is stuck, or two
           overlays.""",
           [("count by (component, tag) (circuit_breaker_info{B} == 1)", "proxies")],
           [("component", "Policy", []), ("tag", "Module", []), ("#A", "Proxies", [])], none="No proxy runs the breaker."), 8),
    (table("Proxies without the breaker", "Which they are. The runbook of CircuitBreakerMissing has the reasons and what to do.",
           [(MISSING, "live")], [("namespace", "Namespace", []), ("pod", "Proxy", [])], none="All proxies run the breaker."), 8),
    (lines("Own errors",
           """Where the breaker could not do its work, and let a request pass. record, cas, host: a fault of the module or of Envoy. config: a
           policy was refused, and the old one serves.""",
           [(f"sum by (component) {grown('circuit_breaker_internal_errors_total{B}', RATE)}", "{{component}}")], bars=True, decimals=0,
           none="None.", named=ERRORS), 8),
]

BOARD = dashboard(
    FLEET, """Which upstreams are cut off, since when, in how many proxies, and what that costs. Start here.""", proxies(),
    [(None, [(4, NUMBERS), (8, [(STORY, 24)]), (7, [(CUT_OFF, 24)])]),
     ("What it costs, and why", [(8, HARM), (8, CAUSES)]),
     ("The breaker itself", [(7, ITSELF)])])
