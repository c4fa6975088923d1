//! The module as an image: an OCI layout that a registry can be filled from, and the list of what the module is made of.
//!
//! Same module, same commit, same bytes: nothing here reads a clock, a host name or a directory's order. Who pulls by digest
//! can build the image from the sources and compare.
// A tool for a terminal: indexing a JSON value gives null where there is nothing.
#![allow(clippy::indexing_slicing)]

pub mod layout;
pub mod sbom;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What the image says about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Version, which is also the tag.
    pub version: String,
    /// Commit.
    pub revision: String,
    /// Time of the commit, RFC 3339.
    pub created: String,
    /// Where the sources are, if that is known.
    pub source: Option<String>,
}

impl Identity {
    /// An identity of this workspace's version; `created` in Unix seconds.
    ///
    /// # Errors
    /// No calendar has `created`.
    pub fn new(revision: &str, created: i64, source: Option<&str>) -> Result<Self> {
        let created = OffsetDateTime::from_unix_timestamp(created).context("--created is no time")?.format(&Rfc3339)?;
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: revision.to_owned(),
            created,
            source: source.map(ToOwned::to_owned),
        })
    }

    /// The labels of an image, which its manifest repeats as annotations.
    #[must_use]
    pub fn labels(&self) -> Value {
        let mut labels = Map::new();
        for (key, value) in [
            ("title", "circuit-breaker"),
            ("description", "Circuit breaker for Envoy and Istio, a proxy-wasm module"),
            ("licenses", env!("CARGO_PKG_LICENSE")),
            ("version", &self.version),
            ("revision", &self.revision),
            ("created", &self.created),
        ] {
            labels.insert(format!("org.opencontainers.image.{key}"), json!(value));
        }
        if let Some(source) = &self.source {
            labels.insert("org.opencontainers.image.source".to_owned(), json!(source));
        }
        Value::Object(labels)
    }
}
