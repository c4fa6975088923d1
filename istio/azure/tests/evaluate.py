"""Says what a deployment of ARM JSON would create: resources with all parameters, copies and nested templates put in.

It knows nothing of Bicep and reads JSON alone, so that what it finds is what a person who deploys the JSON would get.
What only Azure knows (an address that it gives, the key of a workspace) becomes `Unknown`.
"""

import re
import uuid
from typing import Any

SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000000"
GROUP = "example"
TOKEN = re.compile(r"\s*(?:(?P<number>\d+)|(?P<word>[A-Za-z_$]\w*)|'(?P<text>(?:[^']|'')*)'|(?P<sign>[][(),.]))")


class TemplateError(ValueError):
    """What the template says that cannot be."""


class Unknown(str):
    """A value that Azure will know; its text tells which. Any type may be there."""


class Scope:
    """One template with its parameters, and what has been found in it."""

    def __init__(self, template: dict, given: dict, group: str = GROUP):
        self.template, self.group = template, f"{SUBSCRIPTION}/resourceGroups/{group}"
        # What nested deployments have put out, by their identifiers.
        self.deployments: dict[str, dict] = {}
        self.indices: dict[str | None, int] = {}
        self.parameters = {}
        declared = template.get("parameters", {})
        if unknown := set(given) - set(declared):
            raise TemplateError(f"parameters {unknown} are not declared")
        for name, about in declared.items():
            if name not in given and "defaultValue" not in about:
                raise TemplateError(f"parameter {name} is not given")
            self.parameters[name] = given[name] if name in given else self.value(about["defaultValue"])
            check_parameter(name, about, self.parameters[name])

    # Resources

    def resources(self) -> list:
        found = []
        for resource in self.template["resources"]:
            for _ in self.copies(resource.get("copy")):
                found += self.one({key: value for key, value in resource.items() if key != "copy"})
        return found

    def copies(self, copy: dict | None):
        """Runs once for each copy, with its index set; once where there are none."""
        if copy is None:
            yield None
            return
        outer = self.indices.get(None)
        for index in range(self.value(copy["count"])):
            self.indices[copy.get("name")] = self.indices[None] = index
            yield index
        self.indices.pop(copy.get("name"), None)
        self.indices[None] = outer

    def one(self, resource: dict) -> list:
        if "condition" in resource and not self.value(resource["condition"]):
            return []
        if resource["type"] != "Microsoft.Resources/deployments":
            found = self.value(resource)
            return [{**found, "id": self.identifier(found)}]
        properties = resource["properties"]
        given = {name: self.value(about)["value"] for name, about in properties["parameters"].items()}
        inner = Scope(properties["template"], given, self.value(resource.get("resourceGroup", GROUP)))
        found = inner.resources()
        name = self.value(resource["name"])
        own = f"{inner.group}/providers/{path(resource['type'], (name,))}"
        self.deployments[own] = inner.outputs()
        # What it waits for must be there, else Azure refuses the whole template.
        waits = self.value(resource.get("dependsOn", []))
        return [{"type": resource["type"], "name": name, "id": own, "dependsOn": waits}, *found]

    def identifier(self, resource: dict) -> str:
        named = path(resource["type"], tuple(resource["name"].split("/")))
        return f"{resource.get('scope', self.group)}/providers/{named}"

    def outputs(self) -> dict:
        found = {}
        for name, about in self.template.get("outputs", {}).items():
            if "copy" in about:
                found[name] = [self.value(about["copy"]["input"]) for _ in self.copies(about["copy"])]
            else:
                found[name] = self.value(about["value"])
        return found

    # Values

    def value(self, given: Any) -> Any:
        if isinstance(given, dict):
            found = {}
            for key, value in given.items():
                if key == "copy" and isinstance(value, list):
                    for copy in value:
                        found[copy["name"]] = [self.value(copy["input"]) for _ in self.copies(copy)]
                else:
                    found[self.value(key)] = self.value(value)
            return {key: value for key, value in found.items() if value is not None}
        if isinstance(given, list):
            return [self.value(item) for item in given]
        if isinstance(given, str) and given.startswith("["):
            return given[1:] if given.startswith("[[") else Expression(given[1:-1], self).whole()
        return given

    def named(self, name: str) -> Any:
        return self.value(self.template["variables"][name])

    def reference(self, identifier: str, *_) -> Any:
        if identifier in self.deployments:
            return {"outputs": {name: {"value": value} for name, value in self.deployments[identifier].items()}}
        if "/Microsoft.Resources/deployments/" in identifier:
            raise TemplateError(f"{identifier} is read before it is deployed")
        return Unknown(identifier)


