//! Where what is built and installed lies.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// The module that `make build` made.
#[must_use]
pub fn module() -> PathBuf {
    std::env::var_os("CIRCUIT_BREAKER_MODULE")
        .map_or_else(|| workspace().join("target/wasm32-unknown-unknown/release/circuit_breaker.wasm"), PathBuf::from)
}

/// A later version of the module, made up: the record of its circuits has this layout. `make build-later` makes 2 and 3.
#[must_use]
pub fn later_module(layout: u8) -> PathBuf {
    workspace().join(format!("target/layout-{layout}/circuit_breaker.wasm"))
}

/// The root of the repository.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Where an installed tool lies, as `integration/tools/install` says it.
///
/// # Errors
/// The tool is not there.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = installed(name)?;
    ensure!(path.is_file(), "{name} is not installed: run `integration/tools/install {name}`");
    Ok(path)
}

/// Where an installed directory of files lies.
///
/// # Errors
/// It is not there.
pub fn installed_files(name: &str) -> Result<PathBuf> {
    let path = installed(name)?;
    ensure!(path.is_dir(), "{name} is not installed: run `integration/tools/install {name}`");
    Ok(path)
}

fn installed(name: &str) -> Result<PathBuf> {
    let output = Command::new(workspace().join("integration/tools/install")).args(["path", name]).output()?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
