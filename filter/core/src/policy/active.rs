//! Probes of the breaker's own: what is sent, and which answers are good.

use crate::policy::statuses::Statuses;
use crate::policy::upstream::Upstream;

/// A request that the breaker itself sends to an upstream that is to be tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveProbe {
    /// GET or HEAD.
    pub method: &'static str,
    /// Its path, with its query.
    pub path: String,
    /// The authority (`host`); empty: the upstream's own host.
    pub authority: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Nanoseconds from one probe to the next.
    pub interval: u64,
    /// Nanoseconds after which a probe without a whole answer has failed.
    pub timeout: u64,
    /// Statuses of good answers.
    pub expected: Statuses,
}

/// The authority where a cluster's name has no host. Such are Istio's `inbound|8080||`: they lead to the workload itself.
const NO_HOST: &str = "localhost";

impl ActiveProbe {
    /// The authority of a probe of `upstream`.
    #[must_use]
    pub fn authority_for<'a>(&'a self, upstream: &'a str) -> &'a str {
        if !self.authority.is_empty() {
            return &self.authority;
        }
        let host = Upstream::parse(upstream).host;
        // A server may well refuse a request whose host is no name.
        if host.is_empty() || host.contains('|') { NO_HOST } else { host }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_authority_is_the_upstreams_host_if_nobody_says_otherwise() {
        let mut probe = ActiveProbe {
            method: "GET",
            path: "/".to_owned(),
            authority: String::new(),
            headers: Vec::new(),
            interval: 1,
            timeout: 1,
            expected: Statuses::default(),
        };
        for (upstream, authority) in [
            ("outbound|80|v1|a.shop.svc.cluster.local", "a.shop.svc.cluster.local"),
            ("inbound|8080||", "localhost"),
            ("backend", "backend"),
        ] {
            assert_eq!(probe.authority_for(upstream), authority);
        }
        "health.test:81".clone_into(&mut probe.authority);
        assert_eq!(probe.authority_for("backend"), "health.test:81");
    }
}
