//! `circuit-breaker why`, as people run it, over files.
// Tests say what they expect by panicking.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

const PAGE: &str = r#"
circuit_breaker_circuits{} 2
circuit_breaker_info{component="00000000",tag="0.1.0-89abcdef"} 1
circuit_breaker_state{tag="outbound|80||cart.shop.svc.cluster.local"} 2
circuit_breaker_open_until_seconds{tag="outbound|80||cart.shop.svc.cluster.local"} 4000000000
circuit_breaker_trips_total{tag="outbound|80||cart.shop.svc.cluster.local",component="consecutive"} 1
circuit_breaker_failures_total{tag="outbound|80||cart.shop.svc.cluster.local",component="connect"} 5
circuit_breaker_state{tag="outbound|80||well.shop.svc.cluster.local"} 0
circuit_breaker_state{tag="outbound|81||well.shop.svc.cluster.local"} 0
envoy_cluster_outlier_detection_ejections_active{cluster_name="outbound|80||cart.shop.svc.cluster.local"} 2
"#;

const LOG: &str = r#"
2026-11-26T23:20:01.123456Z	warning	envoy wasm	wasm log: circuit_breaker transition {"upstream":"outbound|80||cart.shop.svc.cluster.local","from":"CLOSED","to":"OPEN","reason":"consecutive","generation":1,"open_ms":31000,"trips_in_a_row":1,"window":{"calls":6,"failures":5,"slow":0,"over_threshold":0},"streak":5,"mode":"enforce"}	thread=21
2026-11-26T23:20:02.000000Z	warning	envoy wasm	wasm log: circuit_breaker transition {"upstream":"other","from":"CLOSED","to":"OPEN","reason":"latency"}	thread=21
"#;

const POLICY: &str = "default: {trip: {consecutiveFailures: 5}, open: {baseDuration: 31s}}\n";

/// `why` with these arguments, in a directory that holds `page`, `log` and `policy.yaml`.
fn why(name: &str, arguments: &[&str]) -> Output {
    let directory = std::env::temp_dir().join(format!("circuit-breaker-why-{}-{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    for (file, text) in [("page", PAGE), ("log", LOG), ("policy.yaml", POLICY)] {
        fs::write(directory.join(file), text).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_circuit-breaker"));
    let output = command.current_dir(&directory).arg("why").args(arguments).output().unwrap();
    fs::remove_dir_all(directory).unwrap();
    output
}

#[test]
fn the_cause_the_policy_and_the_next_step_are_told() {
    let answer = why("all", &["cart", "--stats", "page", "--log", "log", "--policy", "policy.yaml"]);
    assert_eq!(answer.status.code(), Some(1), "it is not fine");
    let text = String::from_utf8(answer.stdout).unwrap();
    for part in [
        "cart.shop:80 is OPEN in 1 of 1 proxies; the first probe in ",
        "23:20:01  log  OPEN       5 failures in a row; open for 31 s\n",
        "failures  connect 5\n",
        "ejected   2 of its hosts now",
        "the file, policy ",
        ", not in use by these proxies\n",
        "mode enforce; trips on 5 failures in a row, or ",
        "open for 31s, x 2",
        "nobody accepts connections there:",
        "istio/monitoring/runbooks.md#circuitbreakeropen",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("latency"), "another upstream's transition");
}

#[test]
fn logs_alone_are_enough_and_programs_get_json() {
    let answer = why("log", &["cart.shop:80", "--log", "log", "-o", "json"]);
    let document: Value = serde_json::from_slice(&answer.stdout).unwrap_or_else(|_| panic!("{answer:?}"));
    assert_eq!((&document["state"], &document["proxies"]["open"]), (&json!("OPEN"), &json!(1)));
    let made = &document["transitions"][0];
    assert_eq!((&made["at"], &made["reason"]), (&json!("2026-11-26T23:20:01.123Z"), &json!("consecutive")));
    assert_eq!(document["next_step"]["runbook"], "CircuitBreakerOpen");
}

#[test]
fn a_name_must_mean_one_upstream() {
    for (name, wanted, code, said) in [
        ("one", "outbound|80||well.shop.svc.cluster.local", 0, ""),
        ("port", "well.shop:81", 0, ""),
        ("two", "well", 2, "well may mean outbound|80||well"),
        ("none", "nobody", 2, "no proxy knows nobody"),
    ] {
        let answer = why(name, &[wanted, "--stats", "page"]);
        let complaint = String::from_utf8(answer.stderr).unwrap();
        assert_eq!(answer.status.code(), Some(code), "{complaint}");
        assert!(complaint.contains(said), "{complaint}");
    }
}
