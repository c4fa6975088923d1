//! Copies of the module. One has a fault, since nobody can make the module itself trap from outside. Others do the
//! same as the module, but Envoy takes them for other modules.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::envoy::module;

/// Writes a copy of the module into `directory` whose VM traps at the trailers of a response.
///
/// # Errors
/// The module is not built, or has no callback on trailers.
pub fn module_that_traps(directory: &Path) -> Result<PathBuf> {
    let mut faulty = walrus::Module::from_file(module())?;
    let victim = faulty.exports.get_func("proxy_on_response_trailers")?;
    let trap = faulty.replace_exported_func(victim, |(body, _)| {
        body.unreachable();
    });
    trap.context("the callback on trailers cannot be replaced")?;
    written(directory.join("faulty.wasm"), faulty.emit_wasm())
}

/// Writes a copy of the module into `directory` that does the same. Envoy takes it for another one, since its bytes
/// differ.
///
/// # Errors
/// The module is not built, or the directory cannot be written to.
pub fn module_of_another_version(directory: &Path, version: u8) -> Result<PathBuf> {
    let mut bytes = std::fs::read(module()).context("no module: run `make build`")?;
    // A custom section (0): its size, its name's size, its name, and its content.
    bytes.extend_from_slice(&[0, 3, 1, b'v', version]);
    written(directory.join(format!("version-{version}.wasm")), bytes)
}

/// A copy has another name, as each module that differs has.
fn written(path: PathBuf, mut module: Vec<u8>) -> Result<PathBuf> {
    circuit_breaker_trim::name(&mut module)?;
    std::fs::write(&path, module)?;
    Ok(path)
}
