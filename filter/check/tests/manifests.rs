//! What a cluster gets and what the documents show: the module takes every policy in it.
// Tests say what they expect by panicking.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

use circuit_breaker_check::files;
use circuit_breaker_core::config::{CONFIG, Config};
use serde::Deserialize;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All files below `istio/` with this ending, by name.
fn found(extension: &str) -> Vec<PathBuf> {
    found_below(&repository().join("istio"), extension)
}

/// All files below a directory with this ending, by name, without what a build has made.
fn found_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let built =
                path.file_name().is_some_and(|name| name == "target" || name.as_encoded_bytes().starts_with(b"."));
            if path.is_dir() && !built {
                open.push(path);
            } else if path.is_file() && path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// The documents of a YAML file.
fn documents(text: &str) -> Vec<Value> {
    let read = |document| Value::deserialize(document).unwrap_or_else(|why| panic!("{why} in\n{text}"));
    serde_yaml_ng::Deserializer::from_str(text).map(read).filter(|document: &Value| !document.is_null()).collect()
}

fn is_plugin(document: &Value) -> bool {
    ["WasmPlugin", "TrafficExtension"].contains(&document["kind"].as_str().unwrap_or_default())
}

fn assert_valid(policy: &str, place: &str) {
    assert!(Config::parse(policy.as_bytes()).is_ok(), "{place}: {}", Config::parse(policy.as_bytes()).unwrap_err());
}

fn base() -> Value {
    documents(&read("istio/base/circuit-breaker-wasmPlugin.yaml")).remove(0)
}

#[test]
fn every_plugin_of_the_manifests_has_a_valid_policy() {
    let mut plugins = 0;
    for path in found("yaml") {
        let text = fs::read_to_string(&path).unwrap();
        if documents(&text).iter().any(is_plugin) {
            for found in files::plugin_configs(&text).unwrap() {
                assert_valid(&found.document, &format!("{}: {}", path.display(), found.resource));
                plugins += 1;
            }
        }
    }
    assert!(plugins >= 3, "{plugins} plugins");
}

/// Overlays change the base by JSON patches. The result is as valid as the base.
#[test]
fn every_overlay_leaves_a_valid_policy() {
    let mut changed = 0;
    for path in found("yaml").iter().filter(|path| path.ends_with("kustomization.yaml")) {
        let overlay = documents(&fs::read_to_string(path).unwrap()).remove(0);
        // Components change the mesh around the breaker: `make test-azure` and the mesh's tests look at them.
        if overlay["kind"] == "Component" {
            continue;
        }
        for patch in overlay["patches"].as_array().into_iter().flatten() {
            if patch["target"]["kind"] == "DestinationRule" {
                continue;
            }
            assert_eq!(patch["target"]["kind"], "WasmPlugin", "{}: a patch of what?", path.display());
            let operations = documents(patch["patch"].as_str().unwrap()).remove(0);
            let mut plugin = base();
            let operations: json_patch::Patch = serde_json::from_value(operations).unwrap();
            json_patch::patch(&mut plugin, &operations).unwrap();
            assert_ne!(plugin, base(), "{} changes nothing", path.display());
            assert_valid(&plugin["spec"]["pluginConfig"].to_string(), &path.display().to_string());
            changed += 1;
        }
    }
    assert!(changed >= 4, "{changed} patches");
}

