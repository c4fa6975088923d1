//! A Service whose endpoints the lab writes: there is no controller that would look for pods.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use serde_json::json;

use crate::kubectl::Kubectl;
use crate::pod::Pod;

/// A Service with one HTTP port.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    namespace: String,
    address: Ipv4Addr,
    ports: Vec<u16>,
}

/// Where an application of the lab listens in its pod.
pub const APPLICATION: u16 = 8080;

impl Service {
    /// Makes it, with an address from Kubernetes. Its ports lead to the same ports of its pods.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn create(kubectl: &Kubectl, namespace: &str, name: &str, ports: &[u16]) -> Result<Service> {
        let entries: Vec<_> = ports
            .iter()
            .map(|port| json!({"name": format!("http-{port}"), "port": port, "targetPort": port}))
            .collect();
        kubectl.apply(&[json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": entries},
        })])?;
        Service::find(kubectl, namespace, name)
    }

    /// A Service that already exists, perhaps made by a manifest.
    ///
    /// # Errors
    /// It is not there.
    pub fn find(kubectl: &Kubectl, namespace: &str, name: &str) -> Result<Service> {
        let object = kubectl.get(&["service", name, "-n", namespace])?;
        let address = object["spec"]["clusterIP"].as_str().context("a Service without an address")?.parse()?;
        let ports = object["spec"]["ports"].as_array().into_iter().flatten();
        let ports = ports.filter_map(|port| u16::try_from(port["port"].as_u64()?).ok()).collect();
        Ok(Service { name: name.to_owned(), namespace: namespace.to_owned(), address, ports })
    }

    /// Lets these pods serve it, and no others.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn serve(&self, kubectl: &Kubectl, pods: &[&Pod]) -> Result<()> {
        let object = kubectl.get(&["service", &self.name, "-n", &self.namespace])?;
        let ports = object["spec"]["ports"].as_array().into_iter().flatten();
        let ports: Vec<_> =
            ports.map(|port| json!({"name": port["name"], "port": port["targetPort"], "protocol": "TCP"})).collect();
        let endpoints: Vec<_> = pods
            .iter()
            .map(|pod| {
                json!({
                    "addresses": [pod.address()], "conditions": {"ready": true},
                    "targetRef": {"kind": "Pod", "name": pod.spec().name, "namespace": pod.spec().namespace},
                })
            })
            .collect();
        kubectl.apply(&[json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "labels": {"kubernetes.io/service-name": self.name},
            },
            "endpoints": endpoints, "ports": ports,
        })])
    }

    /// Its name in the mesh.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// Its first port's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.address, self.port()))
    }

    /// Its first port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.first().copied().unwrap_or(APPLICATION)
    }

    /// The name that Envoy gives its first port: the breaker's upstream.
    #[must_use]
    pub fn upstream(&self) -> String {
        self.subset(self.port(), "")
    }

    /// The name that Envoy gives one of its ports, or a subset of it.
    #[must_use]
    pub fn subset(&self, port: u16, subset: &str) -> String {
        format!("outbound|{port}|{subset}|{}", self.host())
    }
}
