//! All parts together.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::sync::{Mutex, Weak};
use std::time::Duration;

use anyhow::Result;
use circuit_breaker_integration::envoy::tool;
use serde_json::json;

use crate::control_plane::{ControlPlane, Istio};
use crate::kubectl::Kubectl;
use crate::namespaces::{DIRECTORY, Rights, run};
use crate::network::Network;
use crate::pod::{Pod, Spec, istiod_name};
use crate::process::tail;
use crate::registry::Registry;
use crate::service::Service;

/// A mesh.
pub struct Lab {
    rights: Rights,
    directory: PathBuf,
    network: Network,
    registry: Registry,
    plane: ControlPlane,
    namespaces: Mutex<BTreeSet<String>>,
    pods: Mutex<Vec<Weak<Pod>>>,
    started: AtomicUsize,
}

impl Lab {
    /// Starts registry and control plane inside the namespaces that [`crate::namespaces::enter`] made.
    ///
    /// # Errors
    /// A part does not start; with its log.
    pub async fn start(rights: Rights, istio: Istio) -> Result<Lab> {
        let directory = PathBuf::from(DIRECTORY);
        // The proxy's user may not enter the directory where they are installed, for example root's home.
        for (name, program) in [("envoy", tool("envoy")?), ("istio", istio.file("pilot-agent")?)] {
            let (from, to) = (program.parent().unwrap_or(&program), directory.join("tools").join(name));
            fs::create_dir_all(&to)?;
            run("mount", &["--bind", &from.display().to_string(), &to.display().to_string()])?;
        }
        let network = Network::lay()?;
        let registry = Registry::start(&directory.join("registry")).await?;
        let plane = ControlPlane::start(&directory.join("control-plane"), istio).await?;
        let lab = Lab {
            rights,
            directory,
            network,
            registry,
            plane,
            namespaces: Mutex::default(),
            pods: Mutex::default(),
            started: AtomicUsize::new(0),
        };
        lab.name(&istiod_name())?;
        Ok(lab)
    }

    /// What the machine lets it do.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Its files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its Kubernetes.
    #[must_use]
    pub fn kubectl(&self) -> &Kubectl {
        self.plane.kubectl()
    }

    /// Its etcd, API server and istiod.
    #[must_use]
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Its registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Makes a namespace, where there is none yet.
    ///
    /// # Errors
    /// The API server refuses.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn namespace(&self, name: &str) -> Result<()> {
        if !self.namespaces.lock().expect("no holder panics").insert(name.to_owned()) {
            return Ok(());
        }
        self.kubectl().apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})])
    }

    /// Starts a pod.
    ///
    /// # Errors
    /// A step fails; with what it said.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub async fn pod(&self, spec: Spec) -> Result<Arc<Pod>> {
        self.namespace(&spec.namespace)?;
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        // A pod that is made again under the same name has no files of the earlier one.
        let directory = self.directory.join("pods").join(format!("{number}-{}", spec.name));
        let netns = self.network.join()?;
        let pod = Arc::new(Pod::start(&self.plane, directory, self.rights, netns, spec).await?);
        self.pods.lock().expect("no holder panics").push(Arc::downgrade(&pod));
        Ok(pod)
    }

    /// Makes a Service that these pods serve.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn service(&self, namespace: &str, name: &str, ports: &[u16], pods: &[&Pod]) -> Result<Service> {
        self.namespace(namespace)?;
        let service = Service::create(self.kubectl(), namespace, name, ports)?;
        service.serve(self.kubectl(), pods)?;
        self.name(&format!("{} {}\n", service.address().ip(), service.host()))?;
        Ok(service)
    }

    /// There is no DNS: names are in /etc/hosts, which is the lab's own.
    fn name(&self, line: &str) -> Result<()> {
        let hosts = self.directory.join("hosts");
        let known = fs::read_to_string(&hosts)?;
        // Written in place: a new file with this name would not be the one that is mounted.
        fs::write(&hosts, known + line)?;
        Ok(())
    }

    /// Ends a pod, and lets Kubernetes know.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn delete(&self, pod: Arc<Pod>) -> Result<()> {
        let Spec { name, namespace, .. } = pod.spec().clone();
        drop(pod);
        self.kubectl().delete(&["pod", &name, "-n", &namespace, "--grace-period=0", "--force"])
    }

    /// What to read when a test fails.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub async fn print_what_is_known(&self) {
        eprintln!("--- istiod's log\n{}", tail(&self.plane.log(), 40));
        // Also of pods that have ended: the pods of a failed test have.
        for (name, log) in self.recent_logs() {
            eprintln!("--- the log of {name}'s agent and Envoy\n{}", tail(&log, 40));
        }
        let pods: Vec<_> = self.pods.lock().expect("no holder panics").iter().filter_map(Weak::upgrade).collect();
        for pod in pods {
            let stats = pod.admin("/stats?filter=circuit_breaker_").await.unwrap_or_default();
            eprintln!("--- the breaker's stats in {}\n{stats}", pod.spec().name);
        }
    }

    /// The logs that were written to within the last minute.
    fn recent_logs(&self) -> Vec<(String, String)> {
        let pods = fs::read_dir(self.directory.join("pods")).into_iter().flatten().flatten();
        let logs = pods.filter_map(|pod| {
            let path = pod.path().join("agent.log");
            let age = fs::metadata(&path).ok()?.modified().ok()?.elapsed().ok()?;
            let log = String::from_utf8_lossy(&fs::read(&path).ok()?).into_owned();
            (age < Duration::from_secs(60)).then(|| (pod.file_name().to_string_lossy().into_owned(), log))
        });
        logs.collect()
    }
}
