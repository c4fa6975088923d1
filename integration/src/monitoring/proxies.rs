//! Proxies whose series have the names and labels of a stock Istio proxy's.
//!
//! The tags are those of Istio's `envoy_bootstrap.json`, as 1.29 and the newest have them. Kept are the series that a
//! stock proxy keeps, and those that `istio/mesh/meshConfig-values.yaml` adds: so a pattern there that matches nothing
//! shows as an empty panel.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::outage::Service;
use crate::bootstrap::{Bootstrap, Cluster, Listener};
use crate::envoy::{Envoy, workspace};

/// The listener of each proxy.
pub const LISTENER: &str = "outbound";

/// The header that names the upstream of a request.
pub const UPSTREAM: &str = "x-upstream";

/// Worker threads of a proxy.
const WORKERS: u32 = 2;

/// A proxy, as Prometheus knows it.
pub struct Proxy {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its pod.
    pub pod: &'static str,
    /// The process.
    pub envoy: Envoy,
}

/// Makes a policy.
type Policy = fn() -> Value;

/// What the proxies differ in: namespace, pod, and the policy; none for a proxy without the breaker.
const PROXIES: [(&str, &str, Option<Policy>); 6] = [
    ("istio-ingress", "ingressgateway-7d4f9-x2x7k", Some(enforcing)),
    ("istio-ingress", "ingressgateway-7d4f9-p9wzt", Some(enforcing)),
    ("shop", "checkout-5c9d8-4m2lq", Some(enforcing)),
    ("shop", "client-6f7b5-tq8sd", Some(observing)),
    ("shop", "batch-84c6d-kk9vb", Some(too_small)),
    ("shop", "legacy-0", None),
];

/// Ten times as fast as the defaults, so that an outage with its recovery takes a minute.
fn enforcing() -> Value {
    json!({
        "default": {
            "trip": {
                "consecutiveFailures": 5, "failureRatePercent": 50, "minimumCalls": 10, "window": {"duration": "5s"},
                "slowCallDuration": "1s", "slowCallRatePercent": 80,
            },
            "open": {"baseDuration": "4s", "multiplier": 2, "maxDuration": "8s", "jitterPercent": 20},
            "halfOpen": {"successThreshold": 3, "probeTimeout": "1s", "ramp": {"initialPercent": 10, "duration": "6s"}},
        },
        "upstreams": [
            {"match": {"host": Service::Catalog.host()}, "trip": {"latencyPercentile": 90, "latencyThreshold": "200ms"}},
            {"match": {"host": Service::Search.host()}, "fallback": {"headers": {UPSTREAM: Service::Catalog.cluster()}}},
            {"match": {"host": Service::Ledger.host()}, "mode": "forceOpen"},
        ],
    })
}

fn observing() -> Value {
    let mut policy = enforcing();
    policy["default"]["mode"] = "observe".into();
    policy
}

/// With room for fewer circuits than it has upstreams, and with probes of the breaker's own.
fn too_small() -> Value {
    let mut policy = enforcing();
    policy["limits"] = json!({"maxCircuits": 3});
    policy["default"]["halfOpen"]["activeProbe"] = json!({"path": "/", "interval": "500ms"});
    policy
}

impl Proxy {
    /// Starts them all.
    ///
    /// # Errors
    /// Envoy is not installed or does not start.
    pub async fn start_all(hosts: &[(Service, Vec<SocketAddr>)]) -> Result<Vec<Proxy>> {
        let mut proxies = Vec::new();
        for (namespace, pod, policy) in PROXIES {
            let policy = policy.map(|policy| policy().to_string());
            let envoy = Envoy::start(bootstrap(hosts, policy.as_deref())?, WORKERS).await?;
            proxies.push(Proxy { namespace, pod, envoy });
        }
        Ok(proxies)
    }

    /// Whether it runs the breaker.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        PROXIES.iter().any(|(_, pod, policy)| *pod == self.pod && policy.is_some())
    }

    /// Gives the breaker a policy that it must refuse.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn misconfigure(&self) -> Result<()> {
        self.envoy.configure(LISTENER, r#"{"default": {"mode": "enforced"}}"#).await?;
        Ok(())
    }
}

fn bootstrap(hosts: &[(Service, Vec<SocketAddr>)], policy: Option<&str>) -> Result<Bootstrap> {
    let clusters = hosts.iter().map(|(service, hosts)| cluster(*service, hosts)).collect();
    Ok(Bootstrap {
        routes: vec![json!({"match": {"prefix": "/"}, "route": {"cluster_header": UPSTREAM, "timeout": "2s"}})],
        stats_config: Some(stats_config()?),
        // Envoy merges its histograms this often, and Prometheus scrapes once a second.
        stats_flush_interval: "1s".to_owned(),
        ..Bootstrap::new(clusters, vec![Listener::new(LISTENER, policy)])
    })
}

/// As Istio makes it of a Service and a DestinationRule.
fn cluster(service: Service, hosts: &[SocketAddr]) -> Cluster {
    let name = service.cluster();
    let (connections, waiting) = service.pool();
    Cluster {
        more_addresses: hosts.iter().skip(1).copied().collect(),
        outlier_detection: Some(json!({
            "consecutive_5xx": 3, "interval": "1s", "base_ejection_time": "8s", "max_ejection_percent": 50,
            "enforcing_success_rate": 0,
        })),
        fields: json!({
            // Istio ends the name so that its tag can tell where it ends.
            "alt_stat_name": format!("{name};"),
            "circuit_breakers": {"thresholds": [{
                "max_connections": connections, "max_pending_requests": waiting, "max_requests": u32::MAX,
                "max_retries": u32::MAX, "track_remaining": true,
            }]},
        }),
        ..Cluster::new(&name, hosts[0])
    }
}

/// Tags and kept series of a stock Istio proxy, with the manifests' patterns.
fn stats_config() -> Result<Value> {
    let tags = [
        ("cluster_name", r"^cluster(\.(.+);)"),
        ("thread_name", r"^server(\.(.+))\.watchdog"),
        ("response_code", r"_rq(_(\d{3}))$"),
        ("response_code_class", r"_rq(_(\dxx))$"),
        ("cache", r"(cache\.(.+?)\.)"),
        ("component", r"(component\.(.+?)\.)"),
        ("tag", r"(tag\.(.+?);\.)"),
        ("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
    ];
    // The last one is not Istio's: the harness sees there that a policy has arrived.
    let prefixes = ["cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "wasm", "component", "istio"]
        .into_iter()
        .chain(["extension_config_discovery"]);
    let mut patterns: Vec<Value> = prefixes.map(|prefix| json!({"prefix": prefix})).collect();
    patterns.extend(inclusion_patterns()?.iter().map(|pattern| json!({"safe_regex": {"regex": pattern}})));
    let tags: Vec<Value> = tags.iter().map(|(name, regex)| json!({"tag_name": name, "regex": regex})).collect();
    Ok(json!({
        "use_all_default_tags": false, "stats_tags": tags,
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
    }))
}

/// The patterns of `proxyStatsMatcher` in the manifests.
///
/// # Errors
/// There are none.
pub fn inclusion_patterns() -> Result<Vec<String>> {
    let file = workspace().join("istio/mesh/meshConfig-values.yaml");
    let values: Value = serde_yaml_ng::from_str(&fs::read_to_string(&file)?)?;
    let patterns = &values["meshConfig"]["defaultConfig"]["proxyStatsMatcher"]["inclusionRegexps"];
    let texts = patterns.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    Some(texts)
        .filter(|texts: &Vec<String>| !texts.is_empty())
        .with_context(|| format!("{} has no patterns", file.display()))
}
