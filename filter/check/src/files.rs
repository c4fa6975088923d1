//! Files that hold a `pluginConfig`: the bare document, or Istio resources that carry one, in YAML or JSON.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

/// A `pluginConfig` and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The resource, for messages; empty for a bare document.
    pub resource: String,
    /// The document, as the module gets it.
    pub document: String,
}

/// Every `pluginConfig` of a file: that of each WasmPlugin and TrafficExtension in it. A file without any Kubernetes
/// resource is itself one.
///
/// # Errors
/// The file is neither YAML nor JSON, or its resources carry no `pluginConfig`.
pub fn plugin_configs(text: &str) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut resources = 0;
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).context("neither YAML nor JSON")?;
        if value.get("kind").is_none() {
            // Printed as text again, so that the module's own parser sees a repeated key.
            let bare = if text.trim_start().starts_with('{') { text.to_owned() } else { value.to_string() };
            return Ok(vec![Found { resource: String::new(), document: bare }]);
        }
        resources += 1;
        found.extend(plugin_config(&value));
    }
    if found.is_empty() {
        bail!("{resources} resources, and no WasmPlugin or TrafficExtension among them");
    }
    Ok(found)
}

/// The `pluginConfig` of a WasmPlugin or a TrafficExtension; nothing where the resource is another.
#[must_use]
pub fn plugin_config(resource: &Value) -> Option<Found> {
    let spec = resource.get("spec");
    let config = match resource["kind"].as_str() {
        Some("WasmPlugin") => spec.and_then(|spec| spec.get("pluginConfig")),
        Some("TrafficExtension") => spec.and_then(|spec| spec.get("wasm")?.get("pluginConfig")),
        _ => return None,
    };
    let name = resource["metadata"]["name"].as_str().unwrap_or("(no name)");
    let resource = format!("{} {name}", resource["kind"].as_str().unwrap_or_default());
    // Absent is valid: all defaults.
    Some(Found { resource, document: config.map_or(String::new(), Value::to_string) })
}
