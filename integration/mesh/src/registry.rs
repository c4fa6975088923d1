//! An OCI registry, and images of the module for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result};
use circuit_breaker_integration::envoy::workspace;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::control_plane::answers;
use crate::namespaces::run;
use crate::network::HOST;
use crate::process::Program;

const PORT: u16 = 5000;

/// The registry. It speaks plain HTTP.
pub struct Registry {
    directory: PathBuf,
    program: Mutex<Option<Program>>,
}

impl Registry {
    /// Starts it, empty.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(directory: &Path) -> Result<Registry> {
        fs::create_dir_all(directory)?;
        let registry = Registry { directory: directory.to_owned(), program: Mutex::new(None) };
        registry.resume().await?;
        Ok(registry)
    }

    /// Starts it again with all that it had, if it does not run.
    ///
    /// # Errors
    /// It does not start.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub async fn resume(&self) -> Result<()> {
        if self.program.lock().expect("no holder panics").is_some() {
            return Ok(());
        }
        let config = self.directory.join("config.json");
        // The file is YAML, and JSON is YAML.
        let document = json!({
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": self.directory.join("images")}},
            "http": {"addr": format!("0.0.0.0:{PORT}")},
        });
        fs::write(&config, document.to_string())?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config);
        let program = Program::start(&self.directory, "docker-registry", command)?;
        program.until_ready(|| answers(PORT, "/v2/")).await?;
        *self.program.lock().expect("no holder panics") = Some(program);
        Ok(())
    }

    /// Ends it.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn stop(&self) {
        self.program.lock().expect("no holder panics").take();
    }

    /// Where a WasmPlugin finds an image, without its tag.
    #[must_use]
    pub fn image() -> String {
        format!("{HOST}:{PORT}/circuit-breaker")
    }

    /// Pushes the image that `make image` made, with the program that `make push` uses.
    ///
    /// # Errors
    /// There is none, or the registry refuses.
    pub fn push_build(&self, tag: &str) -> Result<()> {
        let push = workspace().join("istio/image/push").display().to_string();
        run(&push, &[&format!("{}:{tag}", Registry::image()), "--dest-tls-verify=false"])
    }

    /// Pushes an image of a layout.
    ///
    /// # Errors
    /// There is none, or the registry refuses.
    fn push(&self, layout: &Path, from: &str, tag: &str) -> Result<()> {
        let source = format!("oci:{}:{from}", layout.display());
        let target = format!("docker://{}:{tag}", Registry::image());
        run("skopeo", &["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", &source, &target])
    }

    /// Pushes a module that `make image` did not make, as the smallest image that Istio's agent takes: an artifact
    /// whose layer is the module as it is.
    ///
    /// # Errors
    /// The registry refuses.
    pub fn push_module(&self, module: &[u8], tag: &str) -> Result<()> {
        let layout = self.directory.join("layouts").join(tag);
        let blob = |bytes: &[u8], media: &str| -> Result<Value> {
            let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            let blobs = layout.join("blobs/sha256");
            fs::create_dir_all(&blobs)?;
            fs::write(blobs.join(&digest), bytes)?;
            Ok(json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
        };
        let config = blob(b"{}", "application/vnd.module.wasm.config.v1+json")?;
        let layer = blob(module, "application/vnd.module.wasm.content.layer.v1+wasm")?;
        // The agent takes an artifact of two layers, and no other: `number of layers must be 2 but got 1`.
        let second = blob(b"{\"config\": {}}", "application/vnd.module.wasm.runtime-config.v1+json")?;
        let media = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": [layer, second]});
        let mut entry = blob(manifest.to_string().as_bytes(), media)?;
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string())?;
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)
            .context("cannot write the layout")?;
        self.push(&layout, tag, tag)
    }
}
