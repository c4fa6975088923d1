//! To which workloads a plugin attaches, by the manifests at hand.
//!
//! Istio says nothing where a plugin attaches nowhere, and where two attach to one proxy each call counts twice. Both
//! show in production only. The rules are Istio's: a selector sees the plugin's own namespace, and all of them from the
//! root namespace; a gateway is a client; a waypoint and what arrives at a sidecar are servers.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::files::is_breaker;

/// What is wrong with where plugins attach, and where they do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachments {
    /// For example `WasmPlugin shop/circuit-breaker attaches to Deployment shop/client`.
    pub places: Vec<String>,
    /// A sentence each.
    pub faults: Vec<String>,
}

/// The namespace whose plugins are for the whole mesh, unless the mesh's configuration names another.
const ROOT: &str = "istio-system";

/// The class of a Gateway that is a waypoint.
const WAYPOINT: &str = "istio-waypoint";

/// Side of a proxy on which a plugin acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Client,
    Server,
}

/// Something with proxies.
struct Target<'a> {
    resource: &'a Value,
    /// Its pods' labels; nothing for what only `targetRefs` reach.
    labels: Option<&'a Value>,
    /// Sides that its proxies have.
    sides: &'static [Side],
}

/// Where the breaker's plugins among these resources attach. Of a plugin whose kind of target is not among them nothing
/// is said.
#[must_use]
pub fn attachments(resources: &[Value]) -> Attachments {
    let targets: Vec<_> = resources.iter().filter_map(target).collect();
    let plugins: Vec<_> = resources.iter().filter(|resource| is_plugin(resource) && is_breaker(resource)).collect();
    let mut found = Attachments::default();
    let mut attached: Vec<(usize, &Value, BTreeSet<Side>)> = Vec::new();
    for plugin in plugins {
        match places(plugin, &targets) {
            Ok(places) => {
                for (number, sides) in places {
                    let target = &targets[number];
                    found.places.push(format!("{} attaches to {}", called(plugin), called(target.resource)));
                    let twice = attached.iter().filter(|(known, _, on)| *known == number && !on.is_disjoint(&sides));
                    for (_, other, _) in twice {
                        let (target, other, plugin) = (called(target.resource), called(other), called(plugin));
                        found.faults.push(format!(
                            "{target} gets the breaker twice, from {other} and {plugin}: each call counts twice"
                        ));
                    }
                    attached.push((number, plugin, sides));
                }
            }
            Err(why) => found.faults.push(format!("{} attaches nowhere: {why}", called(plugin))),
        }
    }
    found
}

fn is_plugin(resource: &Value) -> bool {
    resource["kind"] == "WasmPlugin" || resource["kind"] == "TrafficExtension"
}

fn target(resource: &Value) -> Option<Target<'_>> {
    let template = &resource["spec"]["template"]["metadata"];
    let pods = |metadata: &'static [Side]| metadata;
    match resource["kind"].as_str()? {
        "Deployment" | "StatefulSet" | "DaemonSet" => {
            let sides = if is_gateway(template) { &[Side::Client][..] } else { pods(&[Side::Client, Side::Server]) };
            has_proxy(template).then_some(Target { resource, labels: Some(&template["labels"]), sides })
        }
        "Gateway" if api_group(resource) == "gateway.networking.k8s.io" => {
            let waypoint = resource["spec"]["gatewayClassName"] == WAYPOINT;
            Some(Target { resource, labels: None, sides: if waypoint { &[Side::Server] } else { &[Side::Client] } })
        }
        // A plugin for a Service acts in the waypoint before it.
        "Service" => Some(Target { resource, labels: None, sides: &[Side::Server] }),
        _ => None,
    }
}

fn api_group(resource: &Value) -> &str {
    resource["apiVersion"].as_str().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group)
}

/// Istio's injector makes a gateway of a pod that asks for that template.
fn is_gateway(template: &Value) -> bool {
    template["annotations"]["inject.istio.io/templates"].as_str().is_some_and(|names| names.contains("gateway"))
}

fn has_proxy(template: &Value) -> bool {
    let refused = |place: &Value| place["sidecar.istio.io/inject"] == "false";
    !refused(&template["labels"]) && !refused(&template["annotations"])
}

