//! What the module is made of: a CycloneDX document of the crates that are linked into it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, Package, PackageId, TargetKind};
use serde_json::{Value, json};

use crate::Identity;
use crate::layout::digest;

/// The crate that is the module.
const ROOT: &str = "circuit-breaker-filter";

/// The document. `metadata` is cargo's for the module's target, `lock` the text of Cargo.lock.
///
/// Procedural macros run at build time only: they are listed with the scope `excluded`, and so is what only they need.
///
/// # Errors
/// `metadata` does not resolve the module, or `lock` is no lock file.
pub fn sbom(metadata: &Metadata, lock: &str, module: &[u8], identity: &Identity) -> Result<Vec<u8>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata has resolved nothing")?;
    let packages: HashMap<&PackageId, &Package> = metadata.packages.iter().map(|p| (&p.id, p)).collect();
    let root = metadata.packages.iter().find(|package| package.name.as_str() == ROOT);
    let root = root.with_context(|| format!("cargo metadata knows no {ROOT}"))?;
    let needs: HashMap<&PackageId, Vec<&PackageId>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal));
            (&node.id, normal.map(|dep| &dep.pkg).collect())
        })
        .collect();
    let is_macro = |id: &PackageId| packages.get(id).is_some_and(|package| is_macro(package));
    let all = reached(&root.id, &needs, |_| true);
    let linked = reached(&root.id, &needs, |id| !is_macro(id));

    let sums = checksums(lock)?;
    let mut components = BTreeMap::new();
    let mut dependencies = BTreeMap::new();
    for id in all {
        let package = packages.get(id).with_context(|| format!("cargo metadata does not describe {id}"))?;
        let name = reference(package);
        let mut below: Vec<String> =
            needs.get(id).into_iter().flatten().filter_map(|id| packages.get(id)).map(|p| reference(p)).collect();
        below.sort();
        dependencies.insert(name.clone(), json!({"ref": name, "dependsOn": below}));
        if id == &root.id {
            continue;
        }
        let mut component = described(package, "library");
        component["scope"] = json!(if linked.contains(id) { "required" } else { "excluded" });
        if let Some(sum) = sums.get(&(package.name.to_string(), package.version.to_string())) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
        }
        components.insert(name, component);
    }
    let mut subject = described(root, "library");
    subject["hashes"] = json!([{"alg": "SHA-256", "content": digest(module).trim_start_matches("sha256:")}]);
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": identity.created,
            "component": subject,
            "properties": [{"name": "revision", "value": identity.revision}],
        },
        "components": components.into_values().collect::<Vec<Value>>(),
        "dependencies": dependencies.into_values().collect::<Vec<Value>>(),
    });
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    Ok(text)
}

/// Packages that `from` needs, itself among them, along those that `through` lets pass.
fn reached<'a>(
    from: &'a PackageId,
    needs: &HashMap<&'a PackageId, Vec<&'a PackageId>>,
    through: impl Fn(&PackageId) -> bool,
) -> BTreeSet<&'a PackageId> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(id) = open.pop() {
        if through(id) && found.insert(id) {
            open.extend(needs.get(id).into_iter().flatten());
        }
    }
    found
}

fn is_macro(package: &Package) -> bool {
    package.targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro))
}

/// A package URL, which also is the name of the component in the document. Crates of this workspace are in no registry.
fn reference(package: &Package) -> String {
    let kind = if package.source.is_some() { "cargo" } else { "generic" };
    format!("pkg:{kind}/{}@{}", package.name, package.version)
}

fn described(package: &Package, kind: &str) -> Value {
    let name = reference(package);
    let mut component = json!({
        "type": kind, "bom-ref": name, "name": package.name, "version": package.version, "purl": name,
    });
    if let Some(licence) = &package.license {
        component["licenses"] = json!([{"expression": licence}]);
    }
    if let Some(repository) = &package.repository {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    component
}

/// The registry's checksum of each package, by name and version.
fn checksums(lock: &str) -> Result<HashMap<(String, String), String>> {
    let lock: toml::Table = toml::from_str(lock).context("Cargo.lock is no lock file")?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock lists no packages")?;
    let text = |package: &toml::Value, key: &str| package.get(key)?.as_str().map(ToOwned::to_owned);
    Ok(packages
        .iter()
        .filter_map(|package| Some(((text(package, "name")?, text(package, "version")?), text(package, "checksum")?)))
        .collect())
}
