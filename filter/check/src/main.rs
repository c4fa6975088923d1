//! `circuit-breaker check FILE`: the module's own verdict, in its own words, before a proxy sees the file.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use circuit_breaker_check::{files, schema};
use circuit_breaker_core::config::{Config, effective};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "circuit-breaker", about = "Checks configurations of the circuit breaker for Envoy and Istio")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the pluginConfig of a file: bare, or in WasmPlugin and TrafficExtension resources
    Check {
        /// YAML or JSON
        file: PathBuf,
        /// Print the effective policy of this upstream (Envoy's cluster name)
        #[arg(long)]
        upstream: Option<String>,
    },
    /// Print the JSON Schema of pluginConfig
    Schema,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check { file, upstream } => check(&file, upstream.as_deref()),
        Command::Schema => serde_json::to_string_pretty(&schema::schema()).map_err(Into::into).map(|schema| {
            println!("{schema}");
            true
        }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all that the file holds is valid.
fn check(file: &PathBuf, upstream: Option<&str>) -> Result<bool> {
    let name = file.display();
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let mut valid = true;
    for found in files::plugin_configs(&text).with_context(|| name.to_string())? {
        let place = if found.resource.is_empty() { name.to_string() } else { format!("{name}: {}", found.resource) };
        match Config::parse(found.document.as_bytes()) {
            Ok(config) => {
                println!("{place}: valid");
                config.warnings().iter().for_each(|warning| eprintln!("{place}: warning: {warning}"));
            }
            Err(error) => {
                eprintln!("{place}: {error}");
                valid = false;
                continue;
            }
        }
        if let Some(upstream) = upstream {
            print!("{}", effective(found.document.as_bytes(), upstream)?);
        }
    }
    Ok(valid)
}
