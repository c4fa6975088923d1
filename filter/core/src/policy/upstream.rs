//! The upstream of a circuit: Envoy's cluster name, read as Istio writes it.
//!
//! Istio's cluster names have direction, port, subset and host
//! (`outbound|8080|v2|reviews.default.svc.cluster.local`). A waypoint's names have a protocol in the subset's place,
//! with the subset after it (`inbound-vip|80|http/v2|reviews...`). Any other name is taken as it is: the whole name
//! is the host, and there is no port and no subset.

use std::cmp::Ordering;

/// A cluster name and its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream<'a> {
    /// The whole name; the circuit's key and its label.
    pub cluster: &'a str,
    /// The host.
    pub host: &'a str,
    /// The port, where the name has one.
    pub port: Option<u16>,
    /// The DestinationRule subset, where the name has one.
    pub subset: Option<&'a str>,
}

impl<'a> Upstream<'a> {
    /// Reads a cluster name. Every name is valid.
    #[must_use]
    pub fn parse(cluster: &'a str) -> Upstream<'a> {
        Self::istio(cluster).unwrap_or(Upstream { cluster, host: cluster, port: None, subset: None })
    }

    /// Whether this is no service of its own, but a cluster that takes all traffic without one: all sites of the
    /// world. One circuit over these would let one bad site cut off all.
    pub(crate) fn is_catch_all(&self) -> bool {
        CATCH_ALL.contains(&self.cluster) || self.cluster.starts_with(INBOUND_CATCH_ALL)
    }

    fn istio(cluster: &'a str) -> Option<Upstream<'a>> {
        let mut parts = cluster.split('|');
        let direction = parts.next()?;
        let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
        let subset = match direction {
            "outbound" | "inbound" => subset,
            // `model.BuildSubsetKey(TrafficDirectionInboundVIP, "http/" + subset, ...)`.
            "inbound-vip" => subset.split_once('/').map_or("", |(_, subset)| subset),
            _ => return None,
        };
        if host.is_empty() || parts.next().is_some() {
            return None;
        }
        let subset = (!subset.is_empty()).then_some(subset);
        Some(Upstream { cluster, host, port: Some(port.parse().ok()?), subset })
    }
}

/// Istio's clusters for what has no service (`util.PassthroughCluster`, `util.BlackHoleCluster`) ...
const CATCH_ALL: [&str; 2] = ["PassthroughCluster", "BlackHoleCluster"];
/// ... and for what reaches a pod on a port that no service has (`InboundPassthroughClusterIpv4` and the like).
const INBOUND_CATCH_ALL: &str = "InboundPassthroughCluster";

/// Which upstreams an entry of `upstreams` is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher(Pattern);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pattern {
    Cluster(String),
    Parts { host: HostPattern, port: Option<u16>, subset: Option<String> },
}

/// In lower case, so that two which match the same are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostPattern {
    Any,
    Exact(String),
    /// Names that end with this, which begins with a dot.
    Under(String),
}

impl Matcher {
    pub(crate) fn cluster(name: &str) -> Matcher {
        Matcher(Pattern::Cluster(name.to_owned()))
    }

    /// `None` where `host` is neither a name nor a name after a leading `*` label. Upper and lower case are the same.
    pub(crate) fn parts(host: Option<&str>, port: Option<u16>, subset: Option<String>) -> Option<Matcher> {
        let host = match host {
            None | Some("*") => HostPattern::Any,
            Some(name) => match name.strip_prefix('*') {
                Some(tail) if tail.starts_with('.') && tail.len() > 1 && !tail.contains('*') => {
                    HostPattern::Under(tail.to_ascii_lowercase())
                }
                None if !name.is_empty() && !name.contains('*') => HostPattern::Exact(name.to_ascii_lowercase()),
                _ => return None,
            },
        };
        Some(Matcher(Pattern::Parts { host, port, subset }))
    }

    pub(crate) fn matches(&self, upstream: &Upstream<'_>) -> bool {
        match &self.0 {
            Pattern::Cluster(name) => name == upstream.cluster,
            Pattern::Parts { host, port, subset } => {
                let host = match host {
                    HostPattern::Any => true,
                    HostPattern::Exact(name) => name.eq_ignore_ascii_case(upstream.host),
                    HostPattern::Under(tail) => ends_with(upstream.host, tail),
                };
                host && port.is_none_or(|port| upstream.port == Some(port))
                    && subset.as_deref().is_none_or(|subset| upstream.subset == Some(subset))
            }
        }
    }

