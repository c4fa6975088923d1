"""Grafana's panels, as few kinds as the dashboards need, and one look for all of them.

Colours have one meaning: green passes, yellow is on its way back, red is kept out, grey says nothing, blue is a plain number.
A panel must have a description: `dashboard` refuses one without.
"""

from queries import NAME, SHORT, query

GREEN, YELLOW, RED, BLUE, PURPLE = "semi-dark-green", "semi-dark-yellow", "semi-dark-red", "semi-dark-blue", "semi-dark-purple"
ORANGE, GREY, TEXT = "semi-dark-orange", "#7d8590", "text"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

STATES = [(0, "CLOSED", GREEN), (1, "HALF_OPEN", YELLOW), (2, "OPEN", RED)]
MODES = [(0, "enforce", GREEN), (1, "observe", BLUE), (2, "disabled", GREY), (3, "forceOpen", RED)]

# What the words in a legend look like: the same wherever they come, and none is green that is not good.
OUTCOMES = {"success": GREEN, "slow": YELLOW, "failure": RED, "neutral": GREY, "rejected": PURPLE, "fallback": BLUE}
STATE_WORDS = {word: color for _, word, color in STATES}
REJECTIONS = {"open": PURPLE, "probe_limit": YELLOW, "ramp": ORANGE, "forced": GREY, "would reject": BLUE}
TRIPS = {"consecutive": RED, "failure_rate": ORANGE, "slow_rate": YELLOW, "latency": "light-yellow", "probe_failed": PURPLE,
         "ramp_failed": "light-purple", "forced": GREY}
FAILURES = {"http": RED, "grpc": "light-red", "timeout": YELLOW, "connect": PURPLE, "reset": "light-purple", "no_healthy_upstream": ORANGE,
            "overflow": BLUE, "client_cancel": GREY, "rate_limited": "light-blue"}
ERRORS = {"config": YELLOW, "record": RED, "cas": ORANGE, "host": "light-red", "unprotected": PURPLE}
QUANTILES = {"p50": "light-blue", "p95": BLUE, "p99": "dark-purple"}


def words(states):
    """Value mappings: a number's word and colour."""
    options = {str(value): {"text": text, "color": color, "index": value} for value, text, color in states}
    return [{"type": "value", "options": options}]


def steps(*pairs):
    """Thresholds: the colour from each value on."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in pairs]}


def target(expression, legend="__auto", pod=False, instant=False, name="A"):
    """One query of a panel."""
    one = {"datasource": SOURCE, "refId": name, "expr": query(expression, pod), "legendFormat": legend,
           "editorMode": "code", "range": not instant, "instant": instant}
    if instant:
        one["format"] = "table"
    return one


def targets(queries, pod=False, instant=False):
    """The queries of a panel: pairs of expression and legend."""
    return [target(expression, legend, pod, instant, chr(ord("A") + at)) for at, (expression, legend) in enumerate(queries)]


def panel(kind, title, description, queries, defaults, options, overrides=(), transformations=(), pod=False, instant=False):
    """Any panel."""
    made = {
        "type": kind, "title": title, "description": " ".join(description.split()), "datasource": SOURCE,
        "targets": targets(queries, pod, instant),
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)}, "options": options,
    }
    if transformations:
        made["transformations"] = list(transformations)
    return made


def short_names():
    """Series by the upstream's short name: host:port subset."""
    return {"id": "renameByRegex", "options": {"regex": NAME, "renamePattern": SHORT}}


def by_name(name, *properties):
    """Properties of one series or column."""
    return {"matcher": {"id": "byName", "options": name},
            "properties": [{"id": key, "value": value} for key, value in properties]}


def colours(named):
    """The colours of a legend's words."""
    return [by_name(word, ("color", {"mode": "fixed", "fixedColor": color})) for word, color in named.items()]


def stat(title, description, queries, unit="short", thresholds=None, mappings=(), decimals=None, none=None, spark=False, pod=False,
         text="auto"):
    """A number. It is coloured where it matters, and plain where it does not."""
    defaults = {"unit": unit, "mappings": list(mappings), "color": {"mode": "thresholds"},
                "thresholds": thresholds or steps((None, TEXT))}
    if decimals is not None:
        defaults["decimals"] = decimals
    if none is not None:
        defaults["noValue"] = none
    options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "value",
               "graphMode": "area" if spark else "none", "textMode": text, "justifyMode": "auto", "orientation": "auto",
               "wideLayout": True}
    made = panel("stat", title, description, queries, defaults, options, pod=pod)
    # Without a line there is no past to ask for. With one, "last" would be the last that was found, and not what is now.
    for one in made["targets"]:
        one.update({"instant": not spark, "range": spark})
    return made


