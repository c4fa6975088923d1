//! `make soak`: everything at once on a real Envoy for a while, and the invariants that must hold all the same.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use circuit_breaker_integration::envoy::workspace;
use circuit_breaker_integration::soak::stage::Stage;
use circuit_breaker_integration::soak::{Settings, WORKERS, invariants, perform, picture, report};
use tokio::signal::unix::{SignalKind, signal};

/// An invariant is broken.
const BROKEN: u8 = 1;

/// The run could not be made.
const NOT_RUN: u8 = 2;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    // It runs on a task of its own, so that a panic becomes an error like others.
    let done = match tokio::spawn(soak()).await {
        Ok(done) => done,
        Err(why) => Err(why.into()),
    };
    done.unwrap_or_else(|why| {
        eprintln!("soak: could not run: {why:#}");
        ExitCode::from(NOT_RUN)
    })
}

async fn soak() -> Result<ExitCode> {
    let settings = Settings::from_environment()?;
    let (seconds, seed) = (settings.lasts.as_secs(), settings.seed);
    println!(
        "soak: {seconds} s, Envoy with {WORKERS} workers; again by SOAK_SECONDS={seconds} SOAK_SEED={seed} make soak"
    );
    let stage = Stage::set(settings).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        judged = judge(&stage, settings) => judged,
        _ = tokio::signal::ctrl_c() => stopped(),
        _ = terminate.recv() => stopped(),
    }
}

fn stopped() -> Result<ExitCode> {
    println!("stopped");
    Ok(ExitCode::from(NOT_RUN))
}

async fn judge(stage: &Stage, settings: Settings) -> Result<ExitCode> {
    let evidence = match perform(stage, settings).await {
        Ok(evidence) => evidence,
        Err(why) => {
            stage.envoy.print_what_is_known();
            if has_ended(stage.envoy.pid()) {
                println!("BROKEN  Envoy lives: it has ended ({why:#})");
                return Ok(ExitCode::from(BROKEN));
            }
            return Err(why);
        }
    };
    let findings = invariants::all(&evidence);
    let directory = workspace().join("target/soak");
    fs::create_dir_all(&directory)?;
    let path = directory.join("soak.svg");
    fs::write(&path, picture::draw(&evidence, settings.seed)?).context("the picture cannot be written")?;
    fs::write(directory.join("envoy.log"), stage.envoy.log())?;
    let kept = findings.iter().all(|finding| finding.broken.is_empty());
    if !kept {
        stage.envoy.print_what_is_known();
    }
    report::print(&evidence, &findings);
    println!("\nThe picture: {} (Envoy's log is beside it); SOAK_SEED={}", path.display(), settings.seed);
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

/// Whether a child of ours runs no longer: it is a zombie until it is waited for.
fn has_ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}
