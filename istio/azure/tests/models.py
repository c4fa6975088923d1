"""Checks resources against the models of Azure's own libraries (`azure-mgmt-*`), offline.

The libraries themselves let much pass: a field that they do not know is dropped or kept, a value that is in no
enumeration is sent as it is. So this walks through their declarations and names unknown fields, wrong types, values
outside of an enumeration, fields that only Azure sets, and required ones that are missing. There are two generations of
declarations, and it reads both.
"""

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from evaluate import Unknown


class Model(NamedTuple):
    package: str
    name: str
    # Where the library names the version of the API that its models are made for.
    versions: str = "_configuration.py"


MONITOR = "operations/_{}_operations.py"
MODELS = {
    "Microsoft.AlertsManagement/prometheusRuleGroups": Model("prometheusrulegroups", "PrometheusRuleGroupResource"),
    "Microsoft.Authorization/roleAssignments": Model(
        "authorization.v2022_04_01", "RoleAssignmentCreateParameters", MONITOR.format("role_assignments")
    ),
    "Microsoft.ContainerRegistry/registries": Model("containerregistry", "Registry"),
    "Microsoft.ContainerRegistry/registries/replications": Model("containerregistry", "Replication"),
    "Microsoft.ContainerRegistry/registries/scopeMaps": Model("containerregistry", "ScopeMap"),
    "Microsoft.ContainerRegistry/registries/tokens": Model("containerregistry", "Token"),
    "Microsoft.ContainerService/managedClusters": Model("containerservice", "ManagedCluster"),
    "Microsoft.Insights/actionGroups": Model("monitor", "ActionGroupResource", MONITOR.format("action_groups")),
    "Microsoft.Insights/dataCollectionEndpoints": Model(
        "monitor", "DataCollectionEndpointResource", MONITOR.format("data_collection_endpoints")
    ),
    "Microsoft.Insights/dataCollectionRuleAssociations": Model(
        "monitor", "DataCollectionRuleAssociationProxyOnlyResource", MONITOR.format("data_collection_rule_associations")
    ),
    "Microsoft.Insights/dataCollectionRules": Model(
        "monitor", "DataCollectionRuleResource", MONITOR.format("data_collection_rules")
    ),
    "Microsoft.ManagedIdentity/userAssignedIdentities": Model("msi.v2024_11_30", "Identity", "_configuration.py"),
    "Microsoft.Monitor/accounts": Model("monitorworkspaces", "AzureMonitorWorkspaceResource"),
    "Microsoft.Network/ApplicationGatewayWebApplicationFirewallPolicies": Model(
        "network", "WebApplicationFirewallPolicy", "operations/_operations.py"
    ),
    "Microsoft.Network/applicationGateways": Model("network", "ApplicationGateway", "operations/_operations.py"),
    "Microsoft.Network/networkSecurityGroups": Model("network", "NetworkSecurityGroup", "operations/_operations.py"),
    "Microsoft.Network/privateDnsZones": Model("privatedns", "PrivateZone"),
    "Microsoft.Network/privateDnsZones/virtualNetworkLinks": Model("privatedns", "VirtualNetworkLink"),
    "Microsoft.Network/privateEndpoints": Model("network", "PrivateEndpoint", "operations/_operations.py"),
    "Microsoft.Network/privateEndpoints/privateDnsZoneGroups": Model(
        "network", "PrivateDnsZoneGroup", "operations/_operations.py"
    ),
    "Microsoft.Network/publicIPAddresses": Model("network", "PublicIPAddress", "operations/_operations.py"),
    "Microsoft.Network/trafficManagerProfiles": Model("trafficmanager", "Profile"),
    "Microsoft.Network/virtualNetworks": Model("network", "VirtualNetwork", "operations/_operations.py"),
}
# Values that Azure's own documents use, though the library's list is shorter than the service's.
BESIDE = {
    "Microsoft-PrometheusMetrics"
}  # articles/azure-monitor/containers/kubernetes-monitoring-enable.md: Bicep sample of the add-on
# What a template has beside the body that is sent to Azure.
AROUND = {"type", "apiVersion", "name", "id", "dependsOn", "scope"}
WRITES = {"create", "update"}


