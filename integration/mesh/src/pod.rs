//! A pod: a network namespace, the Pod object that istiod knows it by, and perhaps Istio's agent with an Envoy.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use circuit_breaker_integration::client::{self, Reply};
use circuit_breaker_integration::monitoring::proxies::inclusion_patterns;
use circuit_breaker_integration::scenario::State;
use circuit_breaker_integration::upstream::Upstream;
use circuit_breaker_integration::wait::until;
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::namespaces::{DIRECTORY, Rights};
use crate::network::{HOST, Netns};
use crate::process::Program;

/// Istio's user: iptables does not send its traffic back to the sidecar.
const PROXY_USER: u32 = 1337;

const ADMIN: u16 = 15000;
const READY: u16 = 15021;

/// The proxy in front of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// None: the application is outside of the mesh.
    None,
    /// A sidecar that all of the application's traffic goes through.
    Sidecar,
    /// The proxy is itself the application.
    Gateway,
}

/// What a pod is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name, unique in the lab.
    pub name: String,
    /// Its namespace, which exists.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The account that its certificate names. It is made with the pod where it does not exist.
    pub account: String,
    /// The proxy in front of it.
    pub proxy: Proxy,
}

impl Spec {
    /// With the label `app`.
    #[must_use]
    pub fn new(namespace: &str, name: &str, proxy: Proxy) -> Spec {
        let labels = BTreeMap::from([("app".to_owned(), name.to_owned())]);
        Spec { name: name.to_owned(), namespace: namespace.to_owned(), labels, account: "default".to_owned(), proxy }
    }

    /// With another account.
    #[must_use]
    pub fn account(mut self, account: &str) -> Spec {
        account.clone_into(&mut self.account);
        self
    }

    /// With this label too.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Spec {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// A running pod. Taken away when dropped; its object goes with the lab.
pub struct Pod {
    spec: Spec,
    directory: PathBuf,
    rights: Rights,
    // Before its network, so that the agent ends first.
    agent: Mutex<Option<Program>>,
    netns: Netns,
}

impl Pod {
    /// Makes the pod known to Kubernetes as one that runs, and starts its agent.
    ///
    /// # Errors
    /// A step fails; with what it said.
    pub(crate) async fn start(
        plane: &ControlPlane,
        directory: PathBuf,
        rights: Rights,
        netns: Netns,
        spec: Spec,
    ) -> Result<Pod> {
        ensure!(
            spec.proxy != Proxy::Sidecar || rights == Rights::Full,
            "a sidecar needs root: iptables tells it from the application by its user"
        );
        fs::create_dir_all(&directory)?;
        let pod = Pod { spec, directory, rights, agent: Mutex::new(None), netns };
        pod.announce(plane)?;
        if pod.spec.proxy != Proxy::None {
            pod.prepare_agent(plane).await?;
            pod.start_agent().await?;
        }
        Ok(pod)
    }