#[test]
fn a_traffic_extension_is_the_wasm_plugin_under_another_name() {
    let mut plugin = base()["spec"].clone();
    let spec = plugin.as_object_mut().unwrap();
    let around: Vec<_> = ["phase", "priority", "match"].map(|field| spec.remove(field).unwrap()).into();
    let mut seen = 0;
    for path in found("yaml") {
        for document in documents(&fs::read_to_string(&path).unwrap()) {
            if document["kind"] == "TrafficExtension" {
                assert_eq!(document["spec"]["wasm"], plugin, "{}", path.display());
                // Each of the two kinds has its own word for "no phase".
                assert_eq!(
                    (&document["spec"]["phase"], &around[0]),
                    (&"UNSPECIFIED".into(), &"UNSPECIFIED_PHASE".into())
                );
                assert_eq!([&document["spec"]["priority"], &document["spec"]["match"]], [&around[1], &around[2]]);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 2);
}

#[test]
fn the_manifests_ask_for_this_version() {
    let url = base()["spec"]["url"].as_str().unwrap().to_owned();
    assert_eq!(url, format!("oci://registry.example.com/circuit-breaker:{}", env!("CARGO_PKG_VERSION")));
}

/// A registry that is down must not become 403 for every user.
#[test]
fn no_manifest_fails_closed() {
    for path in found("yaml") {
        for document in documents(&fs::read_to_string(&path).unwrap()).iter().filter(|document| is_plugin(document)) {
            let strategy = [&document["spec"]["failStrategy"], &document["spec"]["wasm"]["failStrategy"]];
            assert!(strategy.contains(&&Value::from("FAIL_OPEN")), "{}", path.display());
        }
    }
}

#[test]
fn a_file_has_the_name_of_what_is_in_it_and_says_why() {
    for path in found("yaml") {
        let text = fs::read_to_string(&path).unwrap();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if let Some((_, kind)) = stem.rsplit_once('-').filter(|(_, kind)| *kind != "values") {
            for document in documents(&text) {
                let found = document["kind"].as_str().unwrap_or_default();
                assert_eq!(found.to_lowercase(), kind.to_lowercase(), "{}", path.display());
            }
            for part in text.split("---\n") {
                assert!(part.starts_with("# "), "{}: an object without a comment that says why", path.display());
            }
        }
    }
}

/// The fenced blocks of a Markdown file with these languages.
fn fenced(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        match (&mut open, line.trim()) {
            (None, "```yaml" | "```json") => open = Some(String::new()),
            (Some(block), "```") => {
                blocks.push(std::mem::take(block));
                open = None;
            }
            (Some(block), _) => block.extend([line, "\n"]),
            (None, _) => {}
        }
    }
    blocks
}

/// Every policy in a value: those under `pluginConfig`, or the value itself where it has a policy's fields.
fn policies(value: &Value, found: &mut Vec<Value>) {
    let Some(fields) = value.as_object() else {
        value.as_array().into_iter().flatten().for_each(|item| policies(item, found));
        return;
    };
    if fields.keys().any(|key| CONFIG.iter().any(|field| field.name == key)) {
        found.push(value.clone());
    } else {
        fields.iter().for_each(
            |(key, inner)| {
                if key == "pluginConfig" { found.push(inner.clone()) } else { policies(inner, found) }
            },
        );
    }
}

/// The policies that a document shows.
fn shown(path: &Path) -> Vec<Value> {
    let mut shown = Vec::new();
    for block in fenced(&fs::read_to_string(path).unwrap()) {
        documents(&block).iter().for_each(|document| policies(document, &mut shown));
    }
    shown
}

#[test]
fn every_policy_in_the_documents_is_valid() {
    let mut seen = 0;
    for path in found_below(&repository(), "md") {
        for policy in shown(&path) {
            assert_valid(&policy.to_string(), &format!("{}: {policy}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} policies in the documents");
}

/// A newcomer copies it as it is.
#[test]
fn the_policy_of_the_readme_has_ten_lines() {
    let readme = repository().join("README.md");
    assert_eq!(shown(&readme).len(), 1);
    let block = fenced(&fs::read_to_string(readme).unwrap()).remove(0);
    assert_eq!(block.lines().count(), 10, "{block}");
}

/// `resilience.md` says how the numbers of the layers fit together, and which test shows it.
#[test]
fn the_numbers_of_the_layers_go_together() {
    let only = |file: &str| documents(&read(file)).remove(0);
    let seconds = |value: &Value| -> u64 {
        let text = value.as_str().unwrap_or_else(|| panic!("{value} is no duration"));
        text.strip_suffix('s')
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("{text} is no whole second"))
    };
    let rule = only("istio/mesh/shop/shop-destinationRule.yaml");
    let ejection = &rule["spec"]["trafficPolicy"]["outlierDetection"];
    let connect = &rule["spec"]["trafficPolicy"]["connectionPool"]["tcp"]["connectTimeout"];
    let policy = &base()["spec"]["pluginConfig"]["default"];
    for file in ["istio/mesh/shop/shop-virtualService.yaml", "istio/overlays/fallback/shop-virtualService.yaml"] {
        for route in only(file)["spec"]["http"].as_array().unwrap() {
            if route["name"] == "shop-health" {
                assert_eq!(route["retries"]["attempts"], 0, "{file}: a probe from outside is one request");
                continue;
            }
            let (timeout, retries) = (seconds(&route["timeout"]), &route["retries"]);
            let (tries, per_try) = (1 + retries["attempts"].as_u64().unwrap(), seconds(&retries["perTryTimeout"]));
            assert!(timeout > tries * per_try, "{file}: the last tries are cut off");
            assert!(seconds(connect) < per_try, "{file}: a host that is gone uses up a try");
            let slow = seconds(&policy["trip"]["slowCallDuration"]);
            assert!(2 * per_try < slow && slow < timeout, "{file}: slowCallDuration");
            assert!(seconds(&policy["halfOpen"]["probeTimeout"]) >= timeout, "{file}: probeTimeout");
        }
    }
    let back = seconds(&ejection["baseEjectionTime"]) + seconds(&ejection["interval"]);
    assert!(seconds(&policy["open"]["baseDuration"]) >= back, "a probe meets ejected hosts");
    assert_eq!(policy["trip"]["consecutiveFailures"], ejection["consecutive5xxErrors"]);
}

/// What circuit breaking on Istio is often set to: the sample's routes have it, and an overlay its pool.
#[test]
fn a_pool_of_one_is_an_overlay_and_its_route_is_the_samples() {
    let routes = documents(&read("istio/mesh/shop/shop-virtualService.yaml")).remove(0);
    let route = routes["spec"]["http"].as_array().unwrap().iter().find(|route| route["name"] == "shop").unwrap();
    let (retries, timeout) = (&route["retries"], &route["timeout"]);
    assert_eq!((timeout, &retries["attempts"], &retries["perTryTimeout"]), (&"10s".into(), &3.into(), &"2s".into()));
    let overlay = documents(&read("istio/overlays/tight-pool/kustomization.yaml")).remove(0);
    let operations = documents(overlay["patches"][0]["patch"].as_str().unwrap()).remove(0);
    let mut rule = documents(&read("istio/mesh/shop/shop-destinationRule.yaml")).remove(0);
    let operations: json_patch::Patch = serde_json::from_value(operations).unwrap();
    json_patch::patch(&mut rule, &operations).unwrap();
    let pool = &rule["spec"]["trafficPolicy"]["connectionPool"]["http"];
    assert_eq!((&pool["http1MaxPendingRequests"], &pool["maxRequestsPerConnection"]), (&1.into(), &1.into()));
    assert!(rule["spec"]["trafficPolicy"]["outlierDetection"].is_object());
}

/// The fallback's VirtualService takes the sample's place: it has the same routes, and one more.
#[test]
fn the_fallback_leaves_the_other_routes_as_they_are() {
    let routes = |file: &str| documents(&read(file)).remove(0)["spec"]["http"].as_array().unwrap().clone();
    let mut with = routes("istio/overlays/fallback/shop-virtualService.yaml");
    with.retain(|route| route["name"] != "shop-fallback");
    assert_eq!(with, routes("istio/mesh/shop/shop-virtualService.yaml"));
}

#[test]
fn the_tests_that_resilience_names_are_there() {
    let tests = read("integration/tests/layers.rs");
    let document = read("istio/resilience.md");
    // Only names of tests have so many underscores in code font.
    let named: Vec<_> = document.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 3).collect();
    assert!(named.len() >= 8, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("async fn {name}(")), "{name}");
    }
}
