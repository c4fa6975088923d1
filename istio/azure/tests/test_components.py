"""Builds the components by kustomize, as a cluster would get them, and looks at what they change."""

import os
import subprocess
import unittest
from ipaddress import ip_address, ip_network
from pathlib import Path

import rules
import yaml
from test_azure import given, of_kind

AZURE = rules.AZURE
# What Azure keeps of a series. Without these in a monitor it drops longer ones (prometheus-metrics-scrape-crd.md).
LIMITS = {"labelLimit": 63, "labelNameLengthLimit": 511, "labelValueLengthLimit": 1023}
LOCALDNS = {"169.254.10.10/32", "169.254.10.11/32"}


def built(directory: Path) -> list:
    ran = subprocess.run([os.environ["KUBECTL"], "kustomize", str(directory)], capture_output=True, text=True)
    if ran.returncode:
        raise AssertionError(ran.stderr)
    return [document for document in yaml.safe_load_all(ran.stdout) if document]


def of(documents: list, kind: str, name: str | None = None) -> list:
    return [found for found in documents if found["kind"] == kind and name in (None, found["metadata"]["name"])]


class Components(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.mesh = built(AZURE.parent / "mesh")
        cls.azure = built(AZURE / "mesh")

    def test_the_load_balancer_is_where_the_application_gateway_sends_to(self):
        (service,) = of(self.azure, "Service", "ingressgateway")
        address = service["metadata"]["annotations"]["service.beta.kubernetes.io/azure-load-balancer-ipv4"]
        self.assertEqual(address, given()["regions"][0]["loadBalancerAddress"])
        pools = of_kind("Microsoft.Network/applicationGateways")[0]["properties"]["backendAddressPools"]
        self.assertEqual(pools[0]["properties"]["backendAddresses"], [{"ipAddress": address}])
        hidden = {
            port["port"]
            for port in service["spec"]["ports"]
            if f"service.beta.kubernetes.io/port_{port['port']}_no_lb_rule" in service["metadata"]["annotations"]
        }
        self.assertEqual(hidden, {15021})

    def test_each_address_is_where_it_can_be(self):
        networks = []
        for region in given()["regions"]:
            network = ip_network(region["network"])
            subnets = {name: ip_network(subnet) for name, subnet in region["subnets"].items()}
            self.assertTrue(all(subnet.subnet_of(network) for subnet in subnets.values()))
            self.assertIn(ip_address(region["loadBalancerAddress"]), subnets["nodes"])
            self.assertIn(ip_address(region["privateListenerAddress"]), subnets["gateway"])
            self.assertFalse(any(network.overlaps(other) for other in networks), "regions may be peered")
            networks.append(network)

    def test_the_gateway_answers_the_application_gateways_probe_itself(self):
        (routes,) = of(self.azure, "VirtualService", "shop")
        first = routes["spec"]["http"][0]
        self.assertEqual(first["match"][0]["uri"], {"exact": given()["gatewayHealthPath"]})
        self.assertEqual(first["directResponse"], {"status": 200})
        self.assertNotIn("route", first)
        # The others are as they were.
        (before,) = of(self.mesh, "VirtualService", "shop")
        self.assertEqual(routes["spec"]["http"][1:], before["spec"]["http"])

    def test_monitors_have_ports_by_name_azures_limits_and_pods(self):
        monitors = of(self.azure, "PodMonitor")
        self.assertEqual(len(monitors), 2)
        (gateway,) = of(self.azure, "Deployment", "ingressgateway")
        ports = [
            port.get("name")
            for container in gateway["spec"]["template"]["spec"]["containers"]
            for port in container["ports"]
        ]
        # Istio's injector names this one in every sidecar.
        known = {*ports, "http-envoy-prom"}
        for monitor in monitors:
            self.assertEqual(monitor["apiVersion"], "azmonitoring.coreos.com/v1")
            self.assertLessEqual(
                set(monitor["spec"]), {*LIMITS, "selector", "namespaceSelector", "podMetricsEndpoints"}
            )
            self.assertEqual({name: monitor["spec"][name] for name in LIMITS}, LIMITS)
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                self.assertLessEqual(set(endpoint), {"port", "path", "interval"})
                self.assertIn(endpoint["port"], known)

    def test_policies_let_the_collector_in_and_names_out(self):
        policies = of(self.azure, "NetworkPolicy", "proxy")
        self.assertEqual(len(policies), 2)
        for policy in policies:
            scrapes, names = policy["spec"]["ingress"][0], policy["spec"]["egress"][0]
            self.assertIn(15020, [port["port"] for port in scrapes["ports"]])
            collectors = [
                peer
                for peer in scrapes["from"]
                if peer.get("podSelector", {}).get("matchLabels") == {"rsName": "ama-metrics"}
            ]
            self.assertEqual(len(collectors), 1)
            self.assertEqual({port["port"] for port in names["ports"]}, {53})
            self.assertEqual({peer["ipBlock"]["cidr"] for peer in names["to"] if "ipBlock" in peer}, LOCALDNS)

    def test_nothing_but_this_is_changed(self):
        changed = {
            ("Service", "ingressgateway"),
            ("NetworkPolicy", "proxy"),
            ("VirtualService", "shop"),
        }
        for document in self.mesh:
            if (document["kind"], document["metadata"]["name"]) not in changed:
                self.assertIn(document, self.azure)
        extra = {found["kind"] for found in self.azure} - {found["kind"] for found in self.mesh}
        self.assertEqual(extra, {"PodMonitor"})

    def test_cilium_names_the_node_in_each_namespace_that_denies_by_default(self):
        policies = yaml.safe_load_all(
            (AZURE / "components/localdns-cilium/localdns-ciliumNetworkPolicy.yaml").read_text()
        )
        found = {policy["metadata"]["namespace"]: policy["spec"] for policy in policies}
        denied = {policy["metadata"]["namespace"] for policy in of(self.mesh, "NetworkPolicy", "default-deny")}
        self.assertEqual(set(found), denied)
        for spec in found.values():
            self.assertEqual(spec["endpointSelector"], {})
            self.assertEqual(spec["egress"][0]["toEntities"], ["host"])
            self.assertEqual({port["port"] for port in spec["egress"][0]["toPorts"][0]["ports"]}, {"53"})
