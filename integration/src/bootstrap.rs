//! Envoy's configuration, as JSON: clusters, listeners, and the filter by ECDS, which is how Istio delivers it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::places::module;

/// A cluster, and its route.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Name of the cluster: the breaker's upstream. Requests to `/<name>` go there.
    pub name: String,
    /// Its first endpoint; none for a cluster without hosts.
    pub address: Option<SocketAddr>,
    /// Further endpoints.
    pub more_addresses: Vec<SocketAddr>,
    /// Envoy's outlier detection. With it all hosts may be ejected, as in Istio, which then sets the panic threshold
    /// to 0.
    pub outlier_detection: Option<Value>,
    /// HTTP/2 to the upstream.
    pub http2: bool,
    /// Route timeout, as Envoy writes durations (`0.5s`); `0s` for none.
    pub timeout: String,
    /// Retries on a 5xx.
    pub retries: u32,
    /// Time for one attempt, where there are retries; `0s` for none.
    pub per_try_timeout: String,
    /// Time for a connection.
    pub connect_timeout: String,
    /// Requests that Envoy lets be in flight to it (`connectionPool`).
    pub max_requests: u32,
    /// Retries that Envoy lets be in flight to it at once.
    pub max_retries: u32,
    /// The longest time of a stream to it; empty for none.
    pub max_stream_duration: String,
    /// Bytes that Envoy takes from it at once; 0 for Envoy's own choice.
    pub buffer: u32,
    /// More fields of its route's action.
    pub route: Value,
    /// More fields of the cluster.
    pub fields: Value,
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
            more_addresses: Vec::new(),
            outlier_detection: None,
            http2: false,
            timeout: "0s".to_owned(),
            retries: 0,
            per_try_timeout: "0s".to_owned(),
            connect_timeout: "1s".to_owned(),
            max_requests: PLENTY,
            max_retries: PLENTY,
            max_stream_duration: String::new(),
            buffer: 0,
            route: json!({}),
            fields: json!({}),
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
    /// HTTP/3 over QUIC, with the certificate of [`Bootstrap::certificate`]; HTTP/1.1 and HTTP/2 over TCP otherwise.
    pub quic: bool,
    /// The module of its filter, where that is not the bootstrap's module.
    pub module: Option<PathBuf>,
    /// Filters in the place of the breaker.
    pub filters: Vec<Value>,
}

impl Listener {
    /// A listener over TCP on a free port.
    #[must_use]
    pub fn new(name: &str, filter: Option<&str>) -> Listener {
        let filter = filter.map(str::to_owned);
        Listener { name: name.to_owned(), filter, port: 0, quic: false, module: None, filters: Vec::new() }
    }
}

/// All that an Envoy is started with.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Clusters. The first one also takes every request whose path has no prefix of another cluster.
    pub clusters: Vec<Cluster>,
    /// Listeners.
    pub listeners: Vec<Listener>,
    /// The module.
    pub module: PathBuf,
    /// A prefix of metrics that Envoy is not to keep: a `stats_matcher` excludes them.
    pub excluded_stats: Option<String>,
    /// Another configuration of its metrics: tags, and which it keeps.
    pub stats_config: Option<Value>,
    /// Time between two flushes of its metrics, as Envoy writes durations; empty for its own 5 s.
    pub stats_flush_interval: String,
    /// Port of the admin interface; 0 lets the system choose.
    pub admin_port: u16,
    /// Routes that stand before those of the clusters.
    pub routes: Vec<Value>,
    /// A header that names the cluster. It replaces the routes to each cluster.
    pub cluster_header: Option<&'static str>,
    /// Filters before the breaker.
    pub filters_before: Vec<Value>,
    /// Filters after it.
    pub filters_after: Vec<Value>,
    /// Fields of the connection manager.
    pub connection_manager: Value,
    /// Without access log and fault filter, which a benchmark does not want to measure.
    pub bare: bool,
    /// Certificate and key for QUIC, as PEM.
    pub certificate: Option<(String, String)>,
    /// Listeners come from a file that can change, with the breaker's configuration in it, as in an Envoy without
    /// Istio.
    pub inline: bool,
    /// The breaker's configuration comes as a protobuf Struct and not as a text.
    pub configuration_as_struct: bool,
}