def faults(resource: dict) -> Iterator[str]:
    """Everything about one resource that its model does not allow."""
    kind, version = resource["type"], resource["apiVersion"]
    if kind not in MODELS:
        yield f"no model is known for {kind}"
        return
    model = MODELS[kind]
    if version not in versions(model):
        yield f"apiVersion {version}: the model is of {', '.join(sorted(versions(model)))}"
    # Where a resource stands the same word may be the model's, too: an identity of Azure's is no part of a template.
    body = {key: value for key, value in resource.items() if key not in AROUND}
    yield from of_model(getattr(package(model).models, model.name), body, "")


def stands_around(key: str, path: str) -> bool:
    return not path and key in AROUND


def package(model: Model) -> types.ModuleType:
    return importlib.import_module(f"azure.mgmt.{model.package}")


def versions(model: Model) -> set:
    text = (Path(package(model).__file__).parent / model.versions).read_text()
    return set(re.findall(r'"api[-_]version", "([^"]+)"', text))


def of_model(model: type, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Unknown):
        return
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no {model.__name__}"
        return
    if hasattr(model, "_attribute_map"):
        yield from of_older(model, value, path)
    else:
        yield from of_newer(model, value, path)


# The newer generation declares fields with type hints.


def fields(model: type) -> dict:
    """Type, and what may be done with it, of each field by the name that it has in JSON."""
    found = {}
    for base in reversed(model.__mro__):
        module = inspect.getmodule(base)
        if "rest_field" not in vars(module):
            continue
        names = {**vars(module), "_models": importlib.import_module(module.__name__.rsplit(".", 1)[0])}
        for name, hint in vars(base).get("__annotations__", {}).items():
            about = vars(base).get(name)
            if hasattr(about, "_visibility"):
                found[about._rest_name_input or name] = (hint, names, about._visibility)
    return found


def of_newer(model: type, value: dict, path: str) -> Iterator[str]:
    known = fields(model)
    for key, given in value.items():
        if key not in known:
            yield f"{path}{key}: {model.__name__} has no such field"
            continue
        hint, names, visibility = known[key]
        if visibility is not None and not WRITES & set(visibility):
            yield f"{path}{key}: only Azure sets it"
        yield from of_hint(resolved(hint, names), given, f"{path}{key}", names)
    for key, (hint, names, visibility) in known.items():
        writable = visibility is None or WRITES & set(visibility)
        if writable and key not in value and not (stands_around(key, path) or optional(resolved(hint, names))):
            yield f"{path}{key}: {model.__name__} requires it"


def resolved(hint: Any, names: dict) -> Any:
    if isinstance(hint, typing.ForwardRef):
        hint = hint.__forward_arg__
    return eval(hint, names) if isinstance(hint, str) else hint  # a hint of the library's own source


def optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def of_hint(hint: Any, value: Any, path: str, names: dict) -> Iterator[str]:
    hint = resolved(hint, names)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Unknown) or hint is Any:
        return
    if origin in (typing.Union, types.UnionType):
        yield from of_union([resolved(part, names) for part in arguments if part is not type(None)], value, path, names)
    elif origin is list:
        yield from of_list(value, path, lambda item, at: of_hint(arguments[0], item, at, names))
    elif origin is dict or (origin and issubclass(origin, typing.Mapping)):
        yield from of_dict(value, path, lambda item, at: of_hint(arguments[1], item, at, names))
    elif isinstance(hint, type) and any(base.__name__ == "Model" for base in hint.__mro__):
        yield from of_model(hint, value, f"{path}.")
    else:
        yield from of_plain(hint, value, path)


def of_union(parts: list, value: Any, path: str, names: dict) -> Iterator[str]:
    enumerations = [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]
    if enumerations:
        yield from of_enumeration(enumerations[0], value, path)
    elif len(parts) == 1:
        yield from of_hint(parts[0], value, path, names)
    else:
        tried = [list(of_hint(part, value, path, names)) for part in parts]
        if all(tried):
            yield from tried[0]


