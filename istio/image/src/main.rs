//! `circuit-breaker-image`: writes `oci/`, `docker/` and `sbom.json`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;
use circuit_breaker_image::{Identity, layout, sbom};
use clap::Parser;

/// Make an OCI image layout of the module, and its SBOM
#[derive(Parser)]
struct Arguments {
    /// The trimmed module
    #[arg(long)]
    module: PathBuf,
    /// Directory that gets oci/, docker/ and sbom.json; what was in it goes
    #[arg(long)]
    output: PathBuf,
    /// Commit
    #[arg(long)]
    revision: String,
    /// Time of the commit in Unix seconds
    #[arg(long)]
    created: i64,
    /// Where the sources are
    #[arg(long)]
    source: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let identity = Identity::new(&arguments.revision, arguments.created, arguments.source.as_deref())?;
    let module = fs::read(&arguments.module)
        .with_context(|| format!("cannot read {}; make build makes it", arguments.module.display()))?;
    let metadata = MetadataCommand::new()
        .other_options(["--locked", "--filter-platform", "wasm32-unknown-unknown"].map(ToOwned::to_owned))
        .exec()?;
    let root = metadata.workspace_root.as_std_path();
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let licence = fs::read(root.join("LICENSE")).context("cannot read LICENSE")?;

    let bill = sbom::sbom(&metadata, &lock, &module, &identity)?;
    let digest = layout::write(&arguments.output, &module, &licence, &bill, &identity)?;
    println!("{}: {} is {digest}", arguments.output.display(), identity.version);
    Ok(())
}
