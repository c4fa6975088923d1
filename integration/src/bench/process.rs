//! What the system knows of a process, and which core it may have.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Processor time that all living threads have had so far.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanoseconds: u64 = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("no process {pid}"))? {
        // A thread may end after it is listed and before it is read.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0);
    }
    ensure!(nanoseconds > 0, "this kernel has no /proc/{pid}/task/*/schedstat");
    Ok(Duration::from_nanos(nanoseconds))
}

/// Memory that a process has in use, in MB.
///
/// # Errors
/// There is no such process.
pub fn resident(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("no process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a status without VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1024.0)
}

/// An allocator's heap, in MB.
#[derive(Clone, Copy, Debug)]
pub struct Heap {
    /// Addresses.
    pub size: f64,
    /// What of it is in memory.
    pub resident: f64,
}

/// The heap of Envoy's allocator. tcmalloc grows one mapping, up to a gigabyte, and no other writable mapping is as
/// large.
///
/// # Errors
/// There is no such process.
pub fn heap(pid: u32) -> Result<Heap> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).with_context(|| format!("no process {pid}"))?;
    let (mut largest, mut writable) = (Heap { size: 0.0, resident: 0.0 }, false);
    let mut size = 0.0;
    for line in text.lines() {
        if let Some((from, to, rights)) = mapping(line) {
            #[allow(clippy::cast_precision_loss)]
            let bytes = (to - from) as f64;
            (size, writable) = (bytes / f64::from(1 << 20), rights.starts_with("rw-"));
        } else if let Some(kilobytes) = line.strip_prefix("Rss:")
            && writable
            && size > largest.size
        {
            let kilobytes: f64 = kilobytes.trim().trim_end_matches(" kB").parse()?;
            largest = Heap { size, resident: kilobytes / 1024.0 };
        }
    }
    Ok(largest)
}

/// The linear memories of a process' Wasm VMs in MB, the least first. V8 reserves more than 4 GB of addresses for
/// each, so that a wild access traps. The module has the writable part at the beginning.
///
/// # Errors
/// There is no such process.
pub fn linear_memories(pid: u32) -> Result<Vec<f64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).with_context(|| format!("no process {pid}"))?;
    let mappings: Vec<(u64, u64, &str)> = text.lines().filter_map(mapping).collect();
    let guards = |(before, after): (&(u64, u64, &str), &(u64, u64, &str))| {
        let guarded = after.2.starts_with("---") && after.0 == before.1 && after.1 - after.0 > 3 << 30;
        (guarded && before.2.starts_with("rw-")).then_some(before.1 - before.0)
    };
    let sizes = mappings.iter().zip(mappings.iter().skip(1)).filter_map(guards);
    #[allow(clippy::cast_precision_loss)]
    let mut memories: Vec<f64> = sizes.map(|bytes| bytes as f64 / f64::from(1 << 20)).collect();
    memories.sort_by(f64::total_cmp);
    Ok(memories)
}

/// From, to and rights of a line of `/proc/PID/maps`; `None` for the other lines of `smaps`.
fn mapping(line: &str) -> Option<(u64, u64, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?, rest.split(' ').next()?))
}

/// The core of the proxy that is measured, and the core of all that serves to measure it. On a machine with one core
/// both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// Envoy.
    Measured,
    /// Clients and upstreams.
    Rest,
}

impl Core {
    /// A command that starts `program` on this core.
    #[must_use]
    pub fn command(self, program: &Path) -> Command {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let core = match self {
            Core::Measured => 0,
            Core::Rest => cores - 1,
        };
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &core.to_string()]).arg(program);
        command
    }
}

/// Whether a program is there.
///
/// # Errors
/// It is not; with the package that has it.
pub fn require(program: &str, package: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers in directories where only root looks for programs.
    let mut places = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    ensure!(
        places.any(|place| place.join(program).is_file()),
        "{program} is not here: install Debian's package `{package}`"
    );
    Ok(())
}