impl Bootstrap {
    /// Clusters and listeners, and nothing unusual.
    #[must_use]
    pub fn new(clusters: Vec<Cluster>, listeners: Vec<Listener>) -> Bootstrap {
        Bootstrap {
            clusters,
            listeners,
            module: module(),
            excluded_stats: None,
            stats_config: None,
            stats_flush_interval: String::new(),
            admin_port: 0,
            routes: Vec::new(),
            cluster_header: None,
            filters_before: Vec::new(),
            filters_after: Vec::new(),
            connection_manager: json!({}),
            bare: false,
            certificate: None,
            inline: false,
            configuration_as_struct: false,
        }
    }

    /// The document, with all files in `directory`.
    #[must_use]
    pub fn document(&self, directory: &Path) -> Value {
        let clusters: Vec<Value> = self.clusters.iter().map(cluster).collect();
        let mut stats = json!({"use_all_default_tags": true, "stats_tags": stats_tags()});
        if let Some(prefix) = &self.excluded_stats {
            stats["stats_matcher"] = json!({"exclusion_list": {"patterns": [{"prefix": prefix}]}});
        }
        let mut document = json!({
            "node": {"id": "integration", "cluster": "integration"},
            "admin": {"address": socket(self.admin_port)},
            "stats_config": self.stats_config.as_ref().unwrap_or(&stats),
            "static_resources": {"clusters": clusters},
        });
        if !self.stats_flush_interval.is_empty() {
            document["stats_flush_interval"] = self.stats_flush_interval.as_str().into();
        }
        if self.inline {
            let path = listeners_file(directory);
            let source = json!({"path_config_source": {"path": path}, "resource_api_version": "V3"});
            document["dynamic_resources"] = json!({"lds_config": source});
        } else {
            document["static_resources"]["listeners"] = self.listener_documents(directory).into();
        }
        document
    }

    fn listener_documents(&self, directory: &Path) -> Vec<Value> {
        self.listeners.iter().map(|listener| self.listener(listener, directory)).collect()
    }

    /// The LDS file.
    #[must_use]
    pub fn listeners_document(&self, directory: &Path) -> Value {
        let mut listeners = self.listener_documents(directory);
        for listener in &mut listeners {
            listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
        }
        json!({"resources": listeners})
    }

