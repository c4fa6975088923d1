//! A copy of the module with a fault. The module itself does not trap: nobody can make it do so from outside.

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
    let path = directory.join("faulty.wasm");
    faulty.emit_wasm_file(&path)?;
    Ok(path)
}
