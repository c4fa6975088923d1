"""Holds the reader of Bicep and the writer of JSON to what `bicep build` makes of the same words."""

import tempfile
import unittest
from pathlib import Path

import evaluate
import template
from bicep import BicepError, parse


def built(text: str, **modules: str) -> dict:
    with tempfile.TemporaryDirectory() as directory:
        for name, module in modules.items():
            (Path(directory) / f"{name}.bicep").write_text(module)
        return template.Template(parse(text), Path(directory)).json()


def expression(text: str):
    """An expression of two parameters, as JSON has it."""
    return built(f"param a string\nparam b object\nvar found = {text}\n")["variables"]["found"]


class Expressions(unittest.TestCase):
    def test_they_become_arms(self):
        for bicep, arm in [
            ("'plain'", "plain"),
            ("'[bracket'", "[[bracket"),
            ("'it\\'s'", "it's"),
            ("3", 3),
            ("true", True),
            ("a", "[parameters('a')]"),
            ("b.c.d[0]", "[parameters('b').c.d[0]]"),
            ("'x-${a}-{y}'", "[format('x-{0}-{{y}}', parameters('a'))]"),
            ("a == 'x' ? 1 : 2", "[if(equals(parameters('a'), 'x'), 1, 2)]"),
            ("1 + 2 * 3", "[add(1, mul(2, 3))]"),
            ("(1 + 2) * 3", "[mul(add(1, 2), 3)]"),
            ("!empty(a) && a != 'it\\'s'", "[and(not(empty(parameters('a'))), not(equals(parameters('a'), 'it''s')))]"),
            ("['x', a]", ["x", "[parameters('a')]"]),
            ("{\n  'k.l': a\n  m: null\n}", {"k.l": "[parameters('a')]", "m": "[null()]"}),
            ("resourceId('A/b', a)", "[resourceId('A/b', parameters('a'))]"),
        ]:
            with self.subTest(bicep):
                self.assertEqual(expression(bicep), arm)

    def test_what_is_not_known_is_refused_with_its_line(self):
        for text, line in [
            ("var a = unknown", "unknown"),
            ("\nresource a 'A/b@1' = if (true) {\n  name: 'x'\n}", "line 2"),
            ("var a = 'open", "line 1"),
            ("var a = map([], x => x)", "line 1"),
            ("var a = '''several'''", "line 1"),
            ("@batchSize(1)\nmodule a 'a.bicep' = [for x in []: {\n}]", "line 2"),
            ("metadata a = 'b'", "line 1"),
            ("param a string?", "line 1"),
            ("var a = [for x in []: x]", "within an expression"),
            ("@sealed()\nparam a string", "@sealed"),
        ]:
            with self.subTest(text), self.assertRaisesRegex(BicepError, line):
                built(text)


TWO = """
param names array
resource one 'A/ones@1' = {
  name: 'one'
}
resource child 'A/ones/twos@1' = [for (name, index) in names: {
  parent: one
  name: name
  properties: {
    number: index
    of: one.properties.kind
    all: [for other in names: '${name}-${other}']
  }
}]
resource role 'B/roles@1' = {
  scope: child[1]
  name: 'role'
}
output ids array = [for (name, index) in names: child[index].id]
"""


class Resources(unittest.TestCase):
    def setUp(self):
        self.json = built(TWO)
        self.one, self.child, self.role = self.json["resources"]

    def test_a_loop_is_a_copy(self):
        self.assertEqual(self.child["copy"], {"name": "child", "count": "[length(parameters('names'))]"})
        self.assertEqual(self.child["name"], "[format('{0}/{1}', 'one', parameters('names')[copyIndex('child')])]")
        self.assertEqual(self.child["properties"]["number"], "[copyIndex('child')]")
        (inner,) = self.child["properties"]["copy"]
        self.assertEqual(inner["name"], "all")
        pair = "parameters('names')[copyIndex('child')], parameters('names')[copyIndex('all')]"
        self.assertEqual(inner["input"], f"[format('{{0}}-{{1}}', {pair})]")

    def test_what_is_spoken_of_is_waited_for(self):
        self.assertEqual(self.child["dependsOn"], ["[resourceId('A/ones', 'one')]"])
        second = "resourceId('A/ones/twos', 'one', parameters('names')[1])"
        self.assertEqual(self.role["dependsOn"], [f"[{second}]"])
        self.assertEqual(self.role["scope"], f"[{second}]")

    def test_it_comes_to_what_was_meant(self):
        scope = evaluate.Scope(self.json, {"names": ["x", "y"]})
        names = [resource["name"] for resource in scope.resources()]
        self.assertEqual(names, ["one", "one/x", "one/y", "role"])
        self.assertEqual([name.rsplit("/", 1)[1] for name in scope.outputs()["ids"]], ["x", "y"])
        second = scope.resources()[2]["properties"]
        self.assertEqual((second["number"], second["all"]), (1, ["y-x", "y-y"]))
        self.assertIsInstance(second["of"], evaluate.Unknown)


MODULE = "param id string\noutput twice string = '${id}${id}'\n"


class Modules(unittest.TestCase):
    text = """
module first 'inner.bicep' = [for group in ['g', 'h']: {
  name: 'first-${group}'
  scope: resourceGroup(group)
  params: {
    id: group
  }
}]
module second 'inner.bicep' = {
  name: 'second'
  params: {
    id: first[1].outputs.twice
  }
}
output end string = second.outputs.twice
"""

    def test_a_module_is_a_deployment_in_its_group(self):
        first, second = built(self.text, inner=MODULE)["resources"]
        self.assertEqual(first["resourceGroup"], "[createArray('g', 'h')[copyIndex('first')]]")
        self.assertEqual(first["properties"]["expressionEvaluationOptions"], {"scope": "inner"})
        self.assertIn("extensionResourceId(format('/subscriptions/{0}/resourceGroups/{1}'", second["dependsOn"][0])

    def test_outputs_arrive(self):
        scope = evaluate.Scope(built(self.text, inner=MODULE), {})
        scope.resources()
        self.assertEqual(scope.outputs(), {"end": "hhhh"})

    def test_what_is_read_before_it_is_there_is_a_fault(self):
        json = built(self.text, inner=MODULE)
        json["resources"].reverse()
        with self.assertRaisesRegex(evaluate.TemplateError, "before it is deployed"):
            evaluate.Scope(json, {}).resources()

    def test_a_parameter_that_is_not_given_is_a_fault(self):
        json = built(self.text.replace("id: group", "other: group"), inner=MODULE)
        with self.assertRaisesRegex(evaluate.TemplateError, "not declared"):
            evaluate.Scope(json, {}).resources()
