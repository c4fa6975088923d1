"""Writes ARM JSON from what `bicep` has read, as `bicep build` would: the same functions, copies and dependencies.

What has no counterpart here is refused and not left out, since a template that lacks a setting looks like a whole one.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bicep import Array, BicepError, Call, Declared, File, Index, Loop, Member, Name, Object, Operation, Text, parse

SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
DEPLOYMENT = "Microsoft.Resources/deployments"
DEPLOYMENT_VERSION = "2022-09-01"
GROUP = "'/subscriptions/{0}/resourceGroups/{1}'"
OPERATORS = {
    "==": "equals", "&&": "and", "||": "or", "??": "coalesce", "!": "not", "?": "if",
    "<": "less", ">": "greater", "<=": "lessOrEquals", ">=": "greaterOrEquals",
    "+": "add", "-": "sub", "*": "mul", "/": "div", "%": "mod",
}  # fmt: skip
# Decorators and what a template calls them.
LIMITS = {"minLength": "minLength", "maxLength": "maxLength", "minValue": "minValue", "maxValue": "maxValue"}


@dataclass
class Around:
    """The loops around an expression, from the outside in: each with the name of its copy, if it has one."""

    loops: list = field(default_factory=list)

    def within(self, loop: Loop, copy: str | None) -> "Around":
        return Around([*self.loops, (loop, copy)])


class Template:
    """One file of Bicep, and the template that it becomes."""

    def __init__(self, file: File, directory: Path):
        self.file, self.directory = file, directory
        self.named = {**file.resources, **file.modules}

    def json(self) -> dict:
        written = {
            "$schema": SCHEMA,
            "contentVersion": "1.0.0.0",
            "parameters": {name: parameter(self, *given) for name, given in self.file.parameters.items()},
            "variables": {name: self.value(given, Around()) for name, given in self.file.variables.items()},
            "resources": [self.resource(found) for found in self.file.resources.values() if not found.existing]
            + [self.module(found) for found in self.file.modules.values()],
            "outputs": {
                name: {"type": kind, **self.output(given)} for name, (kind, given) in self.file.outputs.items()
            },
        }
        return {key: value for key, value in written.items() if value or key == "resources"}

    def output(self, given) -> dict:
        if isinstance(given, Loop):
            around = Around().within(given, None)
            return {
                "copy": {
                    "count": f"[length({self.text(given.over, Around())})]",
                    "input": self.value(given.body, around),
                }
            }
        return {"value": self.value(given, Around())}

    # Declarations

    def resource(self, found: Declared) -> dict:
        around = self.around(found)
        body = dict(found.body.entries)
        written = {
            **self.copy(found),
            "type": found.type,
            "apiVersion": found.version,
            "name": self.name(found, around),
        }
        if "scope" in body:
            written["scope"] = f"[{self.spoken_of(body.pop('scope'), around)}]"
        for key in ("name", "parent", "dependsOn"):
            body.pop(key, None)
        written |= self.entries(Object(list(body.items())), around)
        return written | self.dependencies(found)

    def module(self, found: Declared) -> dict:
        path = (self.directory / found.type).resolve()
        body = dict(found.body.entries)
        if extra := set(body) - {"name", "scope", "params", "dependsOn"}:
            raise BicepError(f"module {found.name}: {extra}")
        around = self.around(found)
        group = {"resourceGroup": self.value(self.group(body["scope"]), around)} if "scope" in body else {}
        given = {}
        for key, value in body["params"].entries:
            # A loop as a parameter is a copy with the name "value" beside it.
            given[key] = self.entries(Object([("value", value)]), around)
        return {
            **self.copy(found),
            "type": DEPLOYMENT,
            "apiVersion": DEPLOYMENT_VERSION,
            "name": self.value(body["name"], around),
            **group,
            "properties": {
                "expressionEvaluationOptions": {"scope": "inner"},
                "mode": "Incremental",
                "parameters": given,
                "template": Template(parse(path.read_text()), path.parent).json(),
            },
        } | self.dependencies(found)

    def group(self, scope):
        """The name of the resource group that a module's scope speaks of; no other scope is known here."""
        if not isinstance(scope, Call) or scope.name != "resourceGroup" or len(scope.arguments) != 1:
            raise BicepError(f"scope {scope}")
        return scope.arguments[0]

    def around(self, found: Declared) -> Around:
        return Around().within(found.loop, found.name) if found.loop else Around()

    def copy(self, found: Declared) -> dict:
        if not found.loop:
            return {}
        return {"copy": {"name": found.name, "count": f"[length({self.text(found.loop.over, Around())})]"}}

    def names(self, found: Declared) -> list:
        """The names of a resource from its outermost parent on."""
        body = dict(found.body.entries)
        return (self.names(self.declared(body["parent"])) if "parent" in body else []) + [body["name"]]

    def name(self, found: Declared, around: Around):
        names = self.names(found)
        if len(names) == 1:
            return self.value(names[0], around)
        pattern = "/".join(f"{{{at}}}" for at in range(len(names)))
        return f"[format('{pattern}', {', '.join(self.text(name, around) for name in names)})]"

    def declared(self, reference) -> Declared:
        of = reference.of if isinstance(reference, Index) else reference
        if not isinstance(of, Name) or of.name not in self.named:
            raise BicepError(f"{reference} is no resource of this file")
        return self.named[of.name]

    def spoken_of(self, reference, around: Around) -> str:
        """The identifier of the resource that a reference names, and of which copy of it."""
        return self.identifier(self.declared(reference), around, reference.at if isinstance(reference, Index) else None)

    def identifier(self, found: Declared, around: Around, at=None) -> str:
        """The expression of a resource's identifier; `at` is which of a loop's."""
        inside = around
        if found.loop:
            # The loop's own variables stand for the entry that is asked for.
            inside = Around([(found.loop, ("at", at, around))])
        body = dict(found.body.entries)
        names = ", ".join(self.text(name, inside) for name in self.names(found))
        if found.name in self.file.modules and "scope" in body:
            group = f"{GROUP}, subscription().subscriptionId, {self.text(self.group(body['scope']), inside)}"
            return f"extensionResourceId(format({group}), '{DEPLOYMENT}', {names})"
        if found.name in self.file.modules:
            return f"resourceId('{DEPLOYMENT}', {names})"
        if "scope" in body:
            outer = self.spoken_of(body["scope"], inside)
            return f"extensionResourceId({outer}, '{found.type}', {names})"
        return f"resourceId('{found.type}', {names})"

    def dependencies(self, found: Declared) -> dict:
        """Everything in this file that the declaration speaks of, in the order in which it does."""
        names: dict[str, None] = {}
        body = Object([(key, value) for key, value in found.body.entries])

        def walk(node, loops: int):
            if isinstance(node, Index) and isinstance(node.of, Name) and node.of.name in self.named:
                add(node.of.name, node.at, loops)
                walk(node.at, loops)
            elif isinstance(node, Name) and node.name in self.named:
                add(node.name, None, loops)
            elif isinstance(node, Loop):
                walk(node.over, loops)
                walk(node.body, loops + 1)
            elif isinstance(node, Object):
                for _, value in node.entries:
                    walk(value, loops)
            elif isinstance(node, list):
                for entry in node:
                    walk(entry, loops)
            elif hasattr(node, "__dataclass_fields__"):
                for name in node.__dataclass_fields__:
                    walk(getattr(node, name), loops)

        def add(name: str, at, loops: int):
            other = self.named[name]
            if getattr(other, "existing", False):
                walk(other.body, loops)
            elif other.loop and loops:
                # In a loop of its own it needs all of them: their copy has this name.
                names[name] = None
            elif other.loop and at is None:
                names[name] = None
            else:
                names[f"[{self.identifier(other, self.around(found), at)}]"] = None

        walk(body, 0)
        if found.loop:
            walk(found.loop.over, 0)
        return {"dependsOn": list(names)} if names else {}

    # Values and expressions

    def entries(self, node: Object, around: Around) -> dict:
        written, copies = {}, []
        for key, value in node.entries:
            key = key if isinstance(key, str) else self.value(key, around)
            if isinstance(value, Loop):
                count = f"[length({self.text(value.over, around)})]"
                copies.append({"name": key, "count": count, "input": self.value(value.body, around.within(value, key))})
            else:
                written[key] = self.value(value, around)
        return written | ({"copy": copies} if copies else {})

    def value(self, node, around: Around):
        """A value as JSON: itself where it is plain, else an expression in brackets."""
        if node is None:
            return "[null()]"
        if isinstance(node, bool | int):
            return node
        if isinstance(node, Object):
            return self.entries(node, around)
        if isinstance(node, Array):
            return [self.value(item, around) for item in node.items]
        if isinstance(node, Text) and all(isinstance(piece, str) for piece in node.pieces):
            plain = "".join(node.pieces)
            return f"[{plain}" if plain.startswith("[") else plain
        return f"[{self.text(node, around)}]"

    def text(self, node, around: Around) -> str:
        """An expression without its brackets."""
        if node is None:
            return "null()"
        if isinstance(node, bool):
            return "true()" if node else "false()"
        if isinstance(node, int):
            return str(node)
        if isinstance(node, Text):
            return self.interpolated(node, around)
        if isinstance(node, Name):
            return self.meaning(node.name, around)
        if isinstance(node, Member):
            return self.member(node, around)
        if isinstance(node, Index):
            return f"{self.text(node.of, around)}[{self.text(node.at, around)}]"
        if isinstance(node, Call):
            return f"{node.name}({', '.join(self.text(given, around) for given in node.arguments)})"
        if isinstance(node, Operation):
            return self.operation(node, around)
        if isinstance(node, Array):
            return f"createArray({', '.join(self.text(item, around) for item in node.items)})"
        if isinstance(node, Object):
            pairs = [part for key, value in node.entries for part in (quoted(key), self.text(value, around))]
            return f"createObject({', '.join(pairs)})"
        raise BicepError(f"{node} within an expression")

    def operation(self, node: Operation, around: Around) -> str:
        operands = [self.text(operand, around) for operand in node.operands]
        if node.operator == "!=":
            return f"not(equals({', '.join(operands)}))"
        return f"{OPERATORS[node.operator]}({', '.join(operands)})"

    def interpolated(self, node: Text, around: Around) -> str:
        if all(isinstance(piece, str) for piece in node.pieces):
            return quoted("".join(node.pieces))
        pattern, given = "", []
        for piece in node.pieces:
            if isinstance(piece, str):
                pattern += piece.replace("{", "{{").replace("}", "}}")
            else:
                pattern += f"{{{len(given)}}}"
                given.append(self.text(piece, around))
        return f"format({quoted(pattern)}, {', '.join(given)})"

    def meaning(self, name: str, around: Around) -> str:
        for loop, copy in reversed(around.loops):
            if name in (loop.item, loop.index):
                if isinstance(copy, tuple):
                    at = self.text(copy[1], copy[2])
                    over = self.text(loop.over, copy[2])
                else:
                    at = f"copyIndex('{copy}')" if copy else "copyIndex()"
                    over = self.text(loop.over, around)
                return at if name == loop.index else f"{over}[{at}]"
        if name in self.file.parameters:
            return f"parameters('{name}')"
        if name in self.file.variables:
            return f"variables('{name}')"
        raise BicepError(f"nothing is called {name}")

    def member(self, node: Member, around: Around) -> str:
        path, of = [node.name], node.of
        while isinstance(of, Member):
            path.insert(0, of.name)
            of = of.of
        index = of.at if isinstance(of, Index) else None
        base = of.of if isinstance(of, Index) else of
        if not (isinstance(base, Name) and base.name in self.named):
            return f"{self.text(node.of, around)}.{node.name}"
        return self.of_resource(self.named[base.name], index, path, around)

    def of_resource(self, found: Declared, index, path: list, around: Around) -> str:
        identifier = self.identifier(found, around, index)
        first, *rest = path
        if found.name in self.file.modules:
            if first != "outputs" or len(rest) != 1:
                raise BicepError(f"{found.name}.{'.'.join(path)}: a module has outputs alone")
            return f"reference({identifier}, '{DEPLOYMENT_VERSION}').outputs.{rest[0]}.value"
        if first == "id":
            return identifier
        if first == "name":
            return self.text(self.names(found)[-1], around)
        dotted = "".join(f".{part}" for part in (rest if first == "properties" else path))
        full = "" if first == "properties" else ", 'full'"
        return f"reference({identifier}, '{found.version}'{full}){dotted}"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def parameter(template: Template, kind: str, default: Any, decorators: list) -> dict:
    written: dict[str, Any] = {"type": kind}
    for decorator in decorators:
        given = [template.value(argument, Around()) for argument in decorator.arguments]
        if decorator.name == "secure":
            written["type"] = f"secure{kind.capitalize()}"
        elif decorator.name == "description":
            written["metadata"] = {"description": given[0]}
        elif decorator.name == "allowed":
            written["allowedValues"] = given[0]
        elif decorator.name in LIMITS:
            written[LIMITS[decorator.name]] = given[0]
        else:
            raise BicepError(f"@{decorator.name}")
    if default is not None:
        written["defaultValue"] = template.value(default, Around())
    return written


def build(path: Path) -> dict:
    """The template of a file with all its modules."""
    return Template(parse(path.read_text()), path.parent).json()


def printed(template: dict) -> str:
    return json.dumps(template, indent=2, ensure_ascii=False) + "\n"