    fn listener(&self, listener: &Listener, directory: &Path) -> Value {
        let mut filters = self.filters_before.clone();
        if let Some(config) = listener.filter.as_ref().filter(|_| self.inline) {
            let document = self.filter_document(&listener.name, config);
            filters.push(json!({
                "name": filter_name(&listener.name),
                "typed_config": document["resources"][0]["typed_config"],
            }));
        } else if listener.filter.is_some() {
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
        filters.extend(listener.filters.iter().cloned());
        filters.extend(self.filters_after.iter().cloned());
        // After the breaker, as in Istio. It acts only where a request's headers ask for it.
        if !self.bare {
            filters.push(json!({"name": "envoy.filters.http.fault", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                "abort": {"header_abort": {}, "percentage": {"numerator": 100}},
                "delay": {"header_delay": {}, "percentage": {"numerator": 100}},
            }}));
        }
        filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {"@type":
            "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}));
        let mut manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": listener.name,
            "codec_type": if listener.quic { "HTTP3" } else { "AUTO" },
            "access_log": if self.bare { json!([]) } else { json!([access_log(directory)]) },
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": self.routes()}]},
            "http_filters": filters,
        });
        for (field, value) in self.connection_manager.as_object().into_iter().flatten() {
            manager[field] = value.clone();
        }
        let mut chain = json!({"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
        ]});
        let mut document = json!({"name": listener.name, "address": socket(listener.port)});
        if listener.quic {
            document["address"]["socket_address"]["protocol"] = "UDP".into();
            document["udp_listener_config"] = json!({"quic_options": {}});
            chain["transport_socket"] = self.quic_socket();
        }
        document["filter_chains"] = json!([chain]);
        document
    }

    fn quic_socket(&self) -> Value {
        let (certificate, key) = self.certificate.clone().unwrap_or_default();
        json!({"name": "envoy.transport_sockets.quic", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport",
            "downstream_tls_context": {"common_tls_context": {"alpn_protocols": ["h3"], "tls_certificates": [
                {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}},
            ]}},
        }})
    }

    fn routes(&self) -> Vec<Value> {
        if let Some(header) = self.cluster_header {
            return vec![json!({"match": {"prefix": "/"}, "route": {"cluster_header": header, "timeout": "0s"}})];
        }
        let route = |prefix: &str, cluster: &Cluster| {
            let mut action = json!({"cluster": cluster.name, "timeout": cluster.timeout});
            if cluster.retries > 0 {
                action["retry_policy"] = json!({
                    "retry_on": "5xx", "num_retries": cluster.retries, "per_try_timeout": cluster.per_try_timeout,
                });
            }
            for (field, value) in cluster.route.as_object().into_iter().flatten() {
                action[field] = value.clone();
            }
            json!({"match": {"prefix": prefix}, "route": action})
        };
        let named = self.clusters.iter().map(|cluster| route(&format!("/{}", cluster.name), cluster));
        let own = self.routes.iter().cloned();
        own.chain(named).chain(self.clusters.first().map(|cluster| route("/", cluster))).collect()
    }

    fn configuration(&self, plugin_config: &str) -> Value {
        if self.configuration_as_struct {
            let value: Value = serde_json::from_str(plugin_config).unwrap_or_default();
            return json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": value});
        }
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": plugin_config})
    }

    /// The ECDS file of a listener's filter.
    #[must_use]
    pub fn filter_document(&self, listener: &str, plugin_config: &str) -> Value {
        let own = self.listeners.iter().find(|known| known.name == listener).and_then(|known| known.module.as_ref());
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
                    "configuration": self.configuration(plugin_config),
                    // Istio sets no vm_id: all plugins of a proxy share one key space.
                    "vm_config": {
                        "runtime": "envoy.wasm.runtime.v8",
                        "code": {"local": {"filename": own.unwrap_or(&self.module)}},
                    },
                },
            },
        }]})
    }
}

/// A Lua filter.
#[must_use]
pub fn lua(name: &str, code: &str) -> Value {
    json!({"name": name, "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": code},
    }})
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

/// Where the LDS file lies.
#[must_use]
pub fn listeners_file(directory: &Path) -> PathBuf {
    directory.join("listeners.json")
}

/// The breaker's part of a stock Istio proxy's `stats_tags`: the labels of its metrics come from these.
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

/// What Envoy is told of a cluster.
pub(crate) fn cluster(cluster: &Cluster) -> Value {
    let endpoints: Vec<Value> = cluster
        .address
        .iter()
        .chain(&cluster.more_addresses)
        .map(|address| json!({"lb_endpoints": [{"endpoint": {"address": socket(address.port())}}]}))
        .collect();
    let mut document = json!({
        "name": cluster.name,
        "type": "STATIC",
        "connect_timeout": cluster.connect_timeout,
        "load_assignment": {"cluster_name": cluster.name, "endpoints": endpoints},
        "circuit_breakers": {"thresholds": [{
            "max_connections": PLENTY, "max_pending_requests": PLENTY, "max_requests": cluster.max_requests,
            "max_retries": cluster.max_retries,
        }]},
    });
    if cluster.buffer > 0 {
        document["per_connection_buffer_limit_bytes"] = cluster.buffer.into();
    }
    if !cluster.max_stream_duration.is_empty() {
        document["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"max_stream_duration": cluster.max_stream_duration},
                "explicit_http_config": {"http_protocol_options": {}},
            },
        });
    }
    if cluster.http2 {
        document["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    if let Some(outlier_detection) = &cluster.outlier_detection {
        document["outlier_detection"] = outlier_detection.clone();
        document["common_lb_config"] = json!({"healthy_panic_threshold": {"value": 0}});
    }
    for (field, value) in cluster.fields.as_object().into_iter().flatten() {
        document[field] = value.clone();
    }
    document
}