    /// Writes what a scheduler and a kubelet would have written.
    fn announce(&self, plane: &ControlPlane) -> Result<()> {
        let Spec { name, namespace, account, .. } = &self.spec;
        let mut labels = self.spec.labels.clone();
        if self.spec.proxy == Proxy::Sidecar {
            // Istio's injector writes this, and other proxies then speak mTLS to the pod.
            labels.insert("security.istio.io/tlsMode".to_owned(), "istio".to_owned());
        }
        // Tools find proxies by the name of their container.
        let container = if self.spec.proxy == Proxy::None { "app" } else { "istio-proxy" };
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"serviceAccountName": account, "nodeName": "lab", "containers": [{"name": container, "image": "app"}]},
        });
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace},
        });
        plane.kubectl().apply(&[account, object])?;
        let address = self.address().to_string();
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        plane.kubectl().run(&[
            "patch",
            "pod",
            name,
            "-n",
            namespace,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status.to_string(),
        ])?;
        Ok(())
    }

    /// Does what the kubelet mounts for the agent, and what Istio's init container does to the pod's network.
    async fn prepare_agent(&self, plane: &ControlPlane) -> Result<()> {
        let namespace = &self.spec.namespace;
        let secrets = self.directory.join("var/run/secrets");
        for directory in ["var/run/secrets/tokens", "var/run/secrets/istio", "etc/istio/proxy", "data"] {
            fs::create_dir_all(self.directory.join(directory))?;
        }
        fs::create_dir_all("/var/lib/istio/data")?;
        let token =
            plane.kubectl().run(&["create", "token", &self.spec.account, "-n", namespace, "--audience", "istio-ca"])?;
        fs::write(secrets.join("tokens/istio-token"), token.trim())?;
        fs::write(secrets.join("istio/root-cert.pem"), plane.root_certificate(namespace).await)?;
        if self.rights == Rights::Full {
            own(&self.directory)?;
        }
        if self.spec.proxy == Proxy::Sidecar {
            let mut command = self.netns.command(&installed("istio/pilot-agent").display().to_string());
            command.arg("istio-iptables").args(["-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337"]);
            command.args(["-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020"]);
            let output = command.env("INSTANCE_IP", self.address().to_string()).output()?;
            ensure!(output.status.success(), "istio-iptables: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts the agent, which starts Envoy, and waits until both are ready.
    ///
    /// # Errors
    /// They do not become ready; with their log.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub async fn start_agent(&self) -> Result<()> {
        // The cache of modules belongs to this pod alone, as /var/lib/istio is an emptyDir in Kubernetes.
        const START: &str = r#"mount --bind "$DATA" /var/lib/istio/data && cd "$HOME" && exec "$@""#;
        let mut command = self.netns.command("sh");
        command.args(["-ec", START, "agent"]);
        if self.rights == Rights::Full {
            let user = PROXY_USER.to_string();
            command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"]);
        }
        let kind = if self.spec.proxy == Proxy::Gateway { "router" } else { "sidecar" };
        command
            .arg(installed("istio/pilot-agent"))
            .args(["proxy", kind, "--proxyLogLevel=warning", "--proxyComponentLogLevel=misc:error,wasm:info"])
            .args(["--domain", &format!("{}.svc.cluster.local", self.spec.namespace)])
            .arg("--templateFile")
            .arg(installed("istio/envoy_bootstrap.json"))
            .env("HOME", &self.directory)
            .env("DATA", self.directory.join("data"))
            .envs(self.environment()?);
        let agent = Program::start(&self.directory, "agent", command)?;
        let ready = SocketAddr::from((self.address(), READY));
        agent
            .until_ready(|| async move {
                matches!(client::get(ready, "/healthz/ready").await, Ok(reply) if reply.status == 200)
            })
            .await?;
        *self.agent.lock().expect("no holder panics") = Some(agent);
        Ok(())
    }

    fn environment(&self) -> Result<BTreeMap<&'static str, String>> {
        let config = json!({
            "binaryPath": installed("envoy/envoy"),
            "configPath": self.directory.join("etc/istio/proxy"),
            "discoveryAddress": "istiod.istio-system.svc:15012",
            "concurrency": 2, "statusPort": 15020, "proxyAdminPort": ADMIN, "terminationDrainDuration": "1s",
            // Istio's injector puts the mesh's default configuration here.
            "proxyStatsMatcher": {"inclusionRegexps": inclusion_patterns()?},
        });
        Ok(BTreeMap::from([
            ("PROXY_CONFIG", config.to_string()),
            ("POD_NAME", self.spec.name.clone()),
            ("POD_NAMESPACE", self.spec.namespace.clone()),
            ("INSTANCE_IP", self.address().to_string()),
            ("SERVICE_ACCOUNT", self.spec.account.clone()),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes".to_owned()),
            ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT".to_owned()),
            ("ISTIO_META_WORKLOAD_NAME", self.spec.name.clone()),
            ("ISTIO_METAJSON_LABELS", json!(self.spec.labels).to_string()),
            ("WASM_INSECURE_REGISTRIES", "*".to_owned()),
            // The agent would ask the metadata servers of clouds where it runs, and wait for two seconds.
            ("CLOUD_PLATFORM", "none".to_owned()),
        ]))
    }

    /// Ends the agent and its Envoy at once.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn stop_agent(&self) {
        self.agent.lock().expect("no holder panics").take();
    }

    /// The specification that it was made from.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.netns.address()
    }

    /// Its network.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// An application in it that listens on this port.
    ///
    /// # Errors
    /// The port is taken.
    pub fn upstream(&self, port: u16) -> Result<Upstream> {
        let listener = self.netns.listen(port)?;
        listener.set_nonblocking(true)?;
        Ok(Upstream::serve_on(tokio::net::TcpListener::from_std(listener)?)?)
    }

    /// GET by an application in it, through the sidecar, if there is one.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn get(&self, to: SocketAddr, host: &str, path: &str) -> Result<Reply> {
        let stream = self.netns.connect(to).await?;
        client::request_over(stream, "GET", path, &[("host", host)]).await
    }

    /// GET from Envoy's admin interface.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn admin(&self, path: &str) -> Result<String> {
        let to = SocketAddr::from(([127, 0, 0, 1], ADMIN));
        let reply = client::request_over(self.netns.connect(to).await?, "GET", path, &[]).await?;
        ensure!(reply.status == 200, "{path} of the admin interface: {}", reply.status);
        Ok(reply.text())
    }

    /// All counters and gauges, by Envoy's own names.
    ///
    /// # Errors
    /// The admin interface does not answer.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.admin("/stats").await?;
        let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// One of the breaker's metrics; 0 where it does not exist.
    ///
    /// # Panics
    /// The admin interface does not answer.
    pub async fn metric(&self, metric: &str, upstream: &str, component: &str) -> u64 {
        let tag = if upstream.is_empty() { String::new() } else { format!("tag.{upstream};.") };
        let part = if component.is_empty() { String::new() } else { format!("component.{component}.") };
        let name = format!("wasmcustom.wasm_filter.circuit_breaker.{part}{tag}{metric}");
        self.stats().await.expect("the admin interface answers").get(&name).copied().unwrap_or(0)
    }

    /// Waits until a metric has a value. A call is counted when its access log is written, after the client has its
    /// answer.
    pub async fn until_metric(&self, metric: &str, upstream: &str, component: &str, value: u64) {
        let look = || self.metric(metric, upstream, component);
        let what = format!("{metric} {component} of {upstream} to be {value} in {}", self.spec.name);
        until(&what, look, |seen| *seen == value).await;
    }

    /// The state of a circuit; nothing where there is no circuit.
    ///
    /// # Panics
    /// The admin interface does not answer.
    pub async fn state(&self, upstream: &str) -> Option<State> {
        let name = format!("wasmcustom.wasm_filter.circuit_breaker.tag.{upstream};.circuit_breaker_state");
        match self.stats().await.expect("the admin interface answers").get(&name)? {
            0 => Some(State::Closed),
            1 => Some(State::HalfOpen),
            _ => Some(State::Open),
        }
    }

    /// Waits for a state.
    pub async fn until_state(&self, upstream: &str, state: State) {
        let what = format!("{upstream} to be {state:?} in {}", self.spec.name);
        until(&what, || self.state(upstream), |seen| *seen == Some(state)).await;
    }

    /// What Prometheus scrapes from one of its ports.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn prometheus(&self, port: u16) -> Result<String> {
        let to = SocketAddr::V4(SocketAddrV4::new(self.address(), port));
        Ok(client::get(to, "/stats/prometheus").await?.text())
    }

    /// The log of agent and Envoy, with the access log in it.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read(self.directory.join("agent.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The transitions so far, as logged.
    #[must_use]
    pub fn transitions(&self) -> Vec<Value> {
        let marked = |line: &str| {
            let (_, json) = line.split_once("circuit_breaker transition ")?;
            // Envoy ends the line with the thread that wrote it.
            serde_json::Deserializer::from_str(json).into_iter().next()?.ok()
        };
        self.log().lines().filter_map(marked).collect()
    }

    /// The files of the agent: certificates, Envoy's bootstrap, cached modules.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The name of its network namespace, to run commands inside and look around.
    #[must_use]
    pub fn netns_name(&self) -> &str {
        self.netns.name()
    }
}

/// Gives a directory and all in it to the proxy's user.
fn own(path: &Path) -> Result<()> {
    chown(path, Some(PROXY_USER), Some(PROXY_USER)).with_context(|| format!("cannot give {} away", path.display()))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path())?;
        }
    }
    Ok(())
}

/// A copy of a lab's program that the proxy's user may run.
fn installed(path: &str) -> PathBuf {
    Path::new(DIRECTORY).join("tools").join(path)
}

/// The name by which pods call istiod.
pub(crate) fn istiod_name() -> String {
    format!("{HOST} istiod.istio-system.svc\n")
}