def lines(title, description, queries, unit="short", stack=False, bars=False, limit=None, maximum=None, minimum=0, none=None,
          decimals=None, short=False, pod=False, named=None, about=None):
    """Values over time: lines, filled where they add up, or bars where each is an event. `named`: colours of the legend's words.
    `about`: what the axis shows at least, where all may be zero."""
    custom = {
        "drawStyle": "bars" if bars else "line", "lineWidth": 1, "fillOpacity": 70 if bars else 30 if stack else 0,
        "lineInterpolation": "linear", "showPoints": "never", "spanNulls": False, "axisPlacement": "auto",
        "stacking": {"mode": "normal" if stack or bars else "none", "group": "A"}, "axisSoftMin": 0,
        "thresholdsStyle": {"mode": "dashed" if limit is not None else "off"}, "barAlignment": 0, "gradientMode": "none",
    }
    if about is not None:
        custom["axisSoftMax"] = about
    defaults = {"unit": unit, "custom": custom, "color": {"mode": "palette-classic"}, "min": minimum,
                "thresholds": steps((None, TEXT), (limit, RED)) if limit is not None else steps((None, TEXT))}
    for key, value in (("max", maximum), ("noValue", none), ("decimals", decimals)):
        if value is not None:
            defaults[key] = value
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    made = panel("timeseries", title, description, queries, defaults, options, colours(named or {}), [short_names()] if short else (),
                 pod=pod)
    if bars:
        # So few that one event is in one bar: Grafana then asks for little more than what lies between two.
        made["maxDataPoints"] = 60
    return made


def timeline(title, description, queries, states=None, none=None, short=False):
    """The word of each series at each time."""
    states = states or STATES
    defaults = {"custom": {"fillOpacity": 80, "lineWidth": 0, "spanNulls": False}, "mappings": words(states),
                "color": {"mode": "thresholds"}, "thresholds": steps(*[(value or None, color) for value, _, color in states])}
    if none is not None:
        defaults["noValue"] = none
    options = {"mergeValues": True, "showValue": "auto", "alignValue": "center", "rowHeight": 0.8, "perPage": 20,
               "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
               "tooltip": {"mode": "single", "sort": "none"}}
    return panel("state-timeline", title, description, queries, defaults, options, (), [short_names()] if short else ())


def bars(title, description, queries, unit="short", none=None, short=False, color=BLUE):
    """One bar for each series, the longest first."""
    defaults = {"unit": unit, "min": 0, "color": {"mode": "fixed", "fixedColor": color}, "thresholds": steps((None, color)),
                "decimals": 0}
    if none is not None:
        defaults["noValue"] = none
    options = {"displayMode": "basic", "orientation": "horizontal", "showUnfilled": True, "valueMode": "text", "sizing": "manual",
               "namePlacement": "left", "minVizHeight": 14, "maxVizHeight": 22, "minVizWidth": 8,
               "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
               "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []}}
    made = panel("bargauge", title, description, queries, defaults, options, (), [short_names()] if short else ())
    for one in made["targets"]:
        one.update({"instant": True, "range": False})
    return made


def table(title, description, queries, columns, join=None, none=None, links=(), sort=None, pod=False):
    """Rows. `columns`: the label or query, its title, and its properties; what is not named is hidden."""
    defaults = {"custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}, "color": {"mode": "thresholds"},
                "thresholds": steps((None, TEXT)), "mappings": []}
    if none is not None:
        defaults["noValue"] = none
    if links:
        defaults["links"] = list(links)
    value = (lambda letter: f"Value #{letter}") if len(queries) > 1 else (lambda _: "Value")
    fields = [(value(name[1:]) if name.startswith("#") else name, heading, properties) for name, heading, properties in columns]
    transformations = []
    if join:
        transformations.append({"id": "joinByField", "options": {"byField": join, "mode": "outer"}})
    transformations += [
        {"id": "filterFieldsByName", "options": {"include": {"names": [name for name, _, _ in fields]}}},
        {"id": "organize", "options": {
            "excludeByName": {}, "indexByName": {name: at for at, (name, _, _) in enumerate(fields)},
            "renameByName": {name: heading for name, heading, _ in fields}}},
    ]
    # The panel's own words for nothing would stand in each empty cell.
    overrides = [by_name(heading, ("noValue", "–"), *properties) for _, heading, properties in fields]
    options = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
               "sortBy": [{"displayName": sort, "desc": True}] if sort else []}
    return panel("table", title, description, queries, defaults, options, overrides, transformations, pod, instant=True)
