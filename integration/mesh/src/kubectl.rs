//! Kubernetes' API as its users see it: by kubectl.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// kubectl, as the cluster's administrator.
#[derive(Clone, Debug)]
pub struct Kubectl {
    binary: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// By this kubectl, with this kubeconfig.
    #[must_use]
    pub fn new(binary: PathBuf, kubeconfig: PathBuf) -> Kubectl {
        Kubectl { binary, kubeconfig }
    }

    /// Its configuration, for other programs.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Where kubectl lies.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Runs it with these arguments, and gives what it prints.
    ///
    /// # Errors
    /// It fails; with what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.feed(arguments, "")
    }

    /// Runs it with `input` on its standard input.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn feed(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(&self.binary)
            .env("KUBECONFIG", &self.kubeconfig)
            // Its cache of what the API server offers. It must not be in the home directory of the user who runs the
            // tests.
            .env("KUBECACHEDIR", self.kubeconfig.with_file_name("kubectl-cache"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let (said, complaint) =
            (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
        ensure!(output.status.success(), "kubectl {}: {}\n{input}", arguments.join(" "), complaint.trim());
        Ok(said)
    }

    /// Applies objects, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// The API server refuses one.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.feed(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &list.to_string())?;
        Ok(())
    }

    /// Applies a kustomization.
    ///
    /// # Errors
    /// It cannot be built, or the API server refuses an object.
    pub fn apply_kustomization(&self, directory: &Path) -> Result<String> {
        self.run(&["apply", "--server-side", "--force-conflicts", "-k", &directory.display().to_string()])
    }

    /// Deletes an object, for example `["wasmplugin", "circuit-breaker", "-n", "shop"]`.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn delete(&self, object: &[&str]) -> Result<()> {
        self.run(&[&["delete", "--ignore-not-found", "--wait=true"], object].concat())?;
        Ok(())
    }

    /// An object.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, object: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&[&["get", "-o", "json"], object].concat())?)?)
    }
}
