//! The real API server takes every kustomization under `istio/`, with the real schemas and validation rules.
//! `istioctl analyze` then has nothing to say, and what has to outlive a node says how.

#[path = "manifests/nodes.rs"]
mod nodes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use circuit_breaker_integration::places::installed_files;
use circuit_breaker_mesh::authority::Authority;
use circuit_breaker_mesh::control_plane::{Istio, manifests};
use circuit_breaker_mesh::lab::Lab;
use circuit_breaker_mesh::namespaces;
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

/// The kustomizations that need the newest Istio.
const NEWEST_ONLY: &str = "traffic-extension";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let name = "every_manifest_is_taken_by_the_api_server_and_istioctl_analyze_is_clean";
    if arguments.list {
        return libtest_mimic::run(&arguments, vec![Trial::test(name, || Ok(()))]).exit_code();
    }
    let rights = match namespaces::enter() {
        Ok(rights) => rights,
        Err(why) => {
            eprintln!("skipped: {why:#}");
            let must = std::env::var("CI").is_ok_and(|value| value == "true");
            return if must { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let test = move || {
        let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
        runtime.block_on(async {
            let istio = Istio::chosen().expect("a version that is tested");
            let lab = Lab::start(rights, istio).await.unwrap_or_else(|why| panic!("{why:#}"));
            check(&lab, istio);
        });
        Ok(())
    };
    libtest_mimic::run(&arguments, vec![Trial::test(name, test)]).exit_code()
}

fn check(lab: &Lab, istio: Istio) {
    let all = kustomizations(&manifests());
    let chosen = all.iter().filter(|path| istio == Istio::Newest || !path.ends_with(NEWEST_ONLY));
    for namespace in ["istio-ingress", "shop", "monitoring"] {
        lab.namespace(namespace).expect("the API server takes it");
    }
    add_operators(lab);
    let mut taken = 0;
    for directory in chosen {
        // Applied for real and not as a dry run: some rules look at the objects that exist.
        let said = lab.kubectl().apply_kustomization(directory).unwrap_or_else(|why| panic!("{why:#}"));
        assert!(said.contains("serverside-applied"), "{}: {said}", directory.display());
        taken += 1;
    }
    assert!(taken >= 5, "there are base and overlays: {all:?}");
    add_what_a_cluster_has(lab);
    nodes::outlive_a_node(lab);
    let analysis = Command::new(istio.file("istioctl").expect("it is installed"))
        .args(["analyze", "--all-namespaces", "--failure-threshold", "Info"])
        // It warns of every EnvoyFilter that exists.
        .args(["--suppress", "IST0133=EnvoyFilter *"])
        .env("KUBECONFIG", lab.kubectl().kubeconfig())
        .env("HOME", lab.directory())
        .output()
        .expect("istioctl runs");
    let said = String::from_utf8_lossy(&[analysis.stdout, analysis.stderr].concat()).into_owned();
    assert!(analysis.status.success() && said.contains("No validation issues found"), "{said}");
}

/// What the Prometheus operator adds to the API, and Azure Monitor: its PodMonitor is the operator's in another group.
fn add_operators(lab: &Lab) {
    let directory = installed_files("operator-crds").expect("run `integration/tools/install operator-crds`");
    let read = |kind: &str| {
        let file = directory.join(format!("monitoring.coreos.com_{kind}.yaml"));
        fs::read_to_string(&file).unwrap_or_else(|why| panic!("{}: {why}", file.display()))
    };
    let (monitors, rules) = (read("podmonitors"), read("prometheusrules"));
    let azure = monitors.replace("monitoring.coreos.com", "azmonitoring.coreos.com");
    for definition in [monitors, rules, azure] {
        lab.kubectl().feed(&["apply", "--server-side", "-f", "-"], &definition).expect("the API server takes it");
    }
    let established = ["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"];
    lab.kubectl().run(&established).expect("the API server serves them");
}

/// The pods of the Deployments, Istio's injector and the certificate, which the analysis looks for. The lab has no
/// controller that would make the pods, and no chart that would install the injector.
fn add_what_a_cluster_has(lab: &Lab) {
    let kubectl = lab.kubectl();
    let deployments = kubectl.get(&["deployments", "--all-namespaces"]).expect("the API server answers");
    let pods: Vec<Value> = deployments["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|deployment| {
            let (metadata, template) = (&deployment["metadata"], &deployment["spec"]["template"]);
            json!({
                "apiVersion": "v1", "kind": "Pod", "spec": injected(template["spec"].clone()),
                "metadata": {
                    "name": metadata["name"], "namespace": metadata["namespace"], "labels": template["metadata"]["labels"],
                },
            })
        })
        .collect();
    assert!(!pods.is_empty(), "the manifests have Deployments");
    kubectl.apply(&pods).expect("the API server takes what the Deployments say");
    let authority = Authority::found().expect("keys can be made");
    let certificate = authority.secret("istio-ingress", "shop-example-com", "shop.example.com").expect("a certificate");
    kubectl.apply(&[certificate]).expect("the API server takes it");
    let webhook = |name: &str, key: &str, value: &str| {
        json!({
            "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
            "clientConfig": {"service": {"name": "istiod", "namespace": "istio-system", "path": "/inject", "port": 443}},
            "namespaceSelector": {"matchLabels": {key: value}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        })
    };
    kubectl
        .apply(&[
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": "istio-sidecar-injector"},
                "webhooks": [webhook("namespace.sidecar-injector.istio.io", "istio-injection", "enabled")],
            }),
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "istiod", "namespace": "istio-system"},
                "spec": {"ports": [{"name": "https-webhook", "port": 443, "targetPort": 15017}]},
            }),
            without_injection("default"),
            without_injection("monitoring"),
        ])
        .expect("the API server takes it");
}

/// A namespace as the analysis itself advises it where there is no injection.
fn without_injection(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"istio-injection": "disabled"}},
    })
}

/// A pod's containers once Istio's injector has seen them.
fn injected(mut spec: Value) -> Value {
    let containers = spec["containers"].as_array_mut().expect("a pod has containers");
    for container in containers.iter_mut().filter(|container| container["image"] == "auto") {
        container["image"] = json!("istio/proxyv2");
    }
    if !containers.iter().any(|container| container["name"] == "istio-proxy") {
        containers.push(json!({"name": "istio-proxy", "image": "istio/proxyv2"}));
    }
    spec
}

/// All directories with a kustomization, the deepest last. A component is none: it changes what another one has.
fn kustomizations(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let file = fs::read_to_string(directory.join("kustomization.yaml")).unwrap_or_default();
    if file.lines().any(|line| line == "kind: Kustomization") {
        found.push(directory.to_owned());
    }
    let mut below: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    below.sort();
    found.extend(below.iter().filter(|path| path.is_dir()).flat_map(|path| kustomizations(path)));
    found
}
