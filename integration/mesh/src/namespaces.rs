//! The lab's own part of the machine: network, mounts and processes.
//!
//! A program calls [`enter`] first, and goes on as the first process of new namespaces. So every port of the mesh can
//! be the one that Istio documents. No address of the lab can be one of the machine's, and nothing in it reaches
//! another network. There is nothing to clean up: when the first process ends, in whatever way, the kernel ends all
//! others and takes back interfaces, firewall rules and mounts.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Tells the program that it is already inside.
const INSIDE: &str = "CIRCUIT_BREAKER_MESH_INSIDE";

/// The process through which others enter the lab.
const OUTSIDE: &str = "CIRCUIT_BREAKER_MESH_OUTSIDE";

/// Where the lab keeps its files: in memory that goes with the namespaces.
pub const DIRECTORY: &str = "/run/mesh";

/// What the machine lets us do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything, also processes under Istio's user 1337, whose traffic iptables tells from the application's.
    Full,
    /// We are root only in a namespace of our own without any other user, so there are no sidecars.
    OneUser,
}

/// What to put before a command to run it inside the lab, from another terminal.
#[must_use]
pub fn way_in(rights: Rights) -> String {
    let user = if rights == Rights::Full { "" } else { " --user --preserve-credentials" };
    format!("nsenter --target {}{user} --net --mount", env::var(OUTSIDE).unwrap_or_default())
}

/// Goes on inside new namespaces.
///
/// # Errors
/// The kernel does not let us make them; the message tells what is missing.
pub fn enter() -> Result<Rights> {
    let Some(rights) = env::var_os(INSIDE) else { return Err(unshare()?) };
    // What the lab starts must not become a lab itself.
    let rights = if rights == "full" { Rights::Full } else { Rights::OneUser };
    mount()?;
    end_when_asked();
    Ok(rights)
}

/// Starts this program again inside the namespaces, in our place. Returns why that failed.
fn unshare() -> Result<anyhow::Error> {
    let root = nix::unistd::geteuid().is_root();
    let namespaces: &[&str] = if root { &[] } else { &["--user", "--map-root-user"] };
    let mut command = Command::new("unshare");
    command.args(namespaces).args(["--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]);
    let possible =
        command.arg("true").output().context("`unshare` is not here: install Debian's package util-linux")?;
    ensure!(
        possible.status.success(),
        "namespaces are needed for the lab, and the kernel gives us none ({}): be root, or allow user namespaces",
        String::from_utf8_lossy(&possible.stderr).trim()
    );
    let mut command = Command::new("unshare");
    command.args(namespaces).args(["--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]);
    command.arg(env::current_exe()?).args(env::args_os().skip(1));
    command.env(INSIDE, if root { "full" } else { "one-user" });
    // The new program becomes our process. From inside nobody could tell its process id on the machine.
    command.env(OUTSIDE, std::process::id().to_string());
    Ok(command.exec().into())
}

/// Hides what the lab would otherwise leave on the machine, or find there from another lab: sockets and locks of
/// /run, the agent's cache of modules in /var/lib, the names in /etc/hosts.
fn mount() -> Result<()> {
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
    for layer in ["upper", "work"] {
        fs::create_dir_all(Path::new(DIRECTORY).join(layer))?;
    }
    fs::write(Path::new(DIRECTORY).join("hosts"), "127.0.0.1 localhost\n")?;
    let layers = format!("lowerdir=/var/lib,upperdir={DIRECTORY}/upper,workdir={DIRECTORY}/work");
    run("mount", &["-t", "overlay", "overlay", "-o", &layers, "/var/lib"])?;
    run("mount", &["--bind", &format!("{DIRECTORY}/hosts"), "/etc/hosts"])?;
    run("ip", &["link", "set", "lo", "up"])
}

/// The first process of a namespace ignores signals that it does not handle, so Ctrl-C would end nothing.
fn end_when_asked() {
    std::thread::spawn(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => interrupted?,
                _ = terminate.recv() => {}
            }
            std::process::exit(130)
        })
    });
}

/// Runs a program to its end.
///
/// # Errors
/// It is not there, or it fails; with what it said.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("`{program}` is not here: `.ci/run` names the Debian packages"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
