//! The breaker's own manifests, as a user applies them: the user's own kustomization on top of one of
//! `istio/overlays`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::control_plane::manifests;
use crate::kubectl::Kubectl;
use crate::registry::Registry;

const WASM_PLUGIN: &str = "WasmPlugin";

/// A user's kustomization.
#[derive(Clone, Debug)]
pub struct Plugin {
    overlay: String,
    namespace: Option<String>,
    patches: Vec<Value>,
}

impl Plugin {
    /// The overlay `istio/overlays/<overlay>` with the image of this tag from the lab's registry, and no other change.
    #[must_use]
    pub fn overlay(overlay: &str, tag: &str) -> Plugin {
        let plugin = Plugin { overlay: overlay.to_owned(), namespace: None, patches: Vec::new() };
        plugin.image(tag)
    }

    /// What the overlay makes of the breaker.
    fn kind(&self) -> &'static str {
        if self.overlay == "traffic-extension" { "TrafficExtension" } else { WASM_PLUGIN }
    }

    /// With another image.
    #[must_use]
    pub fn image(self, tag: &str) -> Plugin {
        let url = format!("oci://{}:{tag}", Registry::image());
        let path = if self.kind() == WASM_PLUGIN { "/spec/url" } else { "/spec/wasm/url" };
        self.patch("replace", path, json!(url))
    }

    /// With one more change, as a JSON patch says it.
    #[must_use]
    pub fn patch(mut self, operation: &str, path: &str, value: Value) -> Plugin {
        self.patches.push(json!({"op": operation, "path": path, "value": value}));
        self
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Plugin {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Writes the kustomization below `directory` and applies it.
    ///
    /// # Errors
    /// The API server refuses an object.
    pub fn apply(&self, kubectl: &Kubectl, directory: &Path) -> Result<()> {
        let directory = directory.join("kustomizations").join(format!(
            "{}-{}",
            self.overlay,
            self.namespace.as_deref().unwrap_or_default()
        ));
        fs::create_dir_all(&directory)?;
        let mut document = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": [relative(&directory, &manifests().join("overlays").join(&self.overlay))?],
            "patches": [{"target": {"kind": self.kind()}, "patch": Value::Array(self.patches.clone()).to_string()}],
        });
        if let Some(namespace) = &self.namespace {
            document["namespace"] = json!(namespace);
        }
        fs::write(directory.join("kustomization.yaml"), document.to_string())?;
        kubectl.apply_kustomization(&directory)?;
        Ok(())
    }
}

/// Kustomize takes no absolute path.
fn relative(from: &Path, to: &Path) -> Result<PathBuf> {
    let up: PathBuf = from.components().skip(1).map(|_| "..").collect();
    Ok(up.join(to.strip_prefix("/").context("the repository's path is not absolute")?))
}