def check_parameter(name: str, about: dict, value: Any):
    kind = about["type"].lower().removeprefix("secure")
    expected = {"string": str, "int": int, "bool": bool, "array": list, "object": dict}[kind]
    if not isinstance(value, Unknown) and type(value) is not expected:
        raise TemplateError(f"parameter {name}: {value!r} is no {kind}")
    if "allowedValues" in about and value not in about["allowedValues"]:
        raise TemplateError(f"parameter {name}: {value!r} is none of {about['allowedValues']}")
    size = len(value) if isinstance(value, str | list) else value
    least, most = about.get("minLength", about.get("minValue")), about.get("maxLength", about.get("maxValue"))
    if (least is not None and size < least) or (most is not None and size > most):
        raise TemplateError(f"parameter {name}: {value!r} is not within {least} and {most}")


def path(kind: str, names: tuple) -> str:
    provider, *types = kind.split("/")
    if len(types) != len(names):
        raise TemplateError(f"{kind} has {len(types)} names and not {len(names)}: {names}")
    return "/".join([provider, *(part for pair in zip(types, names, strict=True) for part in pair)])


def formatted(pattern: str, *given: Any) -> str:
    text = re.sub(
        r"\{(\d+)\}", lambda match: str(given[int(match[1])]), pattern.replace("{{", "\0").replace("}}", "\1")
    )
    return text.replace("\0", "{").replace("\1", "}")


FUNCTIONS = {
    "format": formatted,
    "subscriptionResourceId": lambda kind, *names: f"{SUBSCRIPTION}/providers/{path(kind, names)}",
    "extensionResourceId": lambda of, kind, *names: f"{of}/providers/{path(kind, names)}",
    "subscription": lambda: {"id": SUBSCRIPTION, "subscriptionId": SUBSCRIPTION.rsplit("/", 1)[1]},
    "length": len,
    "skip": lambda items, count: items[count:],
    "concat": lambda *parts: sum(parts[1:], parts[0]),
    "union": lambda *parts: {key: value for part in parts for key, value in part.items()},
    "if": lambda condition, well, otherwise: well if condition else otherwise,
    "equals": lambda left, right: left == right,
    "not": lambda value: not value,
    "and": lambda *values: all(values),
    "empty": lambda value: not value,
    "add": lambda left, right: left + right,
    "createArray": lambda *items: list(items),
    "createObject": lambda *pairs: dict(zip(pairs[::2], pairs[1::2], strict=True)),
    "null": lambda: None,
    "true": lambda: True,
    "false": lambda: False,
    # Azure's own hash is another one; that the same arguments give the same name is what matters here.
    "guid": lambda *parts: str(uuid.uuid5(uuid.NAMESPACE_URL, "-".join(parts))),
}


class Expression:
    """What stands between the brackets of a value."""

    def __init__(self, text: str, scope: Scope):
        self.text, self.at, self.scope = text, 0, scope

    def whole(self) -> Any:
        found = self.postfix()
        if self.at != len(self.text):
            raise TemplateError(f"{self.text}: {self.text[self.at :]!r} is left over")
        return found

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def token(self) -> re.Match:
        match = TOKEN.match(self.text, self.at)
        if not match:
            raise TemplateError(f"{self.text} at {self.at}")
        self.at = match.end()
        return match

    def postfix(self) -> Any:
        found = self.primary()
        while self.peek() in (".", "["):
            if self.token()["sign"] == ".":
                name = self.token()["word"]
                found = Unknown(f"{found}.{name}") if isinstance(found, Unknown) else found[name]
            else:
                index = self.postfix()
                self.token()
                found = Unknown(f"{found}[{index}]") if isinstance(found, Unknown) else found[index]
        return found

    def primary(self) -> Any:
        token = self.token()
        if token["number"] is not None:
            return int(token["number"])
        if token["text"] is not None:
            return token["text"].replace("''", "'")
        name, arguments = token["word"], []
        self.token()
        while self.peek() != ")":
            arguments.append(self.postfix())
            if self.peek() == ",":
                self.token()
                while self.peek() == " ":
                    self.at += 1
        self.token()
        return self.call(name, arguments)

    def call(self, name: str, arguments: list) -> Any:
        scope = self.scope
        own = {
            "variables": scope.named,
            "reference": scope.reference,
            "resourceId": lambda kind, *names: f"{scope.group}/providers/{path(kind, names)}",
        }
        if name == "parameters":
            return scope.parameters[arguments[0]]
        if name == "copyIndex":
            return scope.indices[arguments[0] if arguments else None]
        if name in own:
            return own[name](*arguments)
        if name not in FUNCTIONS:
            raise TemplateError(f"{name} is no function that is known here")
        return FUNCTIONS[name](*arguments)


def resources(template: dict, given: dict) -> list:
    """All resources of a template and of the templates in it, nested deployments among them."""
    return Scope(template, given).resources()
