"""Holds `../*.bicep` and `../main.json` to each other, to Azure's models, to checkov and to the rest of istio/.

`UPDATE_AZURE=1 make test-azure` writes what is generated: the rule groups and main.json.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path

import evaluate
import models
import rules
import template
import yaml

AZURE = rules.AZURE
MAIN = AZURE / "main.bicep"
TEMPLATE = AZURE / "main.json"
DEPLOYMENT = template.DEPLOYMENT


def given() -> dict:
    example = json.loads((AZURE / "example.parameters.json").read_text())
    return {name: about["value"] for name, about in example["parameters"].items()}


def deployed(changed: dict | None = None) -> list:
    return evaluate.resources(json.loads(TEMPLATE.read_text()), given() | (changed or {}))


def of_kind(kind: str) -> list:
    return [resource for resource in deployed() if resource["type"] == kind]


def held(path: Path, text: str, test: unittest.TestCase):
    """The file says this text, or is made to."""
    if os.environ.get("UPDATE_AZURE"):
        path.write_text(text)
    test.assertEqual(path.read_text(), text, f"{path.name} is stale: UPDATE_AZURE=1 make test-azure writes it")


class Generated(unittest.TestCase):
    """In the order in which one is made from the other."""

    def test_1_rule_groups_are_the_rules_of_monitoring(self):
        self.assertTrue(rules.groups())
        held(rules.WRITTEN, rules.bicep(), self)

    def test_2_the_json_is_what_the_bicep_says(self):
        held(TEMPLATE, template.printed(template.build(MAIN)), self)


def spoken(text: str) -> tuple:
    """What a file of Bicep says, line by line, without a parser: declarations, names of properties, plain values."""
    declared, names, strings = Counter(), Counter(), Counter()
    for line in text.splitlines():
        line = re.sub(r"(^|\s)//.*", "", line)
        if match := re.match(r"resource \w+ '([^']+)' = ", line):
            declared[match[1]] += 1
        match = re.match(r"  +'?([\w${}.]+)'?: (.*)", line)
        if not match or line.startswith("  parent:") or line.startswith("  scope:") or line.startswith("  dependsOn:"):
            continue
        if not match[1].startswith("$"):
            names[match[1]] += 1
        if plain := re.fullmatch(r"'((?:[^'\\$]|\\.|\$(?!\{))*)'", match[2]):
            strings[re.sub(r"\\(.)", r"\1", plain[1])] += 1
        elif re.fullmatch(r"\d+|true|false", match[2]):
            strings[match[2]] += 1
    return declared, names, strings


def written(resource, declared: Counter, names: Counter, strings: Counter):
    """The same of ARM JSON; a copy of a property is the property."""
    if isinstance(resource, list):
        for item in resource:
            written(item, declared, names, strings)
        return
    for key, value in resource.items():
        if key == "copy" and isinstance(value, list):
            written([{copy["name"]: copy["input"]} for copy in value], declared, names, strings)
            continue
        if not key.startswith("["):
            names[key] += 1
        if isinstance(value, str) and not re.match(r"\[(?!\[)", value):
            strings[value] += 1
        elif isinstance(value, int):
            strings[json.dumps(value)] += 1
        elif isinstance(value, dict | list):
            written(
                [item for item in value if isinstance(item, dict)] if isinstance(value, list) else value,
                declared,
                names,
                strings,
            )


def templates() -> dict:
    """Each module's template, by the file that it comes from."""
    return {path: properties["template"] for path, properties in deployments().items()}


def parameters() -> dict:
    return {path: properties["parameters"] for path, properties in deployments().items()}


def deployments() -> dict:
    found = {}
    names = re.findall(r"module \w+ '([^']+)' = .*\n  name: '([^'$]+)", MAIN.read_text())
    for resource in json.loads(TEMPLATE.read_text())["resources"]:
        for path, name in names:
            plain = re.sub(r"^\[format\('|\{0\}.*", "", resource["name"])
            if plain == name:
                found[path] = resource["properties"]
    return found


class Same(unittest.TestCase):
    """The writer of the JSON could leave something out. These look at the Bicep as text, and at the JSON by itself."""

    def test_each_module_of_the_bicep_is_in_the_json(self):
        files = {f"modules/{path.name}" for path in (AZURE / "modules").glob("*.bicep")}
        self.assertEqual(files, set(templates()))

    def test_each_resource_has_the_same_settings_in_both(self):
        for path, found in templates().items():
            with self.subTest(path):
                text = (AZURE / path).read_text()
                # `existing` resources are spoken of and not made.
                text = re.sub(r"resource \w+ '[^']+' existing = \{.*?\n\}", "", text, flags=re.DOTALL)
                declared, names, strings = Counter(), Counter(), Counter()
                for resource in found["resources"]:
                    declared[f"{resource['type']}@{resource['apiVersion']}"] += 1
                    body = {
                        key: value
                        for key, value in resource.items()
                        if key not in ("type", "apiVersion", "dependsOn", "scope")
                    }
                    if isinstance(body.get("copy"), dict):
                        del body["copy"]
                    # A child's name has its parent's before it.
                    body["name"] = re.sub(r"^\[format\('\{0\}/\{1\}', .*, '([^']*)'\)\]$", r"\1", body["name"])
                    written(body, Counter(), names, strings)
                self.assertEqual(spoken(text), (declared, names, strings))
                self.assertTrue(declared)

    def test_each_module_gets_the_same_parameters_in_both(self):
        blocks = re.findall(r"^module \w+ '([^']+)' = (.*?)\n\}", MAIN.read_text(), re.MULTILINE | re.DOTALL)
        self.assertEqual(len(blocks), len(templates()))
        for path, block in blocks:
            with self.subTest(path):
                self.assertEqual(set(re.findall(r"^    (\w+): ", block, re.MULTILINE)), set(parameters()[path]))

    def test_a_setting_that_is_in_one_alone_is_seen(self):
        text = (AZURE / "modules/traffic-manager.bicep").read_text()
        without = text.replace("      timeoutInSeconds: probeTimeout\n", "")
        self.assertNotEqual(text, without)
        self.assertNotEqual(spoken(text), spoken(without))
        self.assertNotEqual(spoken(text), spoken(text.replace("'HTTPS'", "'HTTP'")))
        self.assertNotEqual(spoken(text), spoken(text.replace("port: 443", "port: 80")))


