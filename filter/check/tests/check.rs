//! `circuit-breaker check`, as people run it.
// Tests say what they expect by panicking.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::process::Command;

/// Exit status, standard output, standard error of `check` on a file with this text.
fn check(name: &str, text: &str, more: &[&str]) -> (bool, String, String) {
    let file = std::env::temp_dir().join(format!("circuit-breaker-{}-{name}", std::process::id()));
    fs::write(&file, text).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_circuit-breaker")).arg("check").arg(&file).args(more).output().unwrap();
    fs::remove_file(file).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

const PLUGIN: &str = "
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: breaker}
spec:
  url: oci://registry/circuit-breaker:1
  pluginConfig:
    default: {mode: observe}
    upstreams:
    - match: {host: '*.payments.svc.cluster.local'}
      trip: {consecutiveFailures: 3}
";

#[test]
fn a_bare_document_and_resources_are_checked() {
    assert!(check("bare.json", "{\"default\": {\"mode\": \"observe\"}}", &[]).0);
    assert!(check("bare.yaml", "default:\n  mode: observe\n", &[]).0);
    let (valid, out, _) = check("plugin.yaml", PLUGIN, &[]);
    assert!(valid && out.contains("WasmPlugin breaker: valid, policy "), "{out}");
    let hash = |name: &str, text: &str| check(name, text, &[]).1.rsplit_once(' ').unwrap().1.to_owned();
    assert_eq!(
        hash("one.yaml", "default: {mode: observe}"),
        hash("same.json", "{\"default\": {\"mode\": \"observe\"}}")
    );
    assert_ne!(hash("enforce.yaml", "default: {mode: enforce}"), hash("observe.yaml", "default: {mode: observe}"));
    let extension = PLUGIN
        .replace("WasmPlugin", "TrafficExtension")
        .replace("  url: oci://registry/circuit-breaker:1\n  pluginConfig:", "  wasm:\n   pluginConfig:");
    assert!(check("extension.yaml", &extension, &[]).0);
    assert!(check("both.yaml", &format!("{PLUGIN}---\nkind: Service\n---{extension}"), &[]).0);
}

#[test]
fn a_refusal_has_the_modules_words_and_a_status() {
    let (valid, _, error) = check("bad.yaml", &PLUGIN.replace("consecutiveFailures", "consecutiveFailure"), &[]);
    assert!(!valid);
    assert!(
        error.contains(
            "WasmPlugin breaker: upstreams[0].trip.consecutiveFailure: unknown field; did you mean consecutiveFailures?"
        ),
        "{error}"
    );
    let (valid, _, error) = check("twice.json", "{\"default\": {}, \"default\": {}}", &[]);
    assert!(!valid && error.contains("default: the key stands twice"), "{error}");
    let (valid, _, error) = check("none.yaml", "kind: Service\n", &[]);
    assert!(!valid && error.contains("no WasmPlugin or TrafficExtension"), "{error}");
    let (valid, _, error) = check("broken.yaml", "a: [", &[]);
    assert!(!valid && error.contains("neither YAML nor JSON"), "{error}");
}

#[test]
fn the_effective_policy_of_an_upstream_is_shown() {
    let upstream = "outbound|443||api.payments.svc.cluster.local";
    let (valid, out, _) = check("effective.yaml", PLUGIN, &["--upstream", upstream]);
    assert!(valid && out.contains("\"consecutiveFailures\": 3") && out.contains("\"mode\": \"observe\""), "{out}");
    let (_, other, _) = check("other.yaml", PLUGIN, &["--upstream", "outbound|80||a.b"]);
    assert!(other.contains("\"consecutiveFailures\": 5"), "{other}");
    // What `check` shows is a document that parses to the same policy.
    let (_, document) = out.split_once('\n').unwrap();
    let (valid, again, error) = check("again.json", document, &["--upstream", upstream]);
    assert!(valid, "{error}");
    assert_eq!(again.split_once('\n').unwrap().1, document);
}

/// Exit status and all that `check` says about these files.
fn check_all(name: &str, files: &[(&str, &str)]) -> (Option<i32>, String) {
    let directory = std::env::temp_dir().join(format!("circuit-breaker-{}-{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    files.iter().for_each(|(file, text)| fs::write(directory.join(file), text).unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_circuit-breaker"));
    let output =
        command.current_dir(&directory).arg("check").args(files.iter().map(|(file, _)| file)).output().unwrap();
    fs::remove_dir_all(directory).unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), text)
}

#[test]
fn all_faults_of_a_resource_have_their_places_in_the_file() {
    let bad =
        PLUGIN.replace("mode: observe", "mode: watch").replace("consecutiveFailures: 3", "consecutiveFailures: -3");
    let (code, said) = check_all("places", &[("plugin.yaml", &bad)]);
    assert_eq!(code, Some(1));
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("plugin.yaml:8:15: WasmPlugin breaker: default.mode: \"watch\""), "{said}");
    assert!(
        lines[1].starts_with("plugin.yaml:11:14: WasmPlugin breaker: upstreams[0].trip.consecutiveFailures: -3"),
        "{said}"
    );
    assert_eq!(lines.len(), 2);
    let twice = PLUGIN.replace("    upstreams:", "    default: {mode: enforce}\n    upstreams:");
    let (code, said) = check_all("twice", &[("plugin.yaml", &twice)]);
    assert_eq!(code, Some(1), "kubectl would take one of the two: {said}");
    let (code, said) = check_all("syntax", &[("plugin.yaml", "a: [\n")]);
    assert!(code == Some(1) && said.starts_with("plugin.yaml:2:1: neither YAML nor JSON"), "{said}");
    assert_eq!(check_all("none", &[("service.yaml", "kind: Service\n")]).0, Some(2));
}

#[test]
fn other_manifests_tell_where_a_plugin_attaches() {
    let deployment = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec: {template: {metadata: {labels: {app: client}}}}
";
    let selecting = PLUGIN.replace("spec:", "spec:\n  selector: {matchLabels: {app: client}}");
    let (code, said) = check_all("attached", &[("plugin.yaml", &selecting), ("app.yaml", deployment)]);
    assert_eq!(code, Some(0));
    assert!(said.contains("WasmPlugin default/breaker attaches to Deployment default/client\n"), "{said}");
    let (code, said) = check_all(
        "nowhere",
        &[("plugin.yaml", &selecting.replace("app: client", "app: shop")), ("app.yaml", deployment)],
    );
    assert!(code == Some(1) && said.contains("WasmPlugin default/breaker attaches nowhere"), "{said}");
    let second = selecting.replace("name: breaker", "name: other");
    let (code, said) =
        check_all("two", &[("plugin.yaml", &selecting), ("other.yaml", &second), ("app.yaml", deployment)]);
    assert!(code == Some(1) && said.contains("gets the breaker twice"), "{said}");
}
