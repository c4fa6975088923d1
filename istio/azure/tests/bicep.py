"""Reads the part of Bicep that `../*.bicep` is written in.

The Bicep CLI is no package of any registry that a test could fetch it from. This reader knows parameters,
variables, resources, modules, outputs, loops and expressions, and refuses everything else by line: what it left out
would be missing from the JSON, and nobody would see it.
"""

import re
from dataclasses import dataclass, field
from typing import Any


class BicepError(ValueError):
    """What the file says that this reader does not know, and where."""


@dataclass
class Name:
    name: str


@dataclass
class Text:
    """A string: pieces that are `str`, or expressions that are interpolated."""

    pieces: list


@dataclass
class Member:
    of: Any
    name: str


@dataclass
class Index:
    of: Any
    at: Any


@dataclass
class Call:
    name: str
    arguments: list


@dataclass
class Operation:
    """`operator` is Bicep's own sign, `?` for a choice and `!` for a negation."""

    operator: str
    operands: list


@dataclass
class Object:
    entries: list


@dataclass
class Array:
    items: list


@dataclass
class Loop:
    item: str
    index: str | None
    over: Any
    body: Any


@dataclass
class Declared:
    """A resource or a module."""

    name: str
    type: str
    body: Object
    version: str = ""
    existing: bool = False
    loop: Loop | None = None


@dataclass
class File:
    scope: str = "resourceGroup"
    parameters: dict = field(default_factory=dict)
    variables: dict = field(default_factory=dict)
    resources: dict = field(default_factory=dict)
    modules: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)


TOKEN = re.compile(
    r"(?P<space>[ \t]+|//[^\n]*|/\*.*?\*/)"
    r"|(?P<line>\r?\n)"
    r"|(?P<number>\d+)"
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign>==|!=|<=|>=|&&|\|\||\?\?|[][(){}:,.@=!?<>+\-*/%])"
    r"|(?P<quote>')",
    re.DOTALL,
)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "'": "'", "\\": "\\", "$": "$"}
# The weakest first; Bicep's order.
BINARY = [["??"], ["||"], ["&&"], ["==", "!="], ["<", ">", "<=", ">="], ["+", "-"], ["*", "/", "%"]]


def tokens(text: str) -> list:
    """(kind, value, line) of each token. The value of a string is its pieces."""
    found, at, line = [], 0, 1
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise BicepError(f"line {line}: {text[at : at + 20]!r}")
        kind, value, begin = match.lastgroup, match.group(), line
        at = match.end()
        line += value.count("\n")
        if kind == "quote":
            if text.startswith("''", at) and not text.startswith("''\n", at - 1):
                raise BicepError(f"line {line}: a text over several lines")
            pieces, at = string(text, at, line)
            found.append(("text", pieces, begin))
        elif kind != "space":
            found.append((kind, value, begin))
    return [*found, ("end", "", line)]


def string(text: str, at: int, line: int) -> tuple:
    """The pieces of the string that begins after its quote, and where it ends."""
    pieces, piece = [], ""
    while True:
        if at >= len(text) or text[at] == "\n":
            raise BicepError(f"line {line}: a text without an end")
        if text[at] == "'":
            return [*pieces, piece] if piece or not pieces else pieces, at + 1
        if text[at] == "\\":
            if text[at + 1] not in ESCAPES:
                raise BicepError(f"line {line}: \\{text[at + 1]}")
            piece += ESCAPES[text[at + 1]]
            at += 2
        elif text.startswith("${", at):
            end = closing(text, at + 2, line)
            pieces += ([piece] if piece else []) + [Parser(text[at + 2 : end], line).whole()]
            piece, at = "", end + 1
        else:
            piece += text[at]
            at += 1


def closing(text: str, at: int, line: int) -> int:
    """Where the brace of an interpolation closes. Strings within it have no braces here."""
    depth = 1
    while depth:
        if at >= len(text) or text[at] == "\n":
            raise BicepError(f"line {line}: an interpolation without an end")
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return at - 1