def of_enumeration(enumeration: type, value: Any, path: str) -> Iterator[str]:
    allowed = [member.value for member in enumeration]
    if value not in allowed and value not in BESIDE:
        yield f"{path}: {value!r} is none of {', '.join(map(str, allowed))}"


def of_list(value: Any, path: str, item) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{path}: {value!r} is no list"
        return
    for index, given in enumerate(value):
        yield from item(given, f"{path}[{index}]")


def of_dict(value: Any, path: str, item) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no object"
        return
    for key, given in value.items():
        yield from item(given, f"{path}.{key}")


def of_plain(kind: type, value: Any, path: str) -> Iterator[str]:
    if kind is timedelta:
        if not isinstance(value, str) or not re.fullmatch(r"P(?=.)(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?", value):
            yield f"{path}: {value!r} is no duration"
        return
    expected = {str: str, bool: bool, int: int, float: (int, float), datetime: str, date: str, object: object}.get(kind)
    if expected is None:
        yield f"{path}: {kind} is no type that is known here"
    elif not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
        yield f"{path}: {value!r} is no {kind.__name__}"


# The older generation has a map of names and types as text, and enumerations in the hints of its constructor.


def of_older(model: type, value: dict, path: str) -> Iterator[str]:
    # `properties.x.y` is flattened into one attribute.
    known = {about["key"]: (name, about["type"]) for name, about in model._attribute_map.items()}
    given = dict(flattened(value, known, ""))
    rules = getattr(model, "_validation", {})
    for key, item in given.items():
        if key not in known:
            yield f"{path}{key}: {model.__name__} has no such field"
            continue
        name, kind = known[key]
        if rules.get(name, {}).get("readonly"):
            yield f"{path}{key}: only Azure sets it"
        yield from of_named(model, name, kind, item, f"{path}{key}")
    for key, (name, _) in known.items():
        if rules.get(name, {}).get("required") and key not in given and not stands_around(key, path):
            yield f"{path}{key}: {model.__name__} requires it"


def flattened(value: dict, known: dict, path: str) -> Iterator[tuple]:
    for key, item in value.items():
        at = f"{path}{key}"
        inner = isinstance(item, dict) and at not in known and any(name.startswith(f"{at}.") for name in known)
        if inner:
            yield from flattened(item, known, f"{at}.")
        else:
            yield at, item


def of_named(model: type, name: str, kind: str, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Unknown):
        return
    enumeration = enumeration_of(model, name)
    if kind.startswith("["):
        item = lambda given, at: of_item(model, name, kind[1:-1], given, at)  # noqa: E731
        yield from of_list(value, path, item)
    elif kind.startswith("{"):
        yield from of_dict(value, path, lambda given, at: of_named(model, "", kind[1:-1], given, at))
    elif enumeration and kind == "str":
        yield from of_enumeration(enumeration, value, path)
    else:
        yield from of_kind(model, kind, value, path)


def of_item(model: type, name: str, kind: str, value: Any, path: str) -> Iterator[str]:
    enumeration = enumeration_of(model, name)
    if enumeration and kind == "str":
        yield from of_enumeration(enumeration, value, path)
    else:
        yield from of_named(model, "", kind, value, path)


def of_kind(model: type, kind: str, value: Any, path: str) -> Iterator[str]:
    plain = {
        "str": str,
        "bool": bool,
        "int": int,
        "long": int,
        "float": float,
        "iso-8601": datetime,
        "duration": timedelta,
    }
    if kind == "object":
        return
    if kind in plain:
        yield from of_plain(plain[kind], value, path)
    else:
        yield from of_model(getattr(importlib.import_module(model.__module__), kind), value, f"{path}.")


def enumeration_of(model: type, name: str) -> type | None:
    """The enumeration that the constructor names for this attribute, if it does."""
    hints = [
        vars(base)["__init__"].__annotations__
        for base in model.__mro__
        if "__init__" in vars(base) and base is not object
    ]
    for hint in (str(found[name]) for found in hints if name in found):
        match = re.search(r"_models\.(\w+)", hint)
        found = match and getattr(importlib.import_module(model.__module__.rsplit(".", 1)[0]), match[1], None)
        if isinstance(found, type) and issubclass(found, Enum):
            return found
    return None
