//! `make bench` and `make bench-gate`: what a request costs with the breaker, in instructions.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use circuit_breaker_integration::bench::{Bench, Variant};
use circuit_breaker_integration::envoy::{module, workspace};
use serde_json::{Value, json};

/// Growth over the baseline at which the gate closes. Counts of one module differ by 0.3 % of a whole request, which is
/// about 1 % of what the breaker adds.
const ALLOWED: f64 = 1.03;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("gate") => gate().await,
        Some("accept") => accept().await,
        None => bench().await,
        Some(other) => Err(anyhow!("there is no `{other}`; there are `gate` and `accept`")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the breaker and the empty filter add to a request.
async fn added() -> Result<(f64, f64)> {
    let mut bench = Bench::start(&[Variant::None, Variant::Empty, Variant::Breaker]).await?;
    let none = bench.request(Variant::None).await?;
    let empty = bench.request(Variant::Empty).await? - none;
    Ok((bench.request(Variant::Breaker).await? - none, empty))
}

fn baseline_file() -> std::path::PathBuf {
    workspace().join("integration/bench-baseline.json")
}

async fn gate() -> Result<()> {
    let text = std::fs::read_to_string(baseline_file()).context("no baseline: `make bench-accept` writes one")?;
    let baseline: Value = serde_json::from_str(&text)?;
    let of = |field: &str| baseline[field].as_f64().with_context(|| format!("a baseline without {field}"));
    let (breaker_then, empty_then) = (of("added_instructions")?, of("empty_filter")?);
    let (breaker, empty) = added().await?;
    // Another processor makes V8 write other code, for the empty filter too: what both of them pay more is nobody's fault.
    let growth = (breaker / breaker_then).min(breaker / breaker_then * empty_then / empty);
    println!(
        "the breaker adds {breaker:.0} instructions a request, the empty SDK filter {empty:.0}; \
         by the baseline {breaker_then:.0} and {empty_then:.0}: {:+.1} %",
        (growth - 1.0) * 100.0
    );
    if growth > ALLOWED {
        bail!(
            "more than {:.0} % above the baseline: find what the request pays for, or say why in the commit and run \
             `make bench-accept`",
            (ALLOWED - 1.0) * 100.0
        );
    }
    if growth < 2.0 - ALLOWED {
        println!("well below it: `make bench-accept` keeps what was won");
    }
    Ok(())
}

async fn accept() -> Result<()> {
    let (breaker, empty) = added().await?;
    let envoy = std::env::var("ENVOY").unwrap_or_else(|_| "1.40.0".to_owned());
    let document = json!({"envoy": envoy, "added_instructions": breaker.round(), "empty_filter": empty.round()});
    std::fs::write(baseline_file(), format!("{document:#}\n"))?;
    println!("{document:#}");
    Ok(())
}

/// One line of the table.
struct Row {
    what: &'static str,
    found: f64,
    /// Largest value that may be, and the one that is aimed at; none for what is only told.
    bounds: Option<(f64, f64)>,
}

async fn bench() -> Result<()> {
    let mut bench = Bench::start(&Variant::ALL).await?;
    let mut cost = Vec::new();
    for variant in Variant::ALL {
        cost.push((variant, bench.request(variant).await?));
    }
    bench.open_other().await?;
    let one_open = bench.request(Variant::Breaker).await?;
    let (rejection, direct) = (bench.rejection().await?, bench.direct_response().await?);
    let of = |wanted: Variant| cost.iter().find(|(variant, _)| *variant == wanted).map_or(f64::NAN, |(_, cost)| *cost);
    let none = of(Variant::None);
    let breaker = of(Variant::Breaker) - none;
    #[allow(clippy::cast_precision_loss)]
    let kilobytes = std::fs::metadata(module())?.len() as f64 / 1024.0;
    let rows = [
        Row { what: "a request without a filter, instructions", found: none, bounds: None },
        Row { what: "added by the empty SDK filter", found: of(Variant::Empty) - none, bounds: None },
        Row { what: "added by Lua doing a breaker's least", found: of(Variant::Lua) - none, bounds: None },
        Row { what: "added by native admission_control", found: of(Variant::AdmissionControl) - none, bounds: None },
        Row { what: "added by the breaker, CLOSED", found: breaker, bounds: None },
        Row { what: "added by the breaker, another circuit OPEN", found: one_open - none, bounds: None },
        Row { what: "a rejected request, whole", found: rejection, bounds: None },
        Row { what: "a reply of Envoy's own, whole, without a filter", found: direct, bounds: None },
        Row {
            what: "CLOSED against the empty filter",
            found: breaker / (of(Variant::Empty) - none),
            bounds: Some((2.4, 1.8)),
        },
        Row { what: "CLOSED against Lua", found: breaker / (of(Variant::Lua) - none), bounds: Some((1.5, 1.1)) },
        Row {
            what: "another circuit OPEN against all CLOSED",
            found: (one_open - none) / breaker,
            bounds: Some((1.4, 1.2)),
        },
        Row { what: "rejecting against proxying", found: rejection / (none + breaker), bounds: Some((0.5, 0.35)) },
        Row { what: "module, KB", found: kilobytes, bounds: Some((200.0, 120.0)) },
    ];
    print(&rows);
    let file = workspace().join("target/bench.json");
    let values: serde_json::Map<String, Value> =
        rows.iter().map(|row| (row.what.to_owned(), json!(row.found))).collect();
    std::fs::write(&file, format!("{:#}\n", Value::Object(values)))?;
    println!("\nwritten to {}", file.display());
    let missed: Vec<&str> =
        rows.iter().filter(|row| row.bounds.is_some_and(|(most, _)| row.found > most)).map(|row| row.what).collect();
    if missed.is_empty() { Ok(()) } else { bail!("over the bound: {}", missed.join("; ")) }
}

fn print(rows: &[Row]) {
    println!("| measure | found | at most | aim |\n|---|---|---|---|");
    for row in rows {
        let found = if row.found >= 1000.0 { format!("{:.0}", row.found) } else { format!("{:.2}", row.found) };
        match row.bounds {
            Some((most, aim)) => println!("| {} | {found} | {most} | {aim} |", row.what),
            None => println!("| {} | {found} | | |", row.what),
        }
    }
}
