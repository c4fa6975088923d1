//! `circuit-breaker check`: the module's own verdict, in its own words, before a proxy sees the file.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use circuit_breaker_core::config::{Config, effective};
use clap::Args;

use crate::attachment::attachments;
use crate::faults::{Fault, faults};
use crate::files::{Found, manifests};

/// What to check.
#[derive(Args, Debug)]
pub struct Check {
    /// YAML or JSON: a bare pluginConfig, or resources. With Deployments, Gateways or Services among these it also
    /// says where plugins attach
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Print the effective policy of this upstream (Envoy's cluster name)
    #[arg(long)]
    upstream: Option<String>,
}

impl Check {
    /// Checks and prints. Whether all is valid.
    ///
    /// # Errors
    /// A file cannot be read, or there is no `pluginConfig` in any.
    pub fn run(&self) -> Result<bool> {
        let (mut valid, mut configs, mut resources) = (true, 0, Vec::new());
        for file in &self.files {
            let name = file.display().to_string();
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
            let found = match manifests(&text) {
                Ok(found) => found,
                Err(why) => {
                    eprintln!("{name}:{why:#}");
                    return Ok(false);
                }
            };
            configs += found.configs.len();
            for config in &found.configs {
                valid &= self.config(&name, config)?;
            }
            resources.extend(found.resources);
        }
        ensure!(configs > 0, "{} resources, and no WasmPlugin or TrafficExtension among them", resources.len());
        let attached = attachments(&resources);
        attached.places.iter().for_each(|place| println!("{place}"));
        attached.faults.iter().for_each(|fault| eprintln!("{fault}"));
        Ok(valid && attached.faults.is_empty())
    }

    /// Whether one policy is valid.
    fn config(&self, file: &str, found: &Found) -> Result<bool> {
        let resource = if found.resource.is_empty() { String::new() } else { format!("{}: ", found.resource) };
        match Config::parse(found.document.as_bytes()) {
            Ok(config) => {
                // As `circuit_breaker_info` names it.
                println!("{file}: {resource}valid, policy {:08x}", config.hash);
                config.warnings().iter().for_each(|warning| eprintln!("{file}: {resource}warning: {warning}"));
            }
            Err(error) => {
                match &found.node {
                    Some(node) => faults(node)
                        .iter()
                        .for_each(|Fault { at, message }| eprintln!("{file}:{at}: {resource}{message}")),
                    None => eprintln!("{file}: {resource}{error}"),
                }
                return Ok(false);
            }
        }
        if let Some(upstream) = &self.upstream {
            print!("{}", effective(found.document.as_bytes(), upstream)?);
        }
        Ok(true)
    }
}
