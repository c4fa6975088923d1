"""A dashboard: its variables, its links to the others, and where each panel stands."""

from queries import HOST_OF, SUBSET_OF, query
from panels import SOURCE

FLEET, UPSTREAM, PROXY = "circuit-breaker-fleet", "circuit-breaker-upstream", "circuit-breaker-proxy"
TITLES = {FLEET: "Circuit breaker / Fleet", UPSTREAM: "Circuit breaker / Upstream", PROXY: "Circuit breaker / Proxy"}
WIDTH = 24


def source_variable():
    """Which Prometheus."""
    return {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "regex": "", "hide": 0,
            "includeAll": False, "multi": False, "refresh": 1, "options": [], "current": {}}


def variable(name, label, series, of, regex="", everything=".*", many=True):
    """A variable with the values of a label. `everything`: the pattern that stands for all; none: one value must be chosen."""
    made = {"type": "query", "name": name, "label": label, "datasource": SOURCE, "regex": regex, "hide": 0, "sort": 1, "refresh": 2,
            "options": [], "current": {}, "multi": many,
            "query": {"query": f"label_values({query(series)}, {of})", "refId": "Variable"}, "includeAll": everything is not None}
    if everything is not None:
        made["allValue"] = everything
        made["current"] = {"selected": True, "text": "All", "value": "$__all"}
    return made


def proxies():
    """The variables of every dashboard. Where no label `cluster` exists, All stands for its absence, too."""
    ours = 'circuit_breaker_circuits{wasm_filter="circuit_breaker"'
    return [
        source_variable(),
        variable("cluster", "Cluster", ours + "}", "cluster"),
        variable("namespace", "Proxies in namespace", ours + ',cluster=~"$cluster"}', "namespace"),
    ]


def one_upstream():
    """The variables that choose an upstream."""
    return [
        variable("host", "Host", "circuit_breaker_state{B}", "tag", HOST_OF, everything=None, many=False),
        variable("subset", "Subset", "circuit_breaker_state{B}", "tag", SUBSET_OF, everything="[^|]*"),
    ]


def link(uid):
    """A link to another dashboard, with time and variables."""
    return {"type": "link", "title": TITLES[uid].split(" / ")[1], "url": f"/d/{uid}", "icon": "dashboard", "tooltip": TITLES[uid],
            "asDropdown": False, "includeVars": True, "keepTime": True, "targetBlank": False, "tags": []}



def place(rows):
    """Puts rows of panels one below the other. A row: its title or None, and lists of (panel, width) with their height."""
    placed, top, number = [], 0, 1
    for title, bands in rows:
        if title:
            placed.append({"type": "row", "id": number, "title": title, "collapsed": False, "panels": [],
                           "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}})
            top, number = top + 1, number + 1
        for height, band in bands:
            assert sum(width for _, width in band) == WIDTH, f"a band of {title} is not {WIDTH} wide"
            left = 0
            for one, width in band:
                assert one["description"], f"{one['title']} has no description"
                placed.append({"id": number, "gridPos": {"x": left, "y": top, "w": width, "h": height}, **one})
                left, number = left + width, number + 1
            top += height
    return placed


def dashboard(uid, description, variables, rows, annotations=()):
    """The whole document."""
    return {
        "uid": uid, "title": TITLES[uid], "description": " ".join(description.split()), "tags": ["circuit-breaker", "istio", "envoy"],
        "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"}, "fiscalYearStartMonth": 0, "liveNow": False,
        "links": [link(other) for other in TITLES if other != uid],
        "templating": {"list": variables}, "annotations": {"list": list(annotations)}, "panels": place(rows),
    }
