//! `status` and `why` over a cluster, as people run them.
// Tests say what they expect by panicking.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod api_server;

use std::process::{Command, Output};

use api_server::{ApiServer, Pod, Way};
use serde_json::{Value, json};

const CART: &str = "outbound|80||cart.shop.svc.cluster.local";

fn run(server: &ApiServer, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_circuit-breaker"));
    command.args(arguments).args(["--kubeconfig", server.kubeconfig()]).output().unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"))
}

fn page(state: u8) -> String {
    format!("circuit_breaker_circuits{{}} 1\ncircuit_breaker_state{{tag=\"{CART}\"}} {state}\n")
}

fn proxy(name: &'static str, way: Way, page: String) -> Pod {
    Pod { name, container: "istio-proxy", way, page, log: String::new() }
}

#[test]
fn every_proxy_is_asked_in_the_way_that_there_is() {
    let pods = vec![
        proxy("forwarded", Way::Forward, page(2)),
        proxy("proxied", Way::Proxy, page(1)),
        proxy("bare", Way::Forward, "envoy_server_live{} 1\n".to_owned()),
        proxy("gone", Way::None, String::new()),
        Pod { container: "nginx", ..proxy("outside", Way::None, String::new()) },
    ];
    let server = ApiServer::start("status", pods, Vec::new());
    let answer = run(&server, &["status", "-o", "json", "--fail-on", "open"]);
    assert_eq!(answer.status.code(), Some(1));
    let document = document(&answer);
    assert_eq!(document["upstreams"][0]["proxies"], json!({"open": 1, "half_open": 1, "closed": 0}));
    assert_eq!(document["unprotected_proxies"], json!(["shop/bare"]));
    assert_eq!(document["unreachable_proxies"], json!(["shop/gone"]), "a pod without a proxy is not asked");
    let because = document["unreachable_because"]["shop/gone"].as_str().unwrap();
    assert!(because.contains("through the API server: error trying to reach service: connection refused"), "{because}");
}

#[test]
fn why_reads_logs_and_policies_of_the_cluster() {
    let line = json!({
        "upstream": CART, "from": "CLOSED", "to": "OPEN", "reason": "consecutive", "open_ms": 30000,
        "trips_in_a_row": 1, "streak": 5, "mode": "enforce",
    });
    let mut sick = proxy("sick", Way::Forward, page(2));
    sick.log = format!(
        "2026-11-26T23:20:01.000000Z\twarning\tenvoy wasm\twasm log: circuit_breaker transition {line}\tthread=7\n"
    );
    let plugin = |name: &str, url: &str, failures: u32| {
        let config = json!({"default": {"trip": {"consecutiveFailures": failures}}});
        json!({"metadata": {"name": name}, "spec": {"url": url, "pluginConfig": config}})
    };
    let plugins = vec![plugin("breaker", "oci://r/circuit-breaker:1", 7), plugin("waf", "oci://r/waf:1", 9)];
    let silent = proxy("silent", Way::None, String::new());
    let server = ApiServer::start("why", vec![sick, silent], plugins);
    let answer = run(&server, &["why", "cart"]);
    assert_eq!(answer.status.code(), Some(1));
    let text = String::from_utf8(answer.stdout).unwrap();
    for part in [
        "23:20:01  shop/sick  OPEN       5 failures in a row; open for 30 s",
        "WasmPlugin breaker, policy ",
        "trips on 7 failures in a row",
        "the log of shop/silent cannot be had: nodes \"lab\" not found",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("waf"), "another plugin");
}