    /// Whether it names exactly this upstream, not by a pattern that others match too.
    pub(crate) fn names(&self, upstream: &Upstream<'_>) -> bool {
        match &self.0 {
            Pattern::Cluster(name) => name == upstream.cluster,
            Pattern::Parts { host: HostPattern::Exact(name), .. } => name.eq_ignore_ascii_case(upstream.host),
            Pattern::Parts { .. } => false,
        }
    }

    /// Orders the more specific one first. Equal only where both say the same.
    pub(crate) fn order(&self, other: &Matcher) -> Ordering {
        other.specificity().cmp(&self.specificity()).then_with(|| self.0.cmp(&other.0))
    }

    /// Larger is more specific: the raw cluster, then the host (exact before longer before shorter wildcard), then
    /// subset, then port.
    pub(crate) fn specificity(&self) -> (u8, u8, usize, bool, bool) {
        match &self.0 {
            Pattern::Cluster(_) => (1, 0, 0, false, false),
            Pattern::Parts { host, port, subset } => {
                let (kind, length) = match host {
                    HostPattern::Any => (0, 0),
                    HostPattern::Under(tail) => (1, tail.len()),
                    HostPattern::Exact(name) => (2, name.len()),
                };
                (0, kind, length, subset.is_some(), port.is_some())
            }
        }
    }
}

impl std::fmt::Display for Matcher {
    /// The matcher as its entry says it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Pattern::Cluster(name) => write!(f, "{name}"),
            Pattern::Parts { host, port, subset } => {
                match host {
                    HostPattern::Any => write!(f, "*")?,
                    HostPattern::Exact(name) => write!(f, "{name}")?,
                    HostPattern::Under(tail) => write!(f, "*{tail}")?,
                }
                port.map_or(Ok(()), |port| write!(f, ":{port}"))?;
                subset.as_ref().map_or(Ok(()), |subset| write!(f, " subset {subset}"))
            }
        }
    }
}

fn ends_with(host: &str, tail: &str) -> bool {
    let start = host.len().checked_sub(tail.len());
    // A wildcard stands for at least one character, as in certificates.
    start.is_some_and(|start| start > 0 && host.get(start..).is_some_and(|end| end.eq_ignore_ascii_case(tail)))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn istio_names_are_taken_apart_and_all_others_kept_whole() {
        let reviews = Upstream::parse("outbound|8080|v2|reviews.default.svc.cluster.local");
        assert_eq!(
            (reviews.host, reviews.port, reviews.subset),
            ("reviews.default.svc.cluster.local", Some(8080), Some("v2"))
        );
        assert_eq!(Upstream::parse("outbound|80||a.b").subset, None);
        for (name, subset) in [
            ("inbound-vip|80|http|a.b", None),
            ("inbound-vip|80|http/v1|a.b", Some("v1")),
            ("inbound-vip|80|tcp|a.b", None),
        ] {
            let waypoint = Upstream::parse(name);
            assert_eq!((waypoint.host, waypoint.port, waypoint.subset), ("a.b", Some(80), subset), "{name}");
        }
        for name in ["local", "outbound|x|y|z", "outbound|80||", "outbound|80||a|b", "inbound|80", "sideways|80||a"] {
            assert_eq!(Upstream::parse(name), Upstream { cluster: name, host: name, port: None, subset: None });
        }
    }

    #[test]
    fn what_has_no_service_is_told_apart_and_named_only_by_its_own_name() {
        for name in
            ["PassthroughCluster", "BlackHoleCluster", "InboundPassthroughCluster", "InboundPassthroughClusterIpv6"]
        {
            let upstream = Upstream::parse(name);
            assert!(upstream.is_catch_all(), "{name}");
            assert!(Matcher::cluster(name).names(&upstream));
            assert!(Matcher::parts(Some(name), None, None).unwrap().names(&upstream));
            let any = Matcher::parts(Some("*"), None, None).unwrap();
            assert!(any.matches(&upstream) && !any.names(&upstream));
        }
        assert!(!Upstream::parse("outbound|80||passthroughcluster.svc").is_catch_all());
    }

    #[test]
    fn a_wildcard_stands_for_at_least_one_label_character() {
        let matcher = Matcher::parts(Some("*.example.com"), None, None).unwrap();
        assert!(matcher.matches(&Upstream::parse("outbound|80||a.Example.com")));
        assert!(!matcher.matches(&Upstream::parse("outbound|80||.example.com")));
        assert!(!matcher.matches(&Upstream::parse("outbound|80||example.com")));
        for bad in ["a.*.b", "*a.b", "**", "*.", ""] {
            assert_eq!(Matcher::parts(Some(bad), None, None), None, "{bad}");
        }
    }
}
