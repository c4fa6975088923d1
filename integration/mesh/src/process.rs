//! A program of the lab, its log, and its end.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use circuit_breaker_integration::wait::PATIENCE;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A running program, with all that it starts. Ended when dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Program {
    /// Starts it. Its output goes to `<directory>/<name>.log`, after the output of an earlier program.
    ///
    /// # Errors
    /// It is not there.
    pub fn start(directory: &Path, name: &str, mut command: Command) -> Result<Program> {
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{name}.log"));
        // It appends: Envoy opens its standard output once more for the access log, and each would overwrite the
        // other.
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        // User 1337 does that second opening.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        // A group of its own, so that nothing it starts outlives it.
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Program { name: name.to_owned(), child: Mutex::new(child), log: path })
    }

    /// Waits until `ready` says yes.
    ///
    /// # Errors
    /// The program ended, or time is over; with the end of its log.
    pub async fn until_ready<F: Future<Output = bool>>(&self, ready: impl Fn() -> F) -> Result<()> {
        let deadline = Instant::now() + PATIENCE * 3;
        while !ready().await {
            if let Some(status) = self.child.lock().ok().and_then(|mut child| child.try_wait().ok().flatten()) {
                bail!("{} ended while starting: {status}\n{}", self.name, tail(&self.log(), 40));
            }
            ensure!(Instant::now() < deadline, "{} did not become ready\n{}", self.name, tail(&self.log(), 40));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        // It is not all text: Envoy logs bytes that it was sent.
        fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            // Ended already, perhaps: then there is nothing to kill.
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
        }
    }
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
