//! `make run`: an Envoy with the sample configuration, and an upstream whose health you set, for playing with curl.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use circuit_breaker_integration::client;
use circuit_breaker_integration::control::obey;
use circuit_breaker_integration::demo::envoy_command;
use circuit_breaker_integration::envoy::workspace;
use circuit_breaker_integration::upstream::Upstream;
use tokio::net::TcpListener;

// The ports that integration/envoy/sample.yaml names.
const LISTENER: u16 = 10000;
const ADMIN: u16 = 9901;
const UPSTREAM: u16 = 10080;
/// Where the upstream is told how to behave.
const CONTROL: u16 = 10081;

const HELP: &str = "
  The breaker listens on 10000, Envoy's admin interface on 9901. In another terminal:

    curl -i localhost:10000/                      a request through the breaker
    curl localhost:10081/fail                     make the upstream answer 500 ...
    for i in $(seq 8); do curl -s -o /dev/null -w '%{http_code} %header{x-circuit-breaker}\\n' localhost:10000/; done
    curl localhost:10081/hang                     ... or never answer (the route gives up after 2 s) ...
    curl localhost:10081/healthy                  ... or be well again
    curl -s localhost:9901/stats/prometheus | grep ^circuit_breaker

  The policy is in integration/envoy/sample.yaml. Ctrl-C ends all.
";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    for port in [LISTENER, ADMIN, CONTROL] {
        TcpListener::bind(("127.0.0.1", port))
            .await
            .with_context(|| format!("port {port} is taken: who else runs?"))?;
    }
    let upstream = Upstream::listen(UPSTREAM).await.with_context(|| format!("port {UPSTREAM} is taken"))?;
    let control = TcpListener::bind(("127.0.0.1", CONTROL)).await?;
    tokio::spawn(obey(control, Arc::new(upstream)));
    let (mut command, started_by) = envoy_command()?;
    let mut envoy = command
        .current_dir(workspace())
        .args(["-c", "integration/envoy/sample.yaml", "--concurrency", "4", "--disable-hot-restart"])
        .args(["--log-level", "warning", "--component-log-level", "wasm:info"])
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start Envoy")?;
    ready(&mut envoy).await?;
    println!("\n{started_by}, 4 workers.{HELP}");
    tokio::signal::ctrl_c().await?;
    stop(&mut envoy).await
}

async fn ready(envoy: &mut Child) -> Result<()> {
    loop {
        if let Some(status) = envoy.try_wait()? {
            bail!("Envoy ended: {status}; its log is above");
        }
        match client::get(([127, 0, 0, 1], ADMIN).into(), "/ready").await {
            Ok(reply) if reply.status == 200 => return Ok(()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn stop(envoy: &mut Child) -> Result<()> {
    // Ctrl-C has also reached Envoy, if it shares our terminal. Then nobody answers here.
    let _ = client::request(([127, 0, 0, 1], ADMIN).into(), "POST", "/quitquitquit", &[]).await;
    envoy.wait()?;
    Ok(())
}
