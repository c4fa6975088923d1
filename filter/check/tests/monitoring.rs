//! What istio/monitoring scrapes is there to be scraped, by both operators alike.
// Tests say what they expect by panicking.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

const MONITORS: &str = "istio/monitoring/circuit-breaker-podMonitor.yaml";
const AZURE: &str = "istio/monitoring/azure/circuit-breaker-podMonitor.yaml";

/// The pods of Azure Monitor's collector.
const COLLECTOR: &str = "ama-metrics";

fn documents(path: &str) -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    let text = fs::read_to_string(&file).unwrap_or_else(|why| panic!("{path}: {why}"));
    let read = |document| Value::deserialize(document).unwrap_or_else(|why| panic!("{why} in {path}"));
    serde_yaml_ng::Deserializer::from_str(&text).map(read).filter(|document: &Value| !document.is_null()).collect()
}

fn endpoint(monitor: &Value) -> &Value {
    let endpoints = monitor["spec"]["podMetricsEndpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 1, "two endpoints of one pod would count each request twice");
    &endpoints[0]
}

#[test]
fn azure_monitor_scrapes_what_the_operator_scrapes() {
    let mut monitors = documents(MONITORS);
    assert_eq!(monitors.len(), 2, "gateways and sidecars");
    for monitor in &mut monitors {
        assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
        monitor["apiVersion"] = json!("azmonitoring.coreos.com/v1");
    }
    assert_eq!(monitors, documents(AZURE));
}

#[test]
fn the_gateway_has_the_label_and_the_named_port_that_are_scraped() {
    let monitors = documents(MONITORS);
    let monitor = monitors.iter().find(|monitor| monitor["metadata"]["name"] == "circuit-breaker-gateways").unwrap();
    let gateway = documents("istio/mesh/gateway/gateway-deployment.yaml").remove(0);
    let template = &gateway["spec"]["template"];
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&template["metadata"]["labels"][label], value, "{label}");
    }
    let ports = template["spec"]["containers"][0]["ports"].as_array().unwrap();
    let port = ports.iter().find(|port| port["name"] == endpoint(monitor)["port"]).unwrap();
    assert_eq!(port["containerPort"], 15020, "the page with the agent's own series");
}

#[test]
fn network_policies_admit_both_collectors_to_each_port_that_is_scraped() {
    for path in ["istio/mesh/gateway/gateway-networkPolicy.yaml", "istio/mesh/shop/shop-networkPolicy.yaml"] {
        let policies = documents(path);
        let proxies = policies.iter().find(|policy| policy["metadata"]["name"] == "proxy").unwrap();
        let rule = &proxies["spec"]["ingress"][0];
        let ports: Vec<_> = rule["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
        assert_eq!(ports, [15020, 15090], "{path}");
        let from = rule["from"].as_array().unwrap();
        let namespace = |peer: &Value| peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"].clone();
        assert!(from.iter().any(|peer| namespace(peer) == "monitoring" && peer["podSelector"].is_null()), "{path}");
        let azure = from.iter().find(|peer| namespace(peer) == "kube-system").unwrap();
        assert_eq!(azure["podSelector"]["matchLabels"], json!({"rsName": COLLECTOR}), "{path}");
    }
}

#[test]
fn every_dashboard_is_in_the_kustomization_and_every_one_there_is_a_file() {
    let kustomization = documents("istio/monitoring/kustomization.yaml").remove(0);
    let maps = kustomization["configMapGenerator"].as_array().unwrap();
    let files = maps.iter().flat_map(|map| map["files"].as_array().unwrap());
    let mut listed: Vec<_> = files.map(|file| file.as_str().unwrap().to_owned()).collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../istio/monitoring/dashboards");
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<_> =
        names.filter(|name| name.ends_with(".json")).map(|name| format!("dashboards/{name}")).collect();
    found.sort();
    listed.sort();
    assert_eq!(listed, found);
}
