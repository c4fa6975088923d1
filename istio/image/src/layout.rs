//! Images as files, from which a registry is filled.
//!
//! Istio's agent takes three formats (`pkg/wasm/imagefetcher.go`), and registries differ in which they take:
//!
//! | where | manifest | the module |
//! |---|---|---|
//! | `oci:`, tag `VERSION` | OCI image | `plugin.wasm` in the last layer, a tar.gz |
//! | `oci:`, tag `VERSION-artifact` | OCI artifact of exactly two layers | a layer as it is; the other is the SBOM |
//! | `docker/` | Docker image, schema 2 | as in the OCI image |
//!
//! An OCI layout has room for OCI manifests only, so the Docker image lies beside it, in the plain directory that skopeo calls
//! `dir:`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Identity;

/// Name that the agent looks for in the layer.
pub const FILE: &str = "plugin.wasm";
/// Media type of an OCI image's manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI image's layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Media type of a Docker image's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of a Docker image's layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Media type of an artifact's layer that is the module itself.
pub const MODULE_LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
/// Media type of the SBOM.
pub const SBOM: &str = "application/vnd.cyclonedx+json";

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const MODULE_CONFIG: &str = "application/vnd.module.wasm.config.v1+json";

/// Writes `oci/`, `docker/` and `sbom.json` into `directory`, in place of what was there, and returns the digest of the OCI
/// image.
///
/// # Errors
/// A file cannot be written.
pub fn write(directory: &Path, module: &[u8], licence: &[u8], sbom: &[u8], identity: &Identity) -> Result<String> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    let oci = Blobs { directory: directory.join("oci/blobs/sha256") };
    let docker = Blobs { directory: directory.join("docker") };
    for blobs in [&oci, &docker] {
        fs::create_dir_all(&blobs.directory).with_context(|| format!("cannot make {}", blobs.directory.display()))?;
    }

    let tar = archive(module, licence)?;
    let layer = compressed(&tar)?;
    let config = serde_json::to_vec(&json!({
        // A module runs in a proxy of any machine.
        "architecture": "wasm",
        "os": "unknown",
        "created": identity.created,
        "config": {"Labels": identity.labels()},
        "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
        "history": [{"created": identity.created, "created_by": format!("COPY {FILE} /{FILE}")}],
    }))?;
    let image = oci.manifest(json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": oci.put(OCI_CONFIG, &config)?,
        "layers": [oci.put(OCI_LAYER, &layer)?],
        "annotations": identity.labels(),
    }))?;
    let artifact = oci.manifest(json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": oci.put(MODULE_CONFIG, b"{}")?,
        "layers": [titled(oci.put(SBOM, sbom)?, "sbom.json"), titled(oci.put(MODULE_LAYER, module)?, FILE)],
        "annotations": identity.labels(),
    }))?;
    // Docker's schema 2 knows no annotations.
    let docker_manifest = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": docker.put(DOCKER_CONFIG, &config)?,
        "layers": [docker.put(DOCKER_LAYER, &layer)?],
    });

    let version = &identity.version;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [tagged(&image, version), tagged(&artifact, &format!("{version}-artifact"))],
    });
    for (file, content) in [
        ("sbom.json", sbom),
        ("docker/manifest.json", &serde_json::to_vec(&docker_manifest)?),
        ("docker/version", b"Directory Transport Version: 1.1\n"),
        ("oci/index.json", &serde_json::to_vec(&index)?),
        ("oci/oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
    ] {
        fs::write(directory.join(file), content).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(image["digest"].as_str().unwrap_or_default().to_owned())
}

/// `sha256:` and the sum in hexadecimal digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    sum.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// The module and its licence, by name. Times are the epoch: the layer is the same for all commits that build the same module,
/// and a registry keeps it once.
fn archive(module: &[u8], licence: &[u8]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [("LICENSE", licence), (FILE, module)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive.append_data(&mut header, name, content)?;
    }
    Ok(archive.into_inner()?)
}

/// Compressed without a file name or a time in the header.
fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut reader = GzBuilder::new().mtime(0).read(bytes, Compression::best());
    let mut layer = Vec::new();
    std::io::copy(&mut reader, &mut layer)?;
    Ok(layer)
}

fn titled(mut descriptor: Value, title: &str) -> Value {
    descriptor["annotations"] = json!({"org.opencontainers.image.title": title});
    descriptor
}

fn tagged(descriptor: &Value, tag: &str) -> Value {
    let mut tagged = descriptor.clone();
    tagged["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    tagged
}

/// A directory of files that are named after their content.
struct Blobs {
    directory: PathBuf,
}

impl Blobs {
    /// Stores a blob and returns its descriptor.
    fn put(&self, media: &str, content: &[u8]) -> Result<Value> {
        let digest = digest(content);
        let file = self.directory.join(digest.trim_start_matches("sha256:"));
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(json!({"mediaType": media, "digest": digest, "size": content.len()}))
    }

    fn manifest(&self, manifest: Value) -> Result<Value> {
        self.put(OCI_MANIFEST, &serde_json::to_vec(&manifest)?)
    }
}
