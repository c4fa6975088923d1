"""How the dashboards ask: label selectors, and the forms that several panels share.

A query names its selector by a letter, so that it stays readable:

    {B}  the breaker's series, of the proxies that the dashboard's variables choose
    {U}  the same, of one upstream
    {P}  series of Envoy, of Istio's agent or of Kubernetes, of these proxies
    {C}  Envoy's series of the one upstream's cluster

More labels go behind the letter: `{B,component="open"}`.
"""

import re

_PROXIES = 'cluster=~"$cluster",namespace=~"$namespace"'
_BREAKER = 'wasm_filter="circuit_breaker",' + _PROXIES
# Envoy's name of an upstream is outbound|PORT|SUBSET|HOST on Istio, inbound-vip|... at a waypoint, and anything on a bare Envoy.
_UPSTREAM = '"([a-z-]+[|][0-9]+[|]$subset[|])?$host"'

SELECTORS = {
    "B": _BREAKER,
    "U": f"{_BREAKER},tag=~{_UPSTREAM}",
    "P": _PROXIES,
    "C": f"{_PROXIES},cluster_name=~{_UPSTREAM}",
}

# What takes Envoy's name apart: in variables, in names of series, in cells of tables.
HOST_OF = r"/^(?:[a-z-]+\|\d+\|[^|]*\|)?(.+)$/"
SUBSET_OF = r"/^[a-z-]+\|\d+\|([^|]+)\|/"
NAME = r"[a-z-]+\|(\d+)\|([^|]*)\|(.+?)(?:\.svc\.cluster\.local)?$"
SHORT = "$3:$1 $2"

RATE = "$__rate_interval"
RANGE = "$__range"


def query(text, pod=False):
    """The query with its selectors written out. `pod`: the dashboard has a variable for the proxy, too."""
    def selector(match):
        more = ',pod=~"$pod"' if pod else ""
        return "{" + SELECTORS[match[1]] + more + (match[2] or "") + "}"

    return re.sub(r"\{([BUPC])(,[^{}]*)?\}", selector, " ".join(text.split()))


def grown(series, time):
    """How much a counter has grown. Its series begins with its first count, which `increase` does not see: a new one counts whole."""
    return f"(({series} unless {series} offset {time}) or increase({series}[{time}]))"


def split(text):
    """The series with labels for the parts of the upstream's name, for tables."""
    for label, part in (("host", "$3"), ("subset", "$2"), ("port", "$1")):
        text = f'label_replace({text}, "{label}", "{part}", "tag", "[a-z-]+[|]([0-9]+)[|]([^|]*)[|](.+)")'
    return text
