//! What a registry gets, read back by other people's code.
// Tests say what they expect by panicking.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use cargo_metadata::MetadataCommand;
use circuit_breaker_image::layout::{self, DOCKER_LAYER, DOCKER_MANIFEST, FILE, MODULE_LAYER, OCI_LAYER, SBOM, digest};
use circuit_breaker_image::{Identity, sbom};
use flate2::read::GzDecoder;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde_json::{Value, json};
use tempfile::TempDir;

const MODULE: &[u8] = b"\0asm\x01\0\0\0a module";

fn identity() -> Identity {
    Identity::new("0123456789abcdef0123456789abcdef01234567", 1_700_000_000, Some("https://example.com/breaker"))
        .unwrap()
}

fn written(module: &[u8], identity: &Identity) -> (TempDir, String) {
    let directory = TempDir::new().unwrap();
    let digest = layout::write(directory.path(), module, b"a licence", b"{}", identity).unwrap();
    (directory, digest)
}

/// Every file below `directory` with its content.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// The manifest that the layout's index calls `tag`.
fn manifest(directory: &Path, tag: &str) -> ImageManifest {
    let index = ImageIndex::from_file(directory.join("oci/index.json")).unwrap();
    let named = |descriptor: &&Descriptor| {
        descriptor.annotations().as_ref().is_some_and(|all| all["org.opencontainers.image.ref.name"] == tag)
    };
    let found = index.manifests().iter().find(named).unwrap();
    ImageManifest::from_reader(blob(directory, found).as_slice()).unwrap()
}

fn blob(directory: &Path, descriptor: &Descriptor) -> Vec<u8> {
    fs::read(directory.join("oci/blobs/sha256").join(descriptor.digest().digest())).unwrap()
}

/// Names and contents of a tar.gz.
fn unpacked(layer: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(GzDecoder::new(layer));
    let read = |entry: std::io::Result<tar::Entry<'_, GzDecoder<&[u8]>>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), content)
    };
    archive.entries().unwrap().map(read).collect()
}

#[test]
fn the_same_module_and_commit_give_the_same_bytes() {
    let (first, digest) = written(MODULE, &identity());
    let (second, again) = written(MODULE, &identity());
    assert_eq!(digest, again);
    assert_eq!(files(first.path()), files(second.path()));
    let (_, other) = written(b"another module", &identity());
    assert_ne!(digest, other);
}

#[test]
fn a_commit_that_builds_the_same_module_shares_its_layer() {
    let (first, digest) = written(MODULE, &identity());
    let (second, other) = written(MODULE, &Identity::new("another", 1_800_000_000, None).unwrap());
    assert_ne!(digest, other);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(manifest(first.path(), version).layers(), manifest(second.path(), version).layers());
}

