"""Writes `../modules/rule-groups.bicep` from the rules of istio/monitoring, which are made for the Prometheus operator.

Azure has a resource of its own for them, with its own words for durations and severities. What Azure has no place for
is refused.
"""

import re
from pathlib import Path

import yaml

AZURE = Path(__file__).resolve().parent.parent
MONITORING = AZURE.parent / "monitoring"
WRITTEN = AZURE / "modules" / "rule-groups.bicep"
# Azure's numbers: 0 Critical, 2 Warning, 3 Informational.
SEVERITIES = {"critical": 0, "warning": 2, "info": 3}
# Who is told. An alert for a dashboard tells nobody.
TELLS = {"critical", "warning"}
# Azure takes no more rules in a group (articles/azure-monitor/essentials/prometheus-rule-groups.md).
MOST_RULES = 20
# As long as an alert must be gone before Azure calls it resolved. With less, a circuit that probes would seem well.
RESOLVED_AFTER = "PT10M"
HEAD = """\
// The rules of istio/monitoring for managed Prometheus. Written by `UPDATE_AZURE=1 make test-azure`: change them there.
param prefix string
param location string
param workspaceId string
param clusterId string
param clusterName string
param actionGroupId string
"""


class RuleError(ValueError):
    """A rule that Azure would not take as it is."""


def groups() -> list:
    """All groups of all rules. Each becomes a resource, so that their order does not matter."""
    found = []
    for path in sorted(MONITORING.glob("*-prometheusRule.yaml")):
        found += yaml.safe_load(path.read_text())["spec"]["groups"]
    return found


def duration(text: str) -> str:
    """`1h30m` as ISO 8601, which Azure wants."""
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not match or not text:
        raise RuleError(f"{text} is no duration")
    days, *rest = match.groups()
    time = "".join(f"{count}{unit}" for count, unit in zip(rest, "HMS", strict=True) if count)
    return "P" + (f"{days}D" if days else "") + (f"T{time}" if time else "")


def quoted(text: str) -> str:
    """A string of Bicep."""
    text = text.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${").replace("\n", "\\n")
    return f"'{text}'"


def expression(text: str) -> str:
    """PromQL on one line. A comment in it would swallow what follows."""
    if "#" in text:
        raise RuleError(f"a comment in {text}")
    return " ".join(line.strip() for line in text.strip().splitlines())


def texts(name: str, given: dict) -> list:
    lines = [f"          {key}: {quoted(str(value))}" for key, value in given.items()]
    return [f"        {name}: {{", *lines, "        }"] if lines else []


def rule(given: dict) -> list:
    known = {"alert", "record", "expr", "for", "labels", "annotations"}
    if extra := set(given) - known:
        raise RuleError(f"{given.get('alert') or given.get('record')}: Azure has no {', '.join(sorted(extra))}")
    kind = "alert" if "alert" in given else "record"
    lines = [
        "      {",
        f"        {kind}: {quoted(given[kind])}",
        f"        expression: {quoted(expression(given['expr']))}",
    ]
    lines.append("        enabled: true")
    if "for" in given:
        lines.append(f"        for: {quoted(duration(given['for']))}")
    lines += texts("labels", given.get("labels", {})) + texts("annotations", given.get("annotations", {}))
    return [*lines, *(alert(given) if kind == "alert" else []), "      }"]


def alert(given: dict) -> list:
    severity = given.get("labels", {}).get("severity")
    if severity not in SEVERITIES:
        raise RuleError(f"{given['alert']}: the severity {severity} is none of {', '.join(SEVERITIES)}")
    lines = [
        f"        severity: {SEVERITIES[severity]}",
        "        resolveConfiguration: {",
        "          autoResolved: true",
        f"          timeToResolve: {quoted(RESOLVED_AFTER)}",
        "        }",
    ]
    if severity in TELLS:
        lines += [
            "        actions: [",
            "          {",
            "            actionGroupId: actionGroupId",
            "          }",
            "        ]",
        ]
    return lines


def group(given: dict) -> str:
    if extra := set(given) - {"name", "interval", "rules"}:
        raise RuleError(f"{given['name']}: Azure has no {', '.join(sorted(extra))}")
    if len(given["rules"]) > MOST_RULES:
        raise RuleError(f"{given['name']} has {len(given['rules'])} rules, and Azure takes {MOST_RULES}")
    symbol = re.sub(r"[-_](\w)", lambda match: match[1].upper(), given["name"])
    rules = [line for found in given["rules"] for line in rule(found)]
    return "\n".join(
        [
            "",
            f"resource {symbol} 'Microsoft.AlertsManagement/prometheusRuleGroups@2023-03-01' = {{",
            f"  name: '${{prefix}}-{given['name']}'",
            "  location: location",
            "  properties: {",
            "    enabled: true",
            f"    interval: {quoted(duration(given.get('interval', '1m')))}",
            "    // The workspace, and of its clusters this one.",
            "    scopes: [workspaceId, clusterId]",
            "    clusterName: clusterName",
            "    rules: [",
            *rules,
            "    ]",
            "  }",
            "}",
            "",
        ]
    )


def bicep() -> str:
    return HEAD + "".join(group(found) for found in groups())
