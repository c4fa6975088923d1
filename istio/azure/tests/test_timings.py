"""Holds the times of the layers to each other, and to what README.md says of them."""

import json
import re
import unittest

import rules
import yaml
from test_azure import AZURE, TEMPLATE, of_kind

ISTIO = AZURE.parent
# The load balancer's own, which no manifest changes (configure-load-balancer-standard.md): every 5 s, 2 in a row.
LOAD_BALANCER = 5 * 2
# Defaults of a policy (filter/config.md) where base does not say otherwise.
JITTER_PERCENT, MAX_OPEN = 20, 300
# The health route's own timeout: README.md and istio/mesh say so.
HEALTH_TIMEOUT = 2


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)(s|m)", text)
    return int(match[1]) * {"s": 1, "m": 60}[match[2]]


def document(path: str) -> dict:
    return yaml.safe_load((ISTIO / path).read_text())


class Timings(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        defaults = {
            name: about.get("defaultValue") for name, about in json.loads(TEMPLATE.read_text())["parameters"].items()
        }
        cls.interval, cls.timeout = defaults["probeInterval"], defaults["probeTimeout"]
        cls.tolerated, cls.ttl = defaults["toleratedFailures"], defaults["dnsTtl"]
        cls.sees = cls.interval * (cls.tolerated + 1) + cls.timeout
        cls.leaves = cls.sees + cls.ttl
        policy = document("base/circuit-breaker-wasmPlugin.yaml")["spec"]["pluginConfig"]["default"]
        cls.open = seconds(policy["open"]["baseDuration"])
        cls.ramp = seconds(policy["halfOpen"]["ramp"]["duration"])
        cls.route = seconds(document("mesh/shop/shop-virtualService.yaml")["spec"]["http"][-1]["timeout"])
        health = yaml.safe_load(document("overlays/health/kustomization.yaml")["patches"][0]["patch"])[0]["value"]
        cls.after, cls.recover_after = seconds(health["after"]), seconds(health["recoverAfter"])
        cls.gateway = document("mesh/gateway/gateway-deployment.yaml")["spec"]["template"]["spec"]
        properties = of_kind("Microsoft.Network/applicationGateways")[0]["properties"]
        cls.settings = properties["backendHttpSettingsCollection"][0]["properties"]
        cls.probe = properties["probes"][0]["properties"]
        cls.readme = (AZURE / "README.md").read_text()

    def test_a_region_is_left_within_the_bound_that_the_page_says(self):
        self.assertIn(f"**{self.leaves} s**", self.readme)
        self.assertIn(
            f"{self.interval} x ({self.tolerated} + 1) + {self.timeout} + {self.ttl} = {self.leaves}", self.readme
        )

    def test_an_outage_that_one_open_time_gets_over_moves_nobody(self):
        longest = self.open * (100 + JITTER_PERCENT) // 100
        self.assertGreaterEqual(self.after, longest)
        self.assertIn(f"{self.after} >= {longest}", self.readme)

    def test_users_come_back_no_faster_than_the_ramp(self):
        self.assertGreaterEqual(self.ramp, self.ttl)
        self.assertIn(f"{self.ramp} >= {self.ttl}", self.readme)
        self.assertGreaterEqual(self.recover_after, self.ramp)
        self.assertIn(f"{self.recover_after} >= {self.ramp}", self.readme)

    def test_pods_are_still_there_when_traffic_comes_back(self):
        # From the trip on they idle: one longest OPEN, then until all users are back.
        longest = MAX_OPEN * (100 + JITTER_PERCENT) // 100
        away = longest + self.recover_after + self.interval + self.ttl + self.ramp
        for file in [
            "mesh/gateway/gateway-horizontalPodAutoscaler.yaml",
            "mesh/shop/shop-horizontalPodAutoscaler.yaml",
        ]:
            scaler = document(file)["spec"]
            self.assertGreaterEqual(scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"], away, file)
            # Twice the load of a region that is at its target with its least replicas.
            self.assertGreaterEqual(scaler["maxReplicas"], 2 * scaler["minReplicas"], file)
        self.assertIn(
            f"600 >= {longest} + {self.recover_after} + {self.interval} + {self.ttl} + {self.ramp}", self.readme
        )

    def test_each_layer_waits_longer_than_the_one_behind_it(self):
        self.assertGreater(self.settings["requestTimeout"], self.route)
        self.assertGreater(self.timeout, HEALTH_TIMEOUT)
        self.assertGreater(self.settings["connectionDraining"]["drainTimeoutInSec"], self.settings["requestTimeout"])
        self.assertIn(f"{self.settings['requestTimeout']} > {self.route}", self.readme)
        self.assertIn(f"{self.timeout} > {HEALTH_TIMEOUT}", self.readme)

    def test_the_application_gateway_sees_a_lost_gateway_before_traffic_manager_leaves(self):
        sees = self.probe["interval"] * self.probe["unhealthyThreshold"] + self.probe["timeout"]
        self.assertLess(sees, self.sees)
        self.assertIn(f"{sees} < {self.sees}", self.readme)

    def test_the_load_balancer_stops_sending_before_the_gateway_stops(self):
        pause = self.gateway["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        self.assertGreater(pause, LOAD_BALANCER)
        self.assertIn(f"{pause} > {LOAD_BALANCER}", self.readme)

    def test_people_are_called_when_the_machines_have_acted(self):
        waits = [
            seconds(rule["for"])
            for group in rules.groups()
            for rule in group["rules"]
            if rule.get("labels", {}).get("severity") == "critical" and rule["alert"] == "CircuitBreakerRejectingMost"
        ]
        self.assertTrue(waits)
        for wait in waits:
            self.assertGreater(wait, self.leaves)
            self.assertIn(f"{wait} > {self.leaves}", self.readme)

    def test_traffic_managers_own_rules_hold(self):
        # With an interval of 10 s a probe may take 5 to 9 s (traffic-manager-monitoring.md).
        self.assertIn(self.interval, (10, 30))
        self.assertIn(self.timeout, range(5, 10 if self.interval == 10 else 11))
        self.assertIn(self.tolerated, range(10))
