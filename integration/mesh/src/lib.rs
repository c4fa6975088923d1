//! A real mesh without containers: etcd, Kubernetes' API server, istiod, agents, Envoys and a registry, as the kernel's
//! namespaces on one machine.
//!
//! ```text
//!   docker-registry   etcd - kube-apiserver - istiod          the lab's own network, mounts and processes
//!         |                                      |            (namespaces.rs)
//!   ------+--------------- mesh0 10.10.0.1 ------+-------
//!         |                    |                 |
//!   gateway: agent, Envoy   pod: agent, Envoy   pod           each a network namespace (network.rs)
//!                           | iptables           |
//!                           application          application
//! ```
//!
//! A cluster has nodes, a scheduler and controllers; the lab has none. So code that starts a pod here also writes its
//! object and its endpoints ([`pod`], [`service`]). All else is the real program with its real configuration.

pub mod authority;
pub mod collector;
pub mod control_plane;
pub mod kubectl;
pub mod lab;
pub mod namespaces;
pub mod network;
pub mod plugin;
pub mod pod;
pub mod process;
pub mod registry;
pub mod service;
pub mod variant;
