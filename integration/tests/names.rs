//! Each upstream has series of its own, whatever its name is.

use circuit_breaker_integration::bootstrap::Cluster;
use circuit_breaker_integration::client;
use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{LISTENER, Scenario};
use circuit_breaker_integration::wait::until;
use serde_json::json;

for_one_and_four_workers!(every_name_has_series_of_its_own);

/// Names, and their form in a label where that differs.
fn names() -> Vec<(String, String)> {
    let plain = [
        "a_b",
        "a.b",
        "a..b",
        "a:b",
        "a://b",
        "a|b",
        "a b",
        "a,b",
        "a=b",
        "{a}",
        "a@b",
        "a#b",
        "a/b",
        "a?b=c",
        "ä.ö",
        "tag.a",
        "x.tag.a.b",
        "cluster.a.b",
        "http.a.b",
        "circuit_breaker_state",
        "a.circuit_breaker_calls_total",
        "wasm_filter.other.x",
        "outbound|80||components.shop.svc.cluster.local",
        "_rq_200",
        "-",
        "UPPER.lower",
        "日本.東京",
    ];
    let escaped = [
        ("a;b", "a%3bb"),
        ("a;.b", "a%3b.b"),
        ("a%3bb", "a%253bb"),
        ("outbound|80||web-component.shop.svc.cluster.local", "outbound|80||web-component%2eshop.svc.cluster.local"),
        ("component.success.x", "component%2esuccess.x"),
        ("a\tb", "a%09b"),
        ("a\nb", "a%0ab"),
    ];
    // A label's value in Prometheus' text format.
    let quoted = [("a\"b", "a\\\"b"), ("a\\b", "a\\\\b")];
    let own = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
    let long = [250, 5_000, 70_000].map(|length| "long.name-".repeat(length / 10));
    let all = plain.iter().map(|name| ((*name).to_owned(), (*name).to_owned()));
    let all = all.chain(escaped.iter().map(own)).chain(quoted.iter().map(own));
    all.chain(long.iter().map(|name| (format!("{name}end"), format!("{name}end")))).collect()
}

async fn every_name_has_series_of_its_own(workers: u32) {
    let names = names();
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        let address = bootstrap.clusters[1].address.expect("it has one");
        bootstrap.clusters.extend(names.iter().map(|(name, _)| Cluster::new(name, address)));
        bootstrap.routes = (0..)
            .zip(&names)
            .map(|(number, (name, _)): (u32, _)| json!({"match": {"path": format!("/number/{number}")}, "route": {"cluster": name}}))
            .collect();
    })
    .await;
    for (number, (name, _)) in names.iter().enumerate() {
        for _ in 0..=number {
            let reply = client::get(scenario.envoy.address(LISTENER), &format!("/number/{number}")).await.unwrap();
            assert_eq!(reply.status, 200, "{name:.99}");
        }
    }
    let seen = || async { scenario.envoy.prometheus().await.unwrap() };
    let all = |text: &String| {
        let calls = text
            .lines()
            .filter(|line| line.starts_with("circuit_breaker_calls_total{") && line.contains("\"success\""));
        calls.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum::<usize>()
            == names.len() * (names.len() + 1) / 2
    };
    let text = until("all calls to be counted", seen, all).await;
    for (number, (name, label)) in names.iter().enumerate() {
        let series = [
            format!(
                "circuit_breaker_calls_total{{component=\"success\",tag=\"{label}\",wasm_filter=\"circuit_breaker\"}} {}",
                number + 1
            ),
            format!("circuit_breaker_state{{tag=\"{label}\",wasm_filter=\"circuit_breaker\"}} 0"),
        ];
        for line in series {
            let close: Vec<&str> =
                text.lines().filter(|line| line.contains("_state{") || line.contains("\"success\"")).collect();
            assert!(text.lines().any(|seen| seen == line), "{name:.99}: no {line:.300} in\n{:.9000}", close.join("\n"));
        }
    }
}
