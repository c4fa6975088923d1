//! What has a disruption budget, and istiod, lose a node or a zone and go on.

use std::process::Command;

use circuit_breaker_integration::places::{installed_files, tool};
use circuit_breaker_mesh::control_plane::manifests;
use circuit_breaker_mesh::lab::Lab;
use serde_json::{Value, json};

/// The pods are those that the API server has made of the Deployments: where a template says nothing, it adds that a pod
/// stays on a lost node for 300 s.
pub fn outlive_a_node(lab: &Lab) {
    let kubectl = lab.kubectl();
    let applied = |kind: &str| {
        let list = kubectl.get(&[kind, "--all-namespaces"]).expect("the API server answers");
        list["items"].as_array().cloned().expect("a list")
    };
    let pods = applied("pods");
    let pod = |name: &Value| {
        let found = pods.iter().find(|pod| pod["metadata"]["name"] == *name);
        found.unwrap_or_else(|| panic!("{name} has no pod"))["spec"].clone()
    };
    let (budgets, scalers) = (applied("poddisruptionbudgets"), applied("horizontalpodautoscalers"));
    let mut seen = Vec::new();
    for workload in applied("deployments") {
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        if budgets.iter().any(|budget| selects(&budget["spec"]["selector"], labels)) {
            seen.push(assert_outlives(&workload, &pod(&workload["metadata"]["name"]), &budgets, &scalers));
        }
    }
    seen.sort();
    assert_eq!(seen, ["ingressgateway", "shop-v1", "shop-v2"]);

    let istiod = rendered_istiod(lab);
    let of = |kind: &str| istiod.iter().filter(|object| object["kind"] == kind).cloned().collect::<Vec<_>>();
    let deployment = of("Deployment").remove(0);
    let template = deployment["spec"]["template"]["spec"].clone();
    assert_outlives(&deployment, &template, &of("PodDisruptionBudget"), &of("HorizontalPodAutoscaler"));
}

/// The name of the Deployment, whose pods are spread, soon replaced, and taken one at a time.
fn assert_outlives(deployment: &Value, pod: &Value, budgets: &[Value], scalers: &[Value]) -> String {
    let name = deployment["metadata"]["name"].as_str().expect("a name");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let budget = budgets.iter().find(|budget| selects(&budget["spec"]["selector"], labels));
    assert_eq!(budget.expect("a budget")["spec"]["maxUnavailable"], 1, "{name}: a node upgrade takes one at a time");
    let scaler = scalers.iter().find(|scaler| scaler["spec"]["scaleTargetRef"]["name"] == name);
    let replicas = scaler.map_or(&deployment["spec"]["replicas"], |scaler| &scaler["spec"]["minReplicas"]);
    assert_eq!(*replicas, 3, "{name}: one per zone");
    for taint in ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"] {
        let stays = pod["tolerations"].as_array().into_iter().flatten().find(|toleration| toleration["key"] == taint);
        let seconds = stays.map(|toleration| &toleration["tolerationSeconds"]);
        assert_eq!(seconds, Some(&json!(30)), "{name}: {taint}");
    }
    let apart = &pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(apart["podAffinityTerm"]["topologyKey"], "kubernetes.io/hostname", "{name}: one node, one pod");
    let spread = &pod["topologySpreadConstraints"][0];
    assert_eq!(spread["topologyKey"], "topology.kubernetes.io/zone", "{name}: evenly over zones");
    for selector in [&apart["podAffinityTerm"]["labelSelector"], &spread["labelSelector"]] {
        assert!(selects(selector, labels), "{name}: {selector} does not select its own pods");
    }
    name.to_owned()
}

/// Whether a selector's labels are among these.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector["matchLabels"].as_object().is_some_and(|wanted| wanted.iter().all(|(key, value)| labels[key] == *value))
}

/// istiod as its chart makes it with the values here, as far as the API server takes it.
fn rendered_istiod(lab: &Lab) -> Vec<Value> {
    let values = |path: &str| manifests().join("mesh").join(path);
    let rendered = Command::new(tool("helm").expect("it is installed"))
        .args(["template", "istiod", "--namespace", "istio-system"])
        .arg(installed_files("istiod-chart").expect("it is installed"))
        .arg("--values")
        .arg(values("control-plane/istiod-values.yaml"))
        .arg("--values")
        .arg(values("meshConfig-values.yaml"))
        // What it remembers must not be in the home directory of the user who runs the tests.
        .env("HOME", lab.directory())
        .output()
        .expect("helm runs");
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    // Not for real: its webhooks would stand between the lab and its own API server.
    let dry = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "json", "-f", "-"];
    let taken = lab.kubectl().feed(&dry, &String::from_utf8_lossy(&rendered.stdout)).expect("the API server takes it");
    let list: Value = serde_json::from_str(&taken).expect("kubectl prints JSON");
    list["items"].as_array().expect("a list").clone()
}
