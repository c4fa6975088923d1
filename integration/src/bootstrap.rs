//! Envoy's configuration, as JSON: clusters, listeners, the filter by ECDS (the way Istio delivers it).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Where requests are routed to.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Name of the cluster: the breaker's upstream. Requests to `/<name>` go there.
    pub name: String,
    /// The only endpoint; none for a cluster without hosts.
    pub address: Option<SocketAddr>,
    /// HTTP/2 to the upstream.
    pub http2: bool,
    /// Route timeout, as Envoy writes durations (`0.5s`); `0s` for none.
    pub timeout: String,
    /// Retries on a 5xx.
    pub retries: u32,
    /// Requests that Envoy lets be in flight to it (`connectionPool`).
    pub max_requests: u32,
}

/// The breaker is under test, not Envoy's own limits.
const PLENTY: u32 = 10_000;

impl Cluster {
    /// A cluster with one host.
    #[must_use]
    pub fn new(name: &str, address: SocketAddr) -> Cluster {
        Cluster {
            name: name.to_owned(),
            address: Some(address),
            http2: false,
            timeout: "0s".to_owned(),
            retries: 0,
            max_requests: PLENTY,
        }
    }
}

/// A listener: routes to every cluster by prefix.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// The `pluginConfig` of the filter; none for a listener without it.
    pub filter: Option<String>,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
}

/// All that an Envoy is started with.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Clusters; the first one also takes whatever has no prefix of its own.
    pub clusters: Vec<Cluster>,
    /// Listeners.
    pub listeners: Vec<Listener>,
    /// The module.
    pub module: PathBuf,
    /// Metrics that Envoy is not to keep: a `stats_matcher` with this prefix excluded.
    pub excluded_stats: Option<String>,
    /// Port of the admin interface; 0 lets the system choose.
    pub admin_port: u16,
}

impl Bootstrap {
    /// The document, with all files in `directory`.
    #[must_use]
    pub fn document(&self, directory: &Path) -> Value {
        let clusters: Vec<Value> = self.clusters.iter().map(cluster).collect();
        let listeners: Vec<Value> = self.listeners.iter().map(|listener| self.listener(listener, directory)).collect();
        let mut stats = json!({"use_all_default_tags": true, "stats_tags": stats_tags()});
        if let Some(prefix) = &self.excluded_stats {
            stats["stats_matcher"] = json!({"exclusion_list": {"patterns": [{"prefix": prefix}]}});
        }
        json!({
            "node": {"id": "integration", "cluster": "integration"},
            "admin": {"address": socket(self.admin_port)},
            "stats_config": stats,
            "static_resources": {"clusters": clusters, "listeners": listeners},
        })
    }

    fn listener(&self, listener: &Listener, directory: &Path) -> Value {
        let mut filters = Vec::new();
        if listener.filter.is_some() {
            filters.push(json!({
                "name": filter_name(&listener.name),
                "config_discovery": {
                    "config_source": {
                        "path_config_source": {"path": filter_file(directory, &listener.name)},
                        "resource_api_version": "V3",
                    },
                    "type_urls": [WASM],
                },
            }));
        }
        // After the breaker, as in Istio; does something only where a request's headers ask for it.
        filters.push(json!({"name": "envoy.filters.http.fault", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
            "abort": {"header_abort": {}, "percentage": {"numerator": 100}},
        }}));
        filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {"@type":
            "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}));
        json!({
            "name": listener.name,
            "address": socket(listener.port),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": listener.name,
                    "codec_type": "AUTO",
                    "access_log": [access_log(directory)],
                    "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": self.routes()}]},
                    "http_filters": filters,
                },
            }]}],
        })
    }

    fn routes(&self) -> Vec<Value> {
        let route = |prefix: &str, cluster: &Cluster| {
            let mut action = json!({"cluster": cluster.name, "timeout": cluster.timeout});
            if cluster.retries > 0 {
                action["retry_policy"] = json!({"retry_on": "5xx", "num_retries": cluster.retries});
            }
            json!({"match": {"prefix": prefix}, "route": action})
        };
        let named = self.clusters.iter().map(|cluster| route(&format!("/{}", cluster.name), cluster));
        named.chain(self.clusters.first().map(|cluster| route("/", cluster))).collect()
    }

    /// The ECDS file of a listener's filter.
    #[must_use]
    pub fn filter_document(&self, listener: &str, plugin_config: &str) -> Value {
        json!({"resources": [{
            "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            "name": filter_name(listener),
            "typed_config": {
                "@type": WASM,
                "config": {
                    "name": filter_name(listener),
                    "root_id": "circuit_breaker",
                    "failure_policy": "FAIL_RELOAD",
                    "reload_config": {"backoff": {"base_interval": "0.1s"}},
                    "configuration": {
                        "@type": "type.googleapis.com/google.protobuf.StringValue",
                        "value": plugin_config,
                    },
                    // Istio gives no vm_id: all plugins of a proxy share one key space.
                    "vm_config": {
                        "runtime": "envoy.wasm.runtime.v8",
                        "code": {"local": {"filename": self.module}},
                    },
                },
            },
        }]})
    }
}

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

fn filter_name(listener: &str) -> String {
    format!("{listener}-breaker")
}

/// Where the ECDS file of a listener's filter lies.
#[must_use]
pub fn filter_file(directory: &Path, listener: &str) -> PathBuf {
    directory.join(format!("{listener}-filter.json"))
}

/// What a stock Istio proxy has among its `stats_tags`: the labels of our metrics come out of these.
fn stats_tags() -> Value {
    json!([
        {"tag_name": "component", "regex": "(component\\.(.+?)\\.)"},
        {"tag_name": "tag", "regex": "(tag\\.(.+?);\\.)"},
        {"tag_name": "wasm_filter", "regex": "(wasm_filter\\.(.+?)\\.)"},
    ])
}

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn access_log(directory: &Path) -> Value {
    json!({"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": directory.join("access.log"),
        "log_format": {"json_format": {
            "path": "%REQ(:PATH)%",
            "status": "%RESPONSE_CODE%",
            "details": "%RESPONSE_CODE_DETAILS%",
            "flags": "%RESPONSE_FLAGS%",
            "upstream": "%UPSTREAM_HOST%",
        }},
    }})
}

fn cluster(cluster: &Cluster) -> Value {
    let endpoints: Vec<Value> = cluster
        .address
        .iter()
        .map(|address| json!({"lb_endpoints": [{"endpoint": {"address": socket(address.port())}}]}))
        .collect();
    let mut document = json!({
        "name": cluster.name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": cluster.name, "endpoints": endpoints},
        "circuit_breakers": {"thresholds": [{
            "max_connections": PLENTY, "max_pending_requests": PLENTY, "max_requests": cluster.max_requests,
        }]},
    });
    if cluster.http2 {
        document["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    document
}
