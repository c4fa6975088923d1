//! Two plugins in one proxy.

use std::sync::atomic::{AtomicU64, Ordering};

use circuit_breaker_integration::for_one_and_four_workers;
use circuit_breaker_integration::scenario::{LISTENER, Scenario, State};
use circuit_breaker_integration::wait::until;
use serde_json::json;

for_one_and_four_workers!(plugins_of_different_names_share_neither_circuits_nor_series);

async fn plugins_of_different_names_share_neither_circuits_nor_series(workers: u32) {
    let forced = r#"{"default": {}, "upstreams": [{"match": {"cluster": "other"}, "mode": "forceOpen"}]}"#;
    let scenario = Scenario::start_with(workers, "", |bootstrap| {
        let mut second = bootstrap.filter_document(LISTENER, forced)["resources"][0]["typed_config"].clone();
        second["config"]["root_id"] = json!("second");
        bootstrap.filters_after.push(json!({"name": "second", "typed_config": second}));
    })
    .await;
    let uptime = || async { scenario.envoy.stats().await.unwrap().get("server.uptime").copied().unwrap_or(0) };
    let begun = uptime().await;
    let asked = AtomicU64::new(0);
    let ask = || async {
        asked.fetch_add(1, Ordering::Relaxed);
        assert_eq!(scenario.get("/sick").await.status, 200);
        assert_eq!(scenario.get("/other").await.header("x-circuit-breaker"), "forced-open");
        uptime().await
    };
    // After so many ticks of each plugin it would show if one changed the other's circuits.
    until("three seconds of both", ask, |now| *now >= begun + 3).await;
    assert_eq!(scenario.reasons(), ["forced"]);
    assert_eq!(scenario.state("other").await, Some(State::Closed), "the first plugin's");
    let stats = scenario.envoy.stats().await.unwrap();
    let of = |plugin: &str, rest: &str| stats.get(&format!("wasmcustom.wasm_filter.{plugin}.{rest}")).copied();
    assert_eq!(of("second", "tag.other;.circuit_breaker_state"), Some(2));
    for plugin in ["circuit_breaker", "second"] {
        let good = of(plugin, "component.success.tag.sick;.circuit_breaker_calls_total");
        assert_eq!(good, Some(asked.load(Ordering::Relaxed)), "{plugin} counts each call once");
    }
}
