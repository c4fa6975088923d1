//! The parts that deliver: etcd, Kubernetes' API server and istiod, each the real program.
//!
//! There are no nodes and no controllers: nothing schedules pods or finds the endpoints of a Service. [`crate::service`]
//! writes what those would have written.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use circuit_breaker_integration::client;
use circuit_breaker_integration::envoy::{tool, workspace};
use circuit_breaker_integration::wait::until;
use serde_json::{Value, json};

use crate::kubectl::Kubectl;
use crate::network::{HOST, SERVICES};
use crate::process::Program;

/// The version of Istio, by the name of its tools module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Istio {
    /// The newest version, which makes a TrafficExtension of a WasmPlugin.
    Newest,
    /// 1.29.1, which reads WasmPlugin itself.
    V1_29,
}

impl Istio {
    /// The version that the variable `ISTIO` names; the newest where it is not set.
    ///
    /// # Errors
    /// The variable has another value.
    pub fn chosen() -> Result<Istio> {
        match std::env::var("ISTIO").as_deref() {
            Ok("newest" | "") | Err(_) => Ok(Istio::Newest),
            Ok("1.29") => Ok(Istio::V1_29),
            Ok(other) => anyhow::bail!("ISTIO={other}: tested are `newest` and `1.29`"),
        }
    }

    /// A program or file of this version.
    ///
    /// # Errors
    /// It is not installed.
    pub fn file(self, name: &str) -> Result<PathBuf> {
        let tool = tool(match self {
            Istio::Newest => "istio",
            Istio::V1_29 => "istio-1.29",
        })?;
        Ok(tool.with_file_name(name))
    }
}

/// etcd, the API server and istiod.
pub struct ControlPlane {
    istio: Istio,
    directory: PathBuf,
    kubectl: Kubectl,
    istiod: std::sync::Mutex<Option<Program>>,
    _api_server: Program,
    _etcd: Program,
}

const TOKEN: &str = "administrator";
const API: u16 = 6443;
const ETCD: &str = "http://127.0.0.1:2379";
/// istiod's own HTTP port, for its readiness.
const ISTIOD_HTTP: u16 = 8080;

impl ControlPlane {
    /// Starts all three, in this order.
    ///
    /// # Errors
    /// One does not start; with its log.
    pub async fn start(directory: &Path, istio: Istio) -> Result<ControlPlane> {
        fs::create_dir_all(directory)?;
        let etcd = start_etcd(directory).await?;
        let kubectl = Kubectl::new(tool("kubernetes")?.with_file_name("kubectl"), kubeconfig(directory)?);
        let api_server = start_api_server(directory, &kubectl).await?;
        kubectl.run(&["apply", "--server-side", "-f", &istio.file("crd-all.gen.yaml")?.display().to_string()])?;
        kubectl.run(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinition", "--all"])?;
        kubectl.apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}})])?;
        let plane = ControlPlane {
            istio,
            directory: directory.to_owned(),
            kubectl,
            istiod: std::sync::Mutex::new(None),
            _api_server: api_server,
            _etcd: etcd,
        };
        plane.start_istiod().await?;
        Ok(plane)
    }

    /// Its kubectl.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Which Istio this is.
    #[must_use]
    pub fn istio(&self) -> Istio {
        self.istio
    }

    /// Starts istiod, if it does not run, and waits until it serves.
    ///
    /// # Errors
    /// It does not start; with its log.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub async fn start_istiod(&self) -> Result<()> {
        if self.istiod.lock().expect("no holder panics").is_some() {
            return Ok(());
        }
        let mesh = self.directory.join("mesh.yaml");
        fs::write(&mesh, mesh_config()?.to_string())?;
        let mut command = Command::new(self.istio.file("pilot-discovery")?);
        command
            .arg("discovery")
            .arg("--kubeconfig")
            .arg(self.kubectl.kubeconfig())
            .arg("--meshConfig")
            .arg(mesh)
            .args(["--grpcAddr=127.0.0.1:15010", "--secureGRPCAddr=0.0.0.0:15012", "--httpsAddr="])
            .arg(format!("--httpAddr=127.0.0.1:{ISTIOD_HTTP}"))
            .args(["--monitoringAddr=127.0.0.1:15014", "--ctrlz_port=0", "--namespace=istio-system"])
            .envs([("POD_NAME", "istiod"), ("POD_NAMESPACE", "istio-system"), ("CLUSTER_ID", "Kubernetes")])
            // There is no injection: the lab makes its pods itself.
            .envs([("INJECTION_WEBHOOK_CONFIG_NAME", ""), ("VALIDATION_WEBHOOK_CONFIG_NAME", "")])
            // Filters that only Istio's own build of Envoy has.
            .envs([("PILOT_ENABLE_METADATA_EXCHANGE", "false"), ("PILOT_ENABLE_ALPN_FILTER", "false")])
            // As istio/mesh/meshConfig-values.yaml has it.
            .env("DISABLE_TRACK_REMAINING_CB_METRICS", "false")
            .current_dir(&self.directory);
        let istiod = Program::start(&self.directory, "istiod", command)?;
        istiod.until_ready(|| answers(ISTIOD_HTTP, "/ready")).await?;
        *self.istiod.lock().expect("no holder panics") = Some(istiod);
        Ok(())
    }

    /// Ends istiod.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn stop_istiod(&self) {
        self.istiod.lock().expect("no holder panics").take();
    }

    /// istiod's log, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("istiod.log")).unwrap_or_default()
    }

    /// The certificate that istiod signs with, once it has made it known.
    ///
    /// # Panics
    /// It does not in time.
    pub async fn root_certificate(&self, namespace: &str) -> String {
        let look = || async {
            let map = self.kubectl.get(&["configmap", "istio-ca-root-cert", "-n", namespace]).ok()?;
            map["data"]["root-cert.pem"].as_str().map(str::to_owned)
        };
        until(&format!("istiod's root certificate in {namespace}"), look, Option::is_some).await.unwrap_or_default()
    }
}

