//! The network of the lab: a bridge, and for each pod a network namespace with an address on it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;

use crate::namespaces::run;

/// The address at which pods see the lab itself: istiod and the registry.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);

/// The addresses of Services. No interface has them: a sidecar takes what is sent there.
pub const SERVICES: &str = "10.96.0.0/16";

/// The bridge.
#[derive(Debug)]
pub struct Network {
    pods: AtomicU16,
}

impl Network {
    /// Makes the bridge.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn lay() -> Result<Network> {
        run("ip", &["link", "add", "mesh0", "type", "bridge"])?;
        run("ip", &["address", "add", &format!("{HOST}/16"), "dev", "mesh0"])?;
        run("ip", &["link", "set", "mesh0", "up"])?;
        Ok(Network { pods: AtomicU16::new(1) })
    }

    /// A namespace with an address that no other had before it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join(&self) -> Result<Netns> {
        let number = self.pods.fetch_add(1, Ordering::SeqCst);
        let [high, low] = number.to_be_bytes();
        let (name, address) = (format!("pod{number}"), Ipv4Addr::new(10, 10, high.saturating_add(1), low));
        let (outer, within) = (format!("veth{number}"), ["-n", name.as_str()]);
        run("ip", &["netns", "add", &name])?;
        // From here on a drop takes it away.
        let netns = Netns { name: name.clone(), address };
        run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        run("ip", &["link", "set", &outer, "master", "mesh0", "up"])?;
        run("ip", &[&within[..], &["link", "set", "lo", "up"]].concat())?;
        run("ip", &[&within[..], &["address", "add", &format!("{address}/16"), "dev", "eth0"]].concat())?;
        run("ip", &[&within[..], &["link", "set", "eth0", "up"]].concat())?;
        run("ip", &[&within[..], &["route", "add", "default", "via", &HOST.to_string()]].concat())?;
        // A gateway is user 1337 and listens on port 80: Istio's own chart sets this in the pod too.
        netns.inside(|| fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"))??;
        Ok(netns)
    }
}

/// A pod's network. Taken away when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    address: Ipv4Addr,
}

impl Netns {
    /// What `ip netns` calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A command that runs `program` inside, with mounts of its own.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Does something inside: a socket that is made there stays there.
    ///
    /// # Errors
    /// The namespace is gone.
    ///
    /// # Panics
    /// What is done panics.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = fs::File::open(format!("/run/netns/{}", self.name)).context("the pod's network is gone")?;
        // A thread stays in the network that it entered last, so this thread ends with its work there.
        let done = std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(act())
            });
            inside.join()
        });
        done.expect("nothing that is done inside panics")
    }

    /// A connection from inside, as the application would make it.
    ///
    /// # Errors
    /// Nobody takes it.
    pub async fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let stream = self.inside(|| std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
        stream.set_nonblocking(true)?;
        Ok(TcpStream::from_std(stream)?)
    }

    /// A listener inside, on the pod's own address.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listen(&self, port: u16) -> Result<std::net::TcpListener> {
        let address = SocketAddrV4::new(self.address, port);
        self.inside(|| std::net::TcpListener::bind(address))?.with_context(|| format!("{address} is taken"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // The kernel takes it away with the lab at the latest.
        let _ = run("ip", &["netns", "delete", &self.name]);
    }
}