class Parser:
    """Recursive descent; each method reads what it is named after and stands behind it."""

    def __init__(self, text: str, line: int = 1):
        self.tokens = tokens(text)
        self.at = 0
        self.first = line - 1

    def fail(self, why: str):
        kind, value, line = self.tokens[self.at]
        raise BicepError(f"line {line + self.first}: {why}, found {value or kind!r}")

    def next_is(self, *values: str) -> bool:
        kind, value, _ = self.tokens[self.at]
        return kind in ("sign", "word") and value in values

    def take(self, kind: str, value: str | None = None):
        found, text, _ = self.tokens[self.at]
        if found != kind or value not in (None, text):
            self.fail(f"{value or kind} is expected")
        self.at += 1
        return text

    def maybe(self, value: str) -> bool:
        if self.next_is(value):
            self.at += 1
            return True
        return False

    def lines(self):
        while self.tokens[self.at][0] == "line":
            self.at += 1

    def whole(self):
        """An expression and nothing behind it."""
        found = self.expression()
        if self.tokens[self.at][0] != "end":
            self.fail("the end is expected")
        return found

    def file(self) -> File:
        found = File()
        self.lines()
        while self.tokens[self.at][0] != "end":
            self.statement(found)
            self.lines()
        return found

    def statement(self, found: File):
        decorators = []
        while self.maybe("@"):
            decorators.append(self.expression())
            self.lines()
        word = self.take("word")
        if decorators and word != "param":
            self.fail("a parameter is expected behind a decorator")
        if word == "targetScope":
            self.take("sign", "=")
            found.scope = self.take("text")[0]
        elif word == "param":
            name, kind = self.take("word"), self.take("word")
            default = self.expression() if self.maybe("=") else None
            found.parameters[name] = (kind, default, decorators)
        elif word == "var":
            name = self.take("word")
            self.take("sign", "=")
            found.variables[name] = self.expression()
        elif word == "output":
            name, kind = self.take("word"), self.take("word")
            self.take("sign", "=")
            found.outputs[name] = (kind, self.expression())
        elif word in ("resource", "module"):
            declared = self.declared()
            (found.resources if word == "resource" else found.modules)[declared.name] = declared
        else:
            self.at -= 1
            self.fail("a statement is expected")

    def declared(self) -> Declared:
        name, (kind,) = self.take("word"), self.take("text")
        existing = self.maybe("existing")
        self.take("sign", "=")
        kind, _, version = kind.partition("@")
        body = self.expression()
        loop = body if isinstance(body, Loop) else None
        return Declared(name, kind, loop.body if loop else body, version, existing, loop)

    def expression(self):
        found = self.binary(0)
        if not self.maybe("?"):
            return found
        self.lines()
        well = self.expression()
        self.lines()
        self.take("sign", ":")
        self.lines()
        return Operation("?", [found, well, self.expression()])

    def binary(self, level: int):
        if level == len(BINARY):
            return self.unary()
        found = self.binary(level + 1)
        while self.next_is(*BINARY[level]):
            operator = self.take("sign")
            found = Operation(operator, [found, self.binary(level + 1)])
        return found

    def unary(self):
        if self.maybe("!"):
            return Operation("!", [self.unary()])
        if self.maybe("-"):
            return -int(self.take("number"))
        found = self.primary()
        while self.next_is(".", "["):
            if self.maybe("."):
                found = Member(found, self.take("word"))
            else:
                self.take("sign", "[")
                found = Index(found, self.expression())
                self.take("sign", "]")
        return found

    def primary(self):
        kind, value, _ = self.tokens[self.at]
        if kind == "number":
            return int(self.take("number"))
        if kind == "text":
            return Text(self.take("text"))
        if self.next_is("["):
            return self.array()
        if self.next_is("{"):
            return self.object()
        if self.maybe("("):
            found = self.expression()
            self.take("sign", ")")
            return found
        word = self.take("word")
        if self.next_is("("):
            return Call(word, self.arguments())
        return {"true": True, "false": False, "null": None}.get(word, Name(word))

    def arguments(self) -> list:
        self.take("sign", "(")
        found = []
        self.lines()
        while not self.maybe(")"):
            found.append(self.expression())
            self.maybe(",")
            self.lines()
        return found

    def array(self):
        self.take("sign", "[")
        self.lines()
        if self.maybe("for"):
            return self.loop()
        items = []
        while not self.maybe("]"):
            items.append(self.expression())
            self.maybe(",")
            self.lines()
        return Array(items)

    def loop(self) -> Loop:
        if self.maybe("("):
            item = self.take("word")
            self.take("sign", ",")
            index = self.take("word")
            self.take("sign", ")")
        else:
            item, index = self.take("word"), None
        self.take("word", "in")
        over = self.expression()
        self.take("sign", ":")
        body = self.expression()
        self.lines()
        self.take("sign", "]")
        return Loop(item, index, over, body)

    def object(self) -> Object:
        self.take("sign", "{")
        self.lines()
        entries = []
        while not self.maybe("}"):
            kind = self.tokens[self.at][0]
            key = Text(self.take("text")) if kind == "text" else self.take("word")
            self.take("sign", ":")
            entries.append((key, self.expression()))
            self.maybe(",")
            self.lines()
        return Object(entries)


def parse(text: str) -> File:
    return Parser(text).file()
