//! `make demo`: a real Envoy, an upstream that falls sick, and how the breaker handles it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use circuit_breaker_integration::demo::board::Board;
use circuit_breaker_integration::demo::load::{self, Records};
use circuit_breaker_integration::demo::summary::Run;
use circuit_breaker_integration::demo::{LENGTH, Side, Stage, WORKERS, page, phases};
use circuit_breaker_integration::envoy::workspace;
use circuit_breaker_integration::scenario::State;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let stage = Stage::set().await?;
    println!("{}, {WORKERS} workers; the same upstream with and without the breaker", stage.started_by);
    tokio::select! {
        run = perform(&stage) => finish(&run?),
        _ = tokio::signal::ctrl_c() => {
            println!("stopped");
            Ok(())
        }
    }
}

/// Time between two looks at the run.
const GLANCE: Duration = Duration::from_millis(100);

async fn perform(stage: &Stage) -> Result<Run> {
    let mut board = Board::new()?;
    let mut run = Run { started_by: stage.started_by.clone(), ..Run::default() };
    let records = Records::default();
    let mut coming = phases().into_iter().peekable();
    let start = Instant::now();
    let mut loads = tokio::task::JoinSet::new();
    for side in Side::BOTH {
        loads.spawn(load::run(side, stage.envoy.address(side.listener()), start, LENGTH, records.clone()));
    }
    while !loads.is_empty() {
        if let Some(phase) = coming.next_if(|phase| phase.from <= start.elapsed()) {
            stage.upstream.behave(phase.behaviour);
        }
        look(stage, &mut run, &records, start.elapsed()).await?;
        board.show(&run, start.elapsed())?;
        // A finished side is taken off the set; otherwise this is the pause between two glances.
        let _ = tokio::time::timeout(GLANCE, loads.join_next()).await;
    }
    look(stage, &mut run, &records, start.elapsed()).await?;
    board.show(&run, start.elapsed())?;
    board.end()?;
    Ok(run)
}

/// Adds the present state to the run.
async fn look(stage: &Stage, run: &mut Run, records: &Records, now: Duration) -> Result<()> {
    let stats = stage.envoy.stats().await.context("Envoy's admin interface does not answer")?;
    let ours = format!("tag.{};.", Side::With.cluster());
    let state = match stats.get(&format!("wasmcustom.wasm_filter.circuit_breaker.{ours}circuit_breaker_state")) {
        Some(2) => State::Open,
        Some(1) => State::HalfOpen,
        _ => State::Closed,
    };
    if run.states.last().is_none_or(|(_, last)| *last != state) {
        run.states.push((now, state));
    }
    let trips = stats.iter().filter(|(name, _)| name.ends_with(&format!("{ours}circuit_breaker_trips_total")));
    run.trips = trips.map(|(_, value)| value).sum();
    run.arrivals.push((now, Side::BOTH.map(|side| stage.upstream.seen_for(side.path()))));
    run.records = records.all();
    Ok(())
}

fn finish(run: &Run) -> Result<()> {
    println!("\n{:<36} {:>12} {:>14}", "", "without", "with breaker");
    for [name, without, with] in run.table() {
        println!("{name:<36} {without:>12} {with:>14}");
    }
    println!(
        "\nThe circuit tripped {} times. The breaker tells clients at once and spares the sick upstream;",
        run.trips
    );
    println!("it lets traffic back step by step, which is why full recovery takes longer with it.");
    let page = page::write(run, &workspace().join("target/demo"))?;
    println!("\nTo show it to a colleague: {}", page.display());
    Ok(())
}