/// The numbers of the targets that a plugin attaches to, and on which sides; or why there are none.
fn places(plugin: &Value, targets: &[Target<'_>]) -> Result<Vec<(usize, BTreeSet<Side>)>, String> {
    let (selector, refs) = (&plugin["spec"]["selector"]["matchLabels"], plugin["spec"]["targetRefs"].as_array());
    let refs = refs.filter(|refs| !refs.is_empty());
    if refs.is_some() && selector.is_object() {
        return Err("selector and targetRefs exclude each other".to_owned());
    }
    let of_its_own = |target: &Target<'_>| {
        namespace(target.resource) == namespace(plugin) || (namespace(plugin) == ROOT && refs.is_none())
    };
    let meant = |target: &Target<'_>| match refs {
        Some(refs) => refs.iter().any(|wanted| is_referred(target.resource, wanted)),
        None => target.labels.is_some_and(|labels| selects(selector, labels)),
    };
    let of_its_kind = |target: &Target<'_>| match refs {
        Some(refs) => refs.iter().any(|wanted| target.resource["kind"] == wanted["kind"]),
        None => target.labels.is_some(),
    };
    if !targets.iter().any(of_its_kind) {
        return Ok(Vec::new());
    }
    let near: Vec<_> =
        targets.iter().enumerate().filter(|(_, target)| of_its_kind(target) && of_its_own(target)).collect();
    let chosen: Vec<_> = near.iter().filter(|(_, target)| meant(target)).collect();
    if chosen.is_empty() {
        return Err(nobody(plugin, near.iter().map(|(_, target)| *target)));
    }
    let wanted = sides(plugin);
    let attached: Vec<_> = chosen
        .iter()
        .map(|(number, target)| (*number, target.sides.iter().copied().filter(|side| wanted.contains(side)).collect()))
        .filter(|(_, sides): &(usize, BTreeSet<Side>)| !sides.is_empty())
        .collect();
    if attached.is_empty() {
        let (one, side) = (called(chosen[0].1.resource), chosen[0].1.sides);
        let mode = if side == [Side::Client] { "CLIENT" } else { "SERVER" };
        return Err(format!("its match.mode leaves out {one}, where only {mode} acts"));
    }
    Ok(attached)
}

fn nobody<'a>(plugin: &Value, near: impl Iterator<Item = &'a Target<'a>>) -> String {
    let wanted = match &plugin["spec"]["targetRefs"][0] {
        Value::Null => format!("pods with the labels {}", labels(&plugin["spec"]["selector"]["matchLabels"])),
        first => format!("{} {}", first["kind"].as_str().unwrap_or("a"), first["name"].as_str().unwrap_or("?")),
    };
    let there = near.map(|target| match target.labels {
        Some(own) => format!("{} ({})", called(target.resource), labels(own)),
        None => called(target.resource),
    });
    let there: Vec<_> = there.collect();
    let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
    format!("it is for {wanted} in namespace {}, and the manifests have {there} there", namespace(plugin))
}

fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<_> = pairs.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "none".to_owned() } else { pairs.join(",") }
}

fn is_referred(resource: &Value, wanted: &Value) -> bool {
    resource["kind"] == wanted["kind"]
        && resource["metadata"]["name"] == wanted["name"]
        && api_group(resource) == wanted["group"].as_str().unwrap_or_default()
}

/// No selector selects all.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().into_iter().flatten().all(|(name, value)| &labels[name.as_str()] == value)
}

fn sides(plugin: &Value) -> BTreeSet<Side> {
    let both = [Side::Client, Side::Server];
    let spec = &plugin["spec"];
    let matches = spec["match"].as_array().or_else(|| spec["match"]["trafficSelectors"].as_array());
    let Some(matches) = matches.filter(|matches| !matches.is_empty()) else { return both.into() };
    let sides = matches.iter().flat_map(|matched| match matched["mode"].as_str() {
        Some("CLIENT") => vec![Side::Client],
        Some("SERVER") => vec![Side::Server],
        _ => both.to_vec(),
    });
    sides.collect()
}

fn namespace(resource: &Value) -> &str {
    resource["metadata"]["namespace"].as_str().unwrap_or("default")
}