/// The configuration of the mesh that the manifests' users give to istiod. So what proxies write about a request goes
/// where the agents' logs go: in Istio's own format, unless a Telemetry names another one.
fn mesh_config() -> Result<Value> {
    let values = fs::read_to_string(manifests().join("mesh/meshConfig-values.yaml"))?;
    let mut values: Value = serde_yaml_ng::from_str(&values)?;
    values["meshConfig"]["accessLogFile"] = json!("/dev/stdout");
    Ok(values["meshConfig"].take())
}

async fn start_etcd(directory: &Path) -> Result<Program> {
    let mut command = Command::new(tool("etcd")?);
    command
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD])
        .args(["--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level=warn"]);
    let etcd = Program::start(directory, "etcd", command)?;
    etcd.until_ready(|| answers(2379, "/health")).await?;
    Ok(etcd)
}

async fn start_api_server(directory: &Path, kubectl: &Kubectl) -> Result<Program> {
    let [private, public, tokens] =
        ["service-account.key", "service-account.pub", "tokens.csv"].map(|n| directory.join(n));
    let key = rcgen::KeyPair::generate()?;
    fs::write(&private, key.serialize_pem())?;
    // istiod cannot derive the public key from a private key in this format.
    fs::write(&public, key.public_key_pem())?;
    fs::write(&tokens, format!("{TOKEN},administrator,1,system:masters\n"))?;
    let mut command = Command::new(tool("kubernetes")?);
    command
        .args(["--etcd-servers", ETCD, "--bind-address=127.0.0.1", &format!("--secure-port={API}")])
        .arg("--cert-dir")
        .arg(directory.join("certificates"))
        .arg("--service-account-key-file")
        .arg(&public)
        .arg("--service-account-signing-key-file")
        .arg(&private)
        .args(["--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--authorization-mode=RBAC"])
        .arg("--token-auth-file")
        .arg(&tokens)
        // istiod would look for a route out of the machine, and there is none.
        .args(["--advertise-address", &HOST.to_string()])
        .args(["--service-cluster-ip-range", SERVICES, "--disable-admission-plugins=ServiceAccount"]);
    let server = Program::start(directory, "kube-apiserver", command)?;
    server.until_ready(|| async { kubectl.run(&["get", "namespace", "default"]).is_ok() }).await?;
    Ok(server)
}

fn kubeconfig(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "mesh",
        "clusters": [{"name": "mesh", "cluster": {
            "server": format!("https://127.0.0.1:{API}"),
            "certificate-authority": directory.join("certificates/apiserver.crt"),
        }}],
        "users": [{"name": "administrator", "user": {"token": TOKEN}}],
        "contexts": [{"name": "mesh", "context": {"cluster": "mesh", "user": "administrator"}}],
    });
    fs::write(&path, config.to_string()).context("cannot write the kubeconfig")?;
    Ok(path)
}

/// Whether a program of the lab answers 200.
pub(crate) async fn answers(port: u16, path: &str) -> bool {
    matches!(client::get(SocketAddr::from(([127, 0, 0, 1], port)), path).await, Ok(reply) if reply.status == 200)
}

/// The repository's own manifests.
#[must_use]
pub fn manifests() -> PathBuf {
    workspace().join("istio")
}
