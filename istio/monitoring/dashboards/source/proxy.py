"""Proxy: what the breaker costs a gateway or sidecar, and how near its limits are."""

from board import PROXY, dashboard, proxies, variable
from panels import ERRORS, RED, TEXT, YELLOW, lines, stat, steps, table
from queries import RATE, grown

# The default of limits.maxCircuits.
CIRCUITS = 1024


def most(text):
    """The ten proxies with most: a mesh has hundreds, and lines as many would show nothing."""
    return f"topk(10, {text})"


def numbers():
    """The first band."""
    return [
        (stat("Proxies", "Proxies that run the breaker, of those chosen above.", [("count(circuit_breaker_circuits{B})", "proxies")],
              pod=True), 4),
        (stat("Most circuits in one", f"One circuit for each upstream that was called in the last hour. The default limit is {CIRCUITS}.",
              [("max(circuit_breaker_circuits{B})", "circuits")], thresholds=steps((None, TEXT), (0.9 * CIRCUITS, YELLOW)), pod=True), 5),
        (stat("Unprotected", "Requests a second without a circuit, because limits.maxCircuits was reached.",
              [(f"sum(rate(circuit_breaker_unprotected_total{{B}}[{RATE}])) or vector(0)", "unprotected")], unit="reqps",
              thresholds=steps((None, TEXT), (0.001, YELLOW)), pod=True), 5),
        (stat("Own errors", "In this range. Each let its request pass.",
              [(f"sum {grown('circuit_breaker_internal_errors_total{B}', '$__range')} or vector(0)", "errors")], decimals=0,
              thresholds=steps((None, TEXT), (1, RED)), pod=True), 5),
        (stat("Restarted lately", "Proxies that have run for less than ten minutes: their circuits began CLOSED.",
              [("count(envoy_server_uptime{P} < 600) or vector(0)", "restarted")], pod=True), 5),
    ]


HELD = [
    (lines("Circuits held", f"By proxy. The line is the default of limits.maxCircuits, {CIRCUITS}; a policy may set another.",
           [(most("max by (pod) (circuit_breaker_circuits{B})"), "{{pod}}")], limit=CIRCUITS, decimals=0, pod=True), 8),
    (lines("Requests that the breaker handled",
           """Calls that it let pass and requests that it rejected. unprotected: requests that passed without a circuit, because
           limits.maxCircuits was reached.""",
           [(most(f"""sum by (pod) (rate(circuit_breaker_calls_total{{B}}[{RATE}]))
               + (sum by (pod) (rate(circuit_breaker_rejected_total{{B}}[{RATE}]))
                 or 0 * sum by (pod) (rate(circuit_breaker_calls_total{{B}}[{RATE}])))"""), "{{pod}}"),
            (most(f"sum by (pod) (rate(circuit_breaker_unprotected_total{{B}}[{RATE}]))"), "unprotected {{pod}}")], unit="reqps", pod=True), 8),
    (lines("Own errors",
           """Where the breaker could not do its work, and let a request pass. record, cas, host: a fault of the module or of Envoy. config: a
           policy was refused, and the old one serves.""",
           [(f"sum by (component) {grown('circuit_breaker_internal_errors_total{B}', RATE)}", "{{component}}")], bars=True, decimals=0,
           none="None.", pod=True, named=ERRORS), 8),
]

COST = [
    (lines("Memory of Envoy",
           """What Envoy has allocated, the modules' own memory among it. Its resident memory is larger: the compiled module, and what its
           allocator keeps.""",
           [(most("max by (pod) (envoy_server_memory_allocated{P})"), "{{pod}}")], unit="bytes", pod=True), 8),
    (lines("Processor time of the proxy's container", "In cores, of the ten that use most. From the kubelet (cAdvisor): most clusters scrape it.",
           [(most(f'sum by (pod) (rate(container_cpu_usage_seconds_total{{P,container="istio-proxy"}}[{RATE}]))'), "{{pod}}")], unit="none",
           decimals=2, pod=True, none="No container_cpu_usage_seconds_total."), 8),
    (lines("Changes of circuits",
           """Writes of a circuit's record a second: trips, probes, ramps. Calls of a healthy upstream write none. A high rate that lasts is a
           circuit that flaps.""",
           [(most(f'sum by (pod) (rate(circuit_breaker_shared{{B,component=~"epoch-.*",tag=""}}[{RATE}]))'), "{{pod}}")], unit="wps", pod=True), 8),
]

MACHINERY = [
    (lines("WebAssembly VMs",
           """active: one for each worker, one for Envoy's main thread, and one that keeps the module, for each plugin. An update has both
           generations until its old requests end.""",
           [(most("max by (pod) (envoy_wasm_envoy_wasm_runtime_v8_active{P})"), "{{pod}}")], decimals=0, pod=True), 8),
    (lines("Fetches of the module",
           """By the agents: what they did when a plugin named a module that they did not have. Anything but success means that a proxy runs
           without the breaker, or with its last one.""",
           [(f"sum by (result) {grown('istio_agent_wasm_remote_fetch_count{P}', RATE)}", "{{result}}")], bars=True, decimals=0, pod=True,
           none="No istio_agent_wasm_remote_fetch_count: only port 15020 has it."), 8),
    (lines("Threads that were late",
           """Times that a thread of Envoy did not come back for 200 ms. Workers that are late make calls slow without the upstream's doing.""",
           [(most(f"sum by (pod) (rate(envoy_server_watchdog_miss{{P}}[{RATE}]))"), "{{pod}}")], about=1, pod=True), 8),
]

WHO = table("Policies, modules and proxies",
            "Which proxy uses which policy (its hash) by which module (its version and the hash of its code).",
            [("circuit_breaker_info{B} == 1", "proxies")],
            [("namespace", "Namespace", []), ("pod", "Proxy", []), ("component", "Policy", []), ("tag", "Module", [])],
            none="No proxy runs the breaker.", pod=True)

BOARD = dashboard(
    PROXY, "What the breaker costs a gateway or sidecar, how many circuits it holds, and whether it could do its work.",
    proxies() + [variable("pod", "Proxy", "circuit_breaker_circuits{B}", "pod")],
    [(None, [(4, numbers())]), ("Circuits", [(8, HELD)]), ("Cost", [(8, COST), (8, MACHINERY)]), ("Which", [(7, [(WHO, 24)])])])