fn called(resource: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}/{}", text(&resource["kind"]), namespace(resource), text(&resource["metadata"]["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(namespace: &str, name: &str, template: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
            "spec": {"template": {"metadata": template}}})
    }

    fn plugin(namespace: &str, name: &str, spec: Value) -> Value {
        let mut spec = spec;
        spec["url"] = json!("oci://registry/circuit-breaker:1");
        json!({"kind": "WasmPlugin", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
    }

    fn faults(resources: &[Value]) -> Vec<String> {
        attachments(resources).faults
    }

    #[test]
    fn a_selector_meets_pods_of_its_own_namespace_only() {
        let client = deployment("shop", "client", json!({"labels": {"app": "client"}}));
        let wanted = json!({"selector": {"matchLabels": {"app": "client"}}});
        let found = attachments(&[client.clone(), plugin("shop", "a", wanted.clone())]);
        assert_eq!(found.places, ["WasmPlugin shop/a attaches to Deployment shop/client"]);
        let root = attachments(&[client.clone(), plugin(ROOT, "a", wanted.clone())]);
        assert!(root.faults.is_empty(), "the root namespace is for all: {root:?}");
        let other = faults(&[client.clone(), plugin("pay", "a", wanted)]);
        assert_eq!(
            other,
            [
                "WasmPlugin pay/a attaches nowhere: it is for pods with the labels app=client in namespace pay, and the manifests have nothing there"
            ]
        );
        let slip = faults(&[client, plugin("shop", "a", json!({"selector": {"matchLabels": {"app": "clinet"}}}))]);
        assert!(slip[0].contains("app=clinet") && slip[0].contains("Deployment shop/client (app=client)"), "{slip:?}");
    }

    #[test]
    fn two_plugins_on_one_side_of_a_proxy_are_one_too_many() {
        let client = deployment("shop", "client", json!({"labels": {"app": "client"}}));
        let side = |mode: &str| json!({"match": [{"mode": mode}]});
        let twice = faults(&[client.clone(), plugin("shop", "a", json!({})), plugin(ROOT, "b", side("CLIENT"))]);
        assert_eq!(
            twice,
            [
                "Deployment shop/client gets the breaker twice, from WasmPlugin shop/a and WasmPlugin istio-system/b: each call counts twice"
            ]
        );
        assert!(faults(&[client, plugin("shop", "a", side("SERVER")), plugin(ROOT, "b", side("CLIENT"))]).is_empty());
    }

    #[test]
    fn a_mode_that_its_target_never_has_attaches_nowhere() {
        let gateway = |class: &str| {
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
                "metadata": {"name": "edge", "namespace": "shop"}, "spec": {"gatewayClassName": class}})
        };
        let refer = |mode: &str| {
            let target = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"});
            plugin("shop", "a", json!({"targetRefs": [target], "match": [{"mode": mode}]}))
        };
        assert!(faults(&[gateway("istio"), refer("CLIENT")]).is_empty());
        assert!(faults(&[gateway(WAYPOINT), refer("SERVER")]).is_empty());
        let waypoint = faults(&[gateway(WAYPOINT), refer("CLIENT")]);
        assert!(
            waypoint[0].ends_with("its match.mode leaves out Gateway shop/edge, where only SERVER acts"),
            "{waypoint:?}"
        );
        assert_eq!(faults(&[gateway("istio"), refer("SERVER")]).len(), 1);
        let template = json!({"labels": {"istio": "gw"}, "annotations": {"inject.istio.io/templates": "gateway"}});
        let injected = deployment("shop", "gw", template);
        assert_eq!(faults(&[injected, plugin("shop", "a", json!({"match": [{"mode": "SERVER"}]}))]).len(), 1);
    }

    #[test]
    fn pods_without_a_proxy_and_plugins_of_others_do_not_count() {
        let bare = deployment("shop", "bare", json!({"labels": {"sidecar.istio.io/inject": "false"}}));
        let alone = plugin("shop", "a", json!({"selector": {"matchLabels": {"app": "client"}}}));
        let service =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "client", "namespace": "shop"}});
        assert_eq!(attachments(&[bare, alone, service]), Attachments::default(), "nothing that it could select");
        let client = deployment("shop", "client", json!({"labels": {}}));
        let waf = json!({"kind": "WasmPlugin", "metadata": {"name": "waf", "namespace": "shop"}, "spec": {"url": "oci://r/waf:1"}});
        assert_eq!(attachments(&[client, waf]), Attachments::default());
    }
}
