//! `circuit-breaker`, which is also `kubectl circuit-breaker`: policies before a proxy sees them, and breakers at work.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use circuit_breaker_check::check::Check;
use circuit_breaker_check::schema;
use circuit_breaker_check::status::Status;
use circuit_breaker_check::why::Why;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "circuit-breaker", version, about = "Checks and watches the circuit breaker for Envoy and Istio")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check policies and where they attach, before a proxy sees them
    Check(Check),
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
    match run(arguments().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_FINE),
        Err(error) => {
            eprintln!("circuit-breaker: {error:#}");
            ExitCode::from(NOT_ASKED)
        }
    }
}

/// As kubectl's plugin it calls itself what its user has typed.
fn arguments() -> Arguments {
    let called = std::env::args_os().next().map(PathBuf::from);
    let is_plugin = called.is_some_and(|path| path.file_stem().is_some_and(|name| name == PLUGIN));
    let mut command = Arguments::command();
    if is_plugin {
        command = command.bin_name("kubectl circuit-breaker");
    }
    Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|why| why.exit())
}

/// The file that `kubectl circuit-breaker` looks for: it writes a dash as an underscore.
const PLUGIN: &str = "kubectl-circuit_breaker";

fn run(command: Command) -> Result<bool> {
    match command {
        Command::Check(check) => check.run(),
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