class Deployed(unittest.TestCase):
    def test_models_have_nothing_to_say(self):
        found = [
            f"{resource['type']} {resource['name']}: {fault}"
            for resource in deployed()
            if resource["type"] != DEPLOYMENT
            for fault in models.faults(resource)
        ]
        self.assertEqual(found, [])

    def test_models_name_what_is_wrong(self):
        profile = of_kind("Microsoft.Network/trafficManagerProfiles")[0]
        rule = of_kind("Microsoft.Insights/dataCollectionRules")[0]
        for resource, path, value, fault in [
            (profile, "properties.monitorConfig.tolerated", 3, "no such field"),
            (profile, "properties.monitorConfig.port", "443", "is no int"),
            (profile, "properties.monitorConfig.protocol", "HTTP/2", "is none of"),
            (profile, "properties.endpoints", {}, "is no list"),
            (profile, "properties.dnsConfig.fqdn", "shop.example.com", "only Azure sets it"),
            (profile, "apiVersion", "2015-11-01", "the model is of"),
            (profile, "type", "Microsoft.Network/trafficManager", "no model is known"),
            (of_kind("Microsoft.ContainerRegistry/registries")[0], "sku", {}, "requires it"),
            (rule, "properties.dataFlow", [], "no such field"),
            (rule, "kind", "Solaris", "is none of"),
            (
                of_kind("Microsoft.AlertsManagement/prometheusRuleGroups")[0],
                "properties.interval",
                "1m",
                "is no duration",
            ),
        ]:
            with self.subTest(path):
                changed = json.loads(json.dumps(resource))
                *way, last = path.split(".")
                at = changed
                for step in way:
                    at = at[step]
                at[last] = value
                self.assertIn(fault, " ".join(models.faults(changed)))

    def test_everything_that_is_waited_for_is_deployed(self):
        found = deployed()
        there = {resource["id"] for resource in found}
        copies = {module for module in re.findall(r"^module (\w+) ", MAIN.read_text(), re.MULTILINE)}
        for resource in found:
            for awaited in resource.get("dependsOn", []):
                self.assertIn(awaited, there | copies, resource["id"])

    def test_no_two_resources_are_one(self):
        names = Counter(resource["id"] for resource in deployed())
        self.assertEqual([name for name, count in names.items() if count > 1], [])

    def test_limits_of_parameters_hold(self):
        for changed in [
            {"toleratedFailures": 10},
            {"probeInterval": 20},
            {"prefix": "x"},
            {"regions": given()["regions"][:1]},
            {"dnsTtl": "30"},
        ]:
            with self.subTest(changed), self.assertRaises(evaluate.TemplateError):
                deployed(changed)


class Checkov(unittest.TestCase):
    """On the Bicep as it stands, and on the resources that the JSON comes to: it looks into no nested template."""

    def test_each_finding_is_explained_and_each_explanation_is_needed(self):
        with tempfile.TemporaryDirectory() as directory:
            flat = [resource for resource in deployed() if resource["type"] != DEPLOYMENT]
            whole = {"$schema": template.SCHEMA, "contentVersion": "1.0.0.0", "resources": flat}
            (Path(directory) / "flat.json").write_text(json.dumps(whole))
            shutil.copy(MAIN, directory)
            shutil.copytree(AZURE / "modules", Path(directory) / "modules")
            reports = checkov(Path(directory))
        explained = {
            (entry["check"], entry["resource"]) for entry in yaml.safe_load((AZURE / "checkov.yaml").read_text())
        }
        self.assertEqual({report["check_type"] for report in reports}, {"bicep", "arm"})
        found = set()
        for report in reports:
            self.assertGreater(report["summary"]["passed"], 20, report["check_type"])
            self.assertEqual(report["summary"]["parsing_errors"], 0, report["check_type"])
            for finding in report["results"]["failed_checks"]:
                found.add((finding["check_id"], finding["resource"].split(".")[1].split("/")[-1]))
        self.assertEqual(found, explained)


def checkov(directory: Path) -> list:
    """One report for each of the two forms. One run for both: most of its time it starts."""
    arguments = ["-d", str(directory), "--framework", "bicep", "arm", "-o", "json", "--skip-download", "--soft-fail"]
    ran = subprocess.run(
        [sys.executable, "-m", "checkov.main", *arguments],
        env=os.environ | {"LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise AssertionError(ran.stderr)
    return json.loads(ran.stdout)
