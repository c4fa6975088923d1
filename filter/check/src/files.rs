//! Files that hold a `pluginConfig`: the bare document, or Istio resources that carry one, in YAML or JSON.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::document::{Content, Node, documents};

/// A `pluginConfig` and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The resource, for messages; empty for a bare document.
    pub resource: String,
    /// The document, as the module gets it.
    pub document: String,
    /// The same with its places; nothing where it is left out, or where only the module can read it.
    pub node: Option<Node>,
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifests {
    /// Every `pluginConfig` of it.
    pub configs: Vec<Found>,
    /// Every Kubernetes resource of it.
    pub resources: Vec<Value>,
}

/// Reads a file. One without any Kubernetes resource is itself a `pluginConfig`.
///
/// # Errors
/// The file is neither YAML nor JSON; with the place.
pub fn manifests(text: &str) -> Result<Manifests> {
    let mut found = Manifests::default();
    let documents = match documents(text) {
        Ok(documents) => documents,
        // JSON may hold what YAML does not take, such as tabs: the module reads it, and says no places.
        Err(_) if text.trim_start().starts_with('{') => {
            let bare = Found { resource: String::new(), document: text.to_owned(), node: None };
            return Ok(Manifests { configs: vec![bare], ..Manifests::default() });
        }
        Err(why) => return Err(why),
    };
    for document in documents.iter().flat_map(items) {
        if document.get("kind").is_none() {
            let bare = Found { resource: String::new(), document: document.json(), node: Some(document.clone()) };
            return Ok(Manifests { configs: vec![bare], ..Manifests::default() });
        }
        found.configs.extend(carried(document));
        found.resources.push(document.value());
    }
    Ok(found)
}

/// Every `pluginConfig` of a file: that of each WasmPlugin and TrafficExtension in it. A file without any Kubernetes
/// resource is itself one.
///
/// # Errors
/// The file is neither YAML nor JSON, or its resources carry no `pluginConfig`.
pub fn plugin_configs(text: &str) -> Result<Vec<Found>> {
    let Manifests { configs, resources } = manifests(text)?;
    if configs.is_empty() {
        bail!("{} resources, and no WasmPlugin or TrafficExtension among them", resources.len());
    }
    Ok(configs)
}

/// The resources of a list, as `kubectl get -o yaml` writes them; else the document itself.
fn items(document: &Node) -> Vec<&Node> {
    match document.get("items").map(|items| &items.content) {
        Some(Content::List(items)) if document.get("kind").is_some() => items.iter().collect(),
        _ => vec![document],
    }
}

/// The `pluginConfig` of a resource, with its places.
fn carried(resource: &Node) -> Option<Found> {
    let found = plugin_config(&resource.value())?;
    let spec = resource.get("spec");
    let node = spec.and_then(|spec| spec.get("pluginConfig").or_else(|| spec.get("wasm")?.get("pluginConfig")));
    // Written from the places, so that the module sees a key that stands twice.
    Some(Found { document: node.map_or(String::new(), Node::json), node: node.cloned(), ..found })
}

/// The `pluginConfig` of a WasmPlugin or a TrafficExtension; nothing where the resource is another.
#[must_use]
pub fn plugin_config(resource: &Value) -> Option<Found> {
    let spec = &resource["spec"];
    let config = match resource["kind"].as_str() {
        Some("WasmPlugin") => spec.get("pluginConfig"),
        Some("TrafficExtension") => spec.get("wasm").and_then(|wasm| wasm.get("pluginConfig")),
        _ => return None,
    };
    let name = resource["metadata"]["name"].as_str().unwrap_or("(no name)");
    let resource = format!("{} {name}", resource["kind"].as_str().unwrap_or_default());
    // Absent is valid: all defaults.
    Some(Found { resource, document: config.map_or(String::new(), Value::to_string), node: None })
}

/// Whether a plugin is the breaker, by the name of its image or its own.
#[must_use]
pub fn is_breaker(resource: &Value) -> bool {
    let (spec, name) = (&resource["spec"], &resource["metadata"]["name"]);
    let names = [&spec["url"], &spec["wasm"]["url"], &spec["pluginName"], &spec["wasm"]["pluginName"], name];
    names.iter().any(|name| name.as_str().is_some_and(|name| name.replace('_', "-").contains("circuit-breaker")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn another_plugin_is_not_the_breaker() {
        assert!(is_breaker(&json!({"metadata": {"name": "x"}, "spec": {"url": "oci://r/circuit-breaker:1"}})));
        assert!(is_breaker(&json!({"metadata": {"name": "x"}, "spec": {"wasm": {"pluginName": "circuit_breaker"}}})));
        assert!(!is_breaker(&json!({"metadata": {"name": "waf"}, "spec": {"url": "oci://r/waf:1"}})));
    }

    #[test]
    fn a_list_is_its_items() {
        let plugin = "{kind: WasmPlugin, metadata: {name: a}, spec: {pluginConfig: {default: {}}}}";
        let found = manifests(&format!("kind: List\nitems:\n- {plugin}\n- {{kind: Service}}\n")).unwrap();
        assert_eq!((found.configs.len(), found.resources.len()), (1, 2));
    }

    #[test]
    fn json_with_tabs_is_left_to_the_module() {
        let found = manifests("{\n\t\"default\": {\"a\": \"\\ud83d\\ude00\"}}").unwrap();
        assert_eq!(found.configs.len(), 1);
    }
}