#[test]
fn the_digest_that_is_printed_is_the_manifests() {
    let (directory, digest) = written(MODULE, &identity());
    let hex = digest.strip_prefix("sha256:").unwrap();
    let content = fs::read(directory.path().join("oci/blobs/sha256").join(hex)).unwrap();
    assert_eq!(layout::digest(&content), digest);
    assert_eq!(
        ImageManifest::from_reader(content.as_slice()).unwrap(),
        manifest(directory.path(), env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn every_blob_has_the_name_and_the_size_that_its_descriptor_says() {
    let (directory, _) = written(MODULE, &identity());
    for (name, content) in files(&directory.path().join("oci/blobs/sha256")) {
        assert_eq!(format!("sha256:{name}"), digest(&content));
    }
    for tag in ["", "-artifact"] {
        let manifest = manifest(directory.path(), &format!("{}{tag}", env!("CARGO_PKG_VERSION")));
        for descriptor in manifest.layers().iter().chain([manifest.config()]) {
            assert_eq!(blob(directory.path(), descriptor).len() as u64, descriptor.size());
        }
    }
}

#[test]
fn the_image_has_the_module_in_its_last_layer_and_labels() {
    let (directory, _) = written(MODULE, &identity());
    let manifest = manifest(directory.path(), env!("CARGO_PKG_VERSION"));
    let layer = manifest.layers().last().unwrap();
    assert_eq!(layer.media_type(), &MediaType::from(OCI_LAYER));
    let packed = blob(directory.path(), layer);
    assert_eq!(unpacked(&packed), [("LICENSE".into(), b"a licence".to_vec()), (FILE.into(), MODULE.to_vec())]);
    // No name and no time in gzip's header.
    assert_eq!(packed[3..8], [0; 5]);

    let config = ImageConfiguration::from_reader(blob(directory.path(), manifest.config()).as_slice()).unwrap();
    let mut tar = Vec::new();
    GzDecoder::new(packed.as_slice()).read_to_end(&mut tar).unwrap();
    assert_eq!(config.rootfs().diff_ids(), &[digest(&tar)]);
    let labels = config.labels_of_config().unwrap();
    assert_eq!(Some(labels), manifest.annotations().as_ref());
    for (key, value) in [
        ("title", "circuit-breaker"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", "0123456789abcdef0123456789abcdef01234567"),
        ("licenses", "Apache-2.0"),
        ("source", "https://example.com/breaker"),
        ("created", "2023-11-14T22:13:20Z"),
    ] {
        assert_eq!(labels[&format!("org.opencontainers.image.{key}")], value);
    }
}

#[test]
fn the_artifact_has_two_layers_one_of_them_the_module_as_it_is() {
    let (directory, _) = written(MODULE, &identity());
    let manifest = manifest(directory.path(), &format!("{}-artifact", env!("CARGO_PKG_VERSION")));
    let [bill, module] = manifest.layers().as_slice() else { panic!("{:?}", manifest.layers()) };
    assert_eq!(bill.media_type(), &MediaType::from(SBOM));
    assert_eq!(module.media_type(), &MediaType::from(MODULE_LAYER));
    assert_eq!(blob(directory.path(), module), MODULE);
}

#[test]
fn the_docker_image_is_the_same_under_dockers_names() {
    let (directory, _) = written(MODULE, &identity());
    let read = |file: &str| fs::read(directory.path().join("docker").join(file)).unwrap();
    let docker: Value = serde_json::from_slice(&read("manifest.json")).unwrap();
    assert_eq!(docker["mediaType"], DOCKER_MANIFEST);
    assert_eq!(docker["layers"][0]["mediaType"], DOCKER_LAYER);
    let oci = manifest(directory.path(), env!("CARGO_PKG_VERSION"));
    assert_eq!(docker["layers"][0]["digest"], json!(oci.layers()[0].digest()));
    assert_eq!(docker["config"]["digest"], json!(oci.config().digest()));
    for descriptor in [&docker["layers"][0], &docker["config"]] {
        let content = read(descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap());
        assert_eq!(digest(&content), descriptor["digest"].as_str().unwrap());
    }
}

#[test]
fn the_bill_lists_what_is_linked_and_sets_apart_what_only_builds() {
    let metadata = MetadataCommand::new()
        .other_options(["--locked", "--filter-platform", "wasm32-unknown-unknown"].map(ToOwned::to_owned))
        .exec()
        .unwrap();
    let lock = fs::read_to_string(metadata.workspace_root.join("Cargo.lock")).unwrap();
    let bill = sbom::sbom(&metadata, &lock, MODULE, &identity()).unwrap();
    assert_eq!(bill, sbom::sbom(&metadata, &lock, MODULE, &identity()).unwrap());
    let bill: Value = serde_json::from_slice(&bill).unwrap();
    let scope = |name: &str| {
        let found = bill["components"].as_array().unwrap().iter().find(|component| component["name"] == name)?;
        Some(found["scope"].as_str().unwrap().to_owned())
    };
    for name in ["circuit-breaker-core", "proxy-wasm", "log", "serde_json", "hashbrown"] {
        assert_eq!(scope(name).as_deref(), Some("required"), "{name}");
    }
    for name in ["serde_derive", "syn", "quote"] {
        assert_eq!(scope(name).as_deref(), Some("excluded"), "{name}");
    }
    // Dependencies of this workspace's tools are not the module's.
    for name in ["clap", "tokio", "walrus", "circuit-breaker-image"] {
        assert_eq!(scope(name), None, "{name}");
    }
    for component in bill["components"].as_array().unwrap() {
        let own = component["name"].as_str().unwrap().starts_with("circuit-breaker-");
        assert_eq!(component["hashes"][0]["content"].as_str().map(str::len), (!own).then_some(64), "{component}");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
    assert_eq!(
        format!("sha256:{}", bill["metadata"]["component"]["hashes"][0]["content"].as_str().unwrap()),
        digest(MODULE)
    );
    // Every edge leads to something that is described.
    let root = bill["metadata"]["component"]["bom-ref"].as_str();
    let known: Vec<_> =
        bill["components"].as_array().unwrap().iter().map(|c| c["bom-ref"].as_str()).chain([root]).collect();
    let edges = bill["dependencies"].as_array().unwrap();
    assert_eq!(edges.len(), known.len());
    for target in edges.iter().flat_map(|edge| edge["dependsOn"].as_array().unwrap()) {
        assert!(known.contains(&target.as_str()), "{target}");
    }
}
