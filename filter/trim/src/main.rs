//! `circuit-breaker-trim LINKED TRIMMED`: writes the module that is shipped.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use circuit_breaker_trim::{exported_functions, trim};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else { bail!("usage: circuit-breaker-trim LINKED TRIMMED") };
    let linked = fs::read(from).with_context(|| format!("cannot read {from}"))?;
    let trimmed = trim(&linked)?;
    // Another process may be loading the module: it sees the old one or the new one.
    let staging = format!("{to}.new");
    fs::write(&staging, &trimmed).with_context(|| format!("cannot write {staging}"))?;
    fs::rename(&staging, to).with_context(|| format!("cannot write {to}"))?;
    let name = Path::new(to).file_name().unwrap_or_default().to_string_lossy();
    let exports = exported_functions(&trimmed)?.len();
    println!("{name}: {} bytes, {exports} functions exported (linked: {} bytes)", trimmed.len(), linked.len());
    Ok(())
}
