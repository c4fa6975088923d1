//! `circuit-breaker`, which is also `kubectl circuit-breaker`: policies before a proxy sees them, and breakers at work.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use circuit_breaker_check::status::Status;
use circuit_breaker_check::why::Why;
use circuit_breaker_check::{files, schema};
use circuit_breaker_core::config::{Config, effective};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "circuit-breaker", version, about = "Checks and watches the circuit breaker for Envoy and Istio")]
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
    /// Show the breakers of a whole fleet, the most harmed upstream first
    Status(Box<Status>),
    /// Tell why one upstream is cut off, and what to do next
    Why(Box<Why>),
    /// Print the JSON Schema of pluginConfig
    Schema,
}

/// What was asked about is not fine.
const NOT_FINE: u8 = 1;
/// It could not be asked.
const NOT_ASKED: u8 = 2;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_FINE),
        Err(error) => {
            eprintln!("circuit-breaker: {error:#}");
            ExitCode::from(NOT_ASKED)
        }
    }
}

fn run(command: Command) -> Result<bool> {
    match command {
        Command::Check { file, upstream } => check(&file, upstream.as_deref()),
        Command::Status(status) => waited_for(status.run()),
        Command::Why(why) => waited_for(why.run()),
        Command::Schema => {
            println!("{}", serde_json::to_string_pretty(&schema::schema())?);
            Ok(true)
        }
    }
}

fn waited_for(answer: impl Future<Output = Result<bool>>) -> Result<bool> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(answer)
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
