//! An upstream that is steadier than the proxy that it helps to measure.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::net::TcpStream;

use super::process::{Core, require};

/// A running nginx. Killed when dropped.
pub struct Nginx {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

/// It starts within milliseconds, or not at all.
const PATIENCE: Duration = Duration::from_secs(10);

impl Nginx {
    /// An upstream that answers `/fail` with 500 and all else with 200 and twelve bytes.
    ///
    /// # Errors
    /// nginx is not installed, or does not start.
    pub async fn start() -> Result<Nginx> {
        require("nginx", "nginx-light")?;
        require("taskset", "util-linux")?;
        let directory = tempfile::Builder::new().prefix("circuit-breaker-nginx-").tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = directory.path().join("nginx.conf");
        fs::write(&config, configuration(directory.path(), address))?;
        let child = Core::Rest
            .command(Path::new("nginx"))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("stderr"))?)
            .spawn()
            .context("cannot start nginx")?;
        let mut nginx = Nginx { child, address, _directory: directory };
        nginx.become_ready().await?;
        Ok(nginx)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn become_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(self._directory.path().join("stderr")).unwrap_or_default();
                bail!("nginx ended while starting: {status}\n{said}");
            }
            ensure!(Instant::now() < deadline, "nginx does not listen after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Ended already, perhaps: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One process, no logs, connections that stay open.
fn configuration(directory: &Path, address: SocketAddr) -> String {
    let directory = directory.display();
    format!(
        "daemon off; master_process off; pid {directory}/pid; error_log {directory}/stderr crit;
         events {{ worker_connections 4096; }}
         http {{
             access_log off; keepalive_requests 1000000000; keepalive_timeout 3600;
             client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
             fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
             server {{
                 listen {address};
                 location /fail {{ return 500 \"down\\n\"; }}
                 location / {{ return 200 \"hello world\\n\"; }}
             }}
         }}
         "
    )
}
