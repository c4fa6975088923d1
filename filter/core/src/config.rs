//! From `pluginConfig` to policies. The reading is strict, and a refusal is one message.
//!
//! A document is read as it is written ([`node`]), checked against the field tables ([`fields`]), laid over the
//! defaults section by section, and turned into [`Policy`] values whose invariants hold from then on. Entries of
//! `upstreams` lie over `default` in the same way, and the most specific match wins.

mod active;
mod check;
mod duration;
mod error;
mod fields;
mod node;
mod print;
mod protobuf;
mod reader;

use std::rc::Rc;

pub use check::join as path_of;
pub use duration::print as print_duration;
pub use error::ConfigError;
pub use fields::{
    BODILESS, CONFIG, CONNECTION_HEADERS, Field, Kind, LEAST_PERCENT, LONGEST_NAME, LONGEST_VALUE, MOST_HEADERS,
    MOST_UPSTREAMS, POLICY,
};
pub use print::effective;

use crate::clock::{MILLISECOND, SECOND};
use crate::json::quoted;
use crate::policy::classify::FailureKind;
use crate::policy::exempt::Paths;
use crate::policy::health::{Health, When};
use crate::policy::upstream::{Matcher, Upstream};
use crate::policy::{Failures, HalfOpen, Length, Mode, Open, Policy, RateLimited, Rejection, Trip};
use node::Node;
use reader::{Reader, field};

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    default: Rc<Policy>,
    /// The policy of clusters that are no service of their own, unless an entry names them.
    catch_all: Rc<Policy>,
    /// Most specific first.
    upstreams: Vec<(Matcher, Rc<Policy>)>,
    /// Circuits that one proxy may hold.
    pub max_circuits: u32,
    /// Nanoseconds after which a circuit that nobody uses ends.
    pub idle_circuit: u64,
    /// Slots, from the first on, whose circuits have a latency histogram.
    pub latency_histograms: u32,
    /// Requests that are never counted and never rejected.
    pub exempt: Paths,
    /// What the module answers to those who ask from outside.
    pub(crate) health: Option<Health>,
    /// A hash of what the document says, with the defaults of what it leaves out. Two documents that say something else
    /// hardly ever have the same.
    pub hash: u32,
}

impl Config {
    /// Reads a `pluginConfig`. Empty means all defaults.
    ///
    /// # Errors
    /// The first thing that is not allowed, with its path.
    pub fn parse(document: &[u8]) -> Result<Config, ConfigError> {
        let given = read(document)?;
        check::section(&given, CONFIG, "")?;
        let mut whole = defaults(CONFIG);
        whole.overlay(&given, |name| name != "upstreams" && fields::merges(name));
        let read = Reader(Some(&whole));
        let limits = read.at(field!("limits"));
        let default = read.at(field!("default")).0.cloned().unwrap_or(Node::Null);
        let policy = policy(&default, "default")?;
        Ok(Config {
            catch_all: Rc::new(Policy { mode: Mode::Disabled, ..policy.clone() }),
            default: Rc::new(policy),
            upstreams: upstreams(read, &default)?,
            hash: whole.hash(),
            health: health(read.at(field!("health")))?,
            exempt: Paths::new(read.at(field!("exempt")).words(field!("paths"))),
            max_circuits: limits.integer(field!("maxCircuits")),
            idle_circuit: limits.duration(field!("idleCircuit")),
            latency_histograms: limits.integer(field!("latencyHistograms")),
        })
    }

    /// Whether each field alone is allowed. What two fields say together is not looked at.
    ///
    /// # Errors
    /// The first thing that is not allowed, with its path.
    pub fn parse_fields(document: &[u8]) -> Result<(), ConfigError> {
        check::section(&read(document)?, CONFIG, "")
    }

    /// The policy of `upstream`.
    #[must_use]
    pub fn policy_of(&self, upstream: &Upstream<'_>) -> Rc<Policy> {
        let found = self.upstreams.iter().find(|(matcher, _)| matcher.matches(upstream));
        match found {
            Some((matcher, policy)) if matcher.names(upstream) || !upstream.is_catch_all() => Rc::clone(policy),
            _ if upstream.is_catch_all() => Rc::clone(&self.catch_all),
            _ => Rc::clone(&self.default),
        }
    }

    /// Settings that are allowed but probably not meant: one sentence each, with its path.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let default = std::iter::once(("default".to_owned(), &self.default));
        let upstreams = self
            .upstreams
            .iter()
            .map(|(matcher, policy)| (format!("upstreams entry {}", quoted(&matcher.to_string())), policy));
        let health = self.health.as_ref();
        default
            .chain(upstreams)
            .flat_map(|(place, policy)| [short_probe(&place, policy), probe_of_ourselves(&place, policy, health)])
            .flatten()
            .collect()
    }

    /// All policies in use.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        std::iter::once(&*self.default).chain(self.upstreams.iter().map(|(_, policy)| &**policy))
    }
}

/// The breaker at the upstream's own proxy, if it has the same policy, answers such a probe.
fn probe_of_ourselves(place: &str, policy: &Policy, health: Option<&Health>) -> Option<String> {
    let (probe, health) = (policy.half_open.active.as_ref()?, health?);
    let path = probe.path.split('?').next().unwrap_or_default();
    (path == health.path).then(|| {
        format!(
            "{place}: halfOpen.activeProbe.path is health.path: where the upstream's own proxy has this policy too, the breaker \
             there answers, and a sick upstream passes for well"
        )
    })
}

fn short_probe(place: &str, policy: &Policy) -> Option<String> {
    let (timeout, slow) = (policy.half_open.probe_timeout, policy.trip.slow_duration);
    (timeout < slow).then(|| {
        let (timeout, slow) = (print_duration(timeout), print_duration(slow));
        format!(
            "{place}: halfOpen.probeTimeout is {timeout} and trip.slowCallDuration {slow}: a call between them is good \
             while CLOSED and fails as a probe, so that an upstream which takes that long does not recover"
        )
    })
}

const STRUCT: &str = "a protobuf Struct in binary; allowed: JSON as text, in Envoy's configuration as {\"@type\": \
    \"type.googleapis.com/google.protobuf.StringValue\", \"value\": \"{...}\"}";

fn read(document: &[u8]) -> Result<Node, ConfigError> {
    if protobuf::is_struct(document) {
        return Err(ConfigError::said("", STRUCT));
    }
    if document.iter().all(u8::is_ascii_whitespace) {
        return Ok(Node::Map(Vec::new()));
    }
    serde_json::from_slice(document).map_err(|why| ConfigError::said("", &format!("not a JSON document: {why}")))
}

/// The defaults of a table, sections filled in.
fn defaults(table: &[Field]) -> Node {
    let with_default = table.iter().filter(|field| !field.default.is_empty());
    Node::Map(
        with_default
            .map(|field| {
                let own: Node = serde_json::from_slice(field.default.as_bytes()).unwrap_or(Node::Null);
                let node = match &field.kind {
                    Kind::Section(inner) if own == Node::Map(Vec::new()) => defaults(inner),
                    _ => own,
                };
                (field.name.to_owned(), node)
            })
            .collect(),
    )
}

fn upstreams(whole: Reader<'_>, default: &Node) -> Result<Vec<(Matcher, Rc<Policy>)>, ConfigError> {
    let Some(Node::List(entries)) = whole.at(field!("upstreams")).0 else { return Ok(Vec::new()) };
    let mut found: Vec<(Matcher, Rc<Policy>)> = Vec::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        let path = format!("upstreams[{at}]");
        let matcher = matcher(Reader(Some(entry)).at(field!("match")), &path)?;
        // Put in its place at once: a general sort would be a twentieth of the whole module.
        let Err(place) = found.binary_search_by(|(known, _)| known.order(&matcher)) else {
            return Err(ConfigError::said(
                &format!("{path}.match"),
                "an earlier entry has the same match; one is allowed",
            ));
        };
        let mut merged = default.clone();
        merged.overlay(entry, fields::merges);
        found.insert(place, (matcher, Rc::new(policy(&merged, &path)?)));
    }
    Ok(found)
}

/// `None` where the section is absent.
fn health(given: Reader<'_>) -> Result<Option<Health>, ConfigError> {
    let Some(given) = given.0 else { return Ok(None) };
    let mut whole = defaults(fields::HEALTH);
    whole.overlay(given, |_| false);
    let read = Reader(Some(&whole));
    let path = read.text(field!("path"));
    if path.is_empty() {
        return Err(ConfigError::said("health.path", "is missing; allowed: the path that is answered"));
    }
    let when = read.at(field!("unhealthyWhen"));
    let host = |host| Matcher::parts(Some(host), None, None);
    Ok(Some(Health {
        path: path.to_owned(),
        upstreams: read.words(field!("upstreams")).filter_map(host).collect(),
        when: match when.0 {
            Some(Node::Text(word)) if word == "all" => When::All,
            Some(Node::Map(_)) => When::Share(when.share(field!("percent"))),
            _ => When::Any,
        },
        after: read.duration(field!("after")),
        recover_after: read.duration(field!("recoverAfter")),
        detail: read.flag(field!("detail")),
    }))
}

fn matcher(given: Reader<'_>, path: &str) -> Result<Matcher, ConfigError> {
    let at = format!("{path}.match");
    let port =
        given.at(field!("port")).is_given().then(|| u16::try_from(given.integer(field!("port"))).unwrap_or(u16::MAX));
    let subset = given.at(field!("subset")).is_given().then(|| given.text(field!("subset")).to_owned());
    let host = given.at(field!("host")).is_given().then(|| given.text(field!("host")));
    if given.at(field!("cluster")).is_given() {
        if host.is_some() || port.is_some() || subset.is_some() {
            return Err(ConfigError::said(
                &at,
                "cluster stands with host, port or subset; allowed: cluster alone, or the others",
            ));
        }
        return Ok(Matcher::cluster(given.text(field!("cluster"))));
    }
    if host.is_none() && port.is_none() && subset.is_none() {
        return Err(ConfigError::said(&at, "nothing to match; allowed: host, port, subset, or cluster alone"));
    }
    Matcher::parts(host, port, subset).ok_or_else(|| {
        let value = Node::Text(host.unwrap_or("").to_owned());
        ConfigError::new(&format!("{at}.host"), &value, "a host name, `*` only as its leading label")
    })
}

/// Turns a merged policy section into a [`Policy`]. `path` is where its author wrote it.
fn policy(node: &Node, path: &str) -> Result<Policy, ConfigError> {
    let policy = Reader(Some(node));
    let (trip, open, half_open) = (policy.at(field!("trip")), policy.at(field!("open")), policy.at(field!("halfOpen")));
    if open.duration(field!("maxDuration")) < open.duration(field!("baseDuration")) {
        let value = Node::Text(open.text(field!("maxDuration")).to_owned());
        let allowed = format!("at least baseDuration, which is {}", open.text(field!("baseDuration")));
        return Err(ConfigError::new(&format!("{path}.open.maxDuration"), &value, &allowed));
    }
    Ok(Policy {
        mode: match policy.text(field!("mode")) {
            "observe" => Mode::Observe,
            "forceOpen" => Mode::ForceOpen,
            "disabled" => Mode::Disabled,
            _ => Mode::Enforce,
        },
        trip: Trip {
            consecutive_failures: trip.integer(field!("consecutiveFailures")),
            failure_rate: trip.share(field!("failureRatePercent")),
            slow_rate: slow_rate(trip),
            slow_duration: trip.duration(field!("slowCallDuration")),
            over_share: 1_000_000_u32.saturating_sub(trip.share(field!("latencyPercentile"))),
            latency_threshold: latency_threshold(trip, path)?,
            least_over: 1,
            minimum_calls: trip.integer(field!("minimumCalls")),
            window: window(trip.at(field!("window")), trip.integer(field!("minimumCalls")), path)?,
        },
        failures: failures(policy.at(field!("failure"))),
        open: Open {
            base: open.duration(field!("baseDuration")),
            multiplier: open.number(field!("multiplier")),
            max: open.duration(field!("maxDuration")),
            jitter: open.share(field!("jitterPercent")),
            max_retry_after: open.duration(field!("maxRetryAfter")),
        },
        half_open: HalfOpen {
            max_probes: half_open.integer(field!("maxConcurrentProbes")),
            success_threshold: half_open.integer(field!("successThreshold")),
            probe_timeout: probe_timeout(half_open, trip),
            ramp_initial: half_open.at(field!("ramp")).share(field!("initialPercent")),
            ramp_duration: half_open.at(field!("ramp")).duration(field!("duration")),
            active: active::active_probe(half_open.at(field!("activeProbe")), path)?,
        },
        rejection: rejection(policy.at(field!("rejection"))),
        fallback: policy.at(field!("fallback")).headers(field!("headers")),
    })
}

/// The probe timeout where no call is slow: the default of `slowCallDuration`.
const LONGEST_PROBE: u64 = 60 * SECOND;

/// A probe may take as long as any good call, if nobody says otherwise: a call that is fine in CLOSED must not fail a
/// probe.
fn probe_timeout(half_open: Reader<'_>, trip: Reader<'_>) -> u64 {
    match (half_open.at(field!("probeTimeout")).is_given(), trip.duration(field!("slowCallDuration"))) {
        (true, _) => half_open.duration(field!("probeTimeout")),
        (false, 0) => LONGEST_PROBE,
        (false, slow) => slow.max(SHORTEST_PROBE),
    }
}

/// The shortest probe timeout that a policy can set.
const SHORTEST_PROBE: u64 = 100 * MILLISECOND;

/// Either field switches the condition off.
fn slow_rate(trip: Reader<'_>) -> u32 {
    if trip.duration(field!("slowCallDuration")) == 0 { 0 } else { trip.share(field!("slowCallRatePercent")) }
}

/// Percentile and threshold mean nothing alone: an author who gives one has forgotten the other.
fn latency_threshold(trip: Reader<'_>, path: &str) -> Result<u64, ConfigError> {
    let (percentile, threshold) = (trip.share(field!("latencyPercentile")), trip.duration(field!("latencyThreshold")));
    let (missing, given, allowed) = match (percentile > 0, threshold > 0) {
        (true, false) => ("latencyThreshold", "latencyPercentile", "a duration such as \"800ms\""),
        (false, true) => ("latencyPercentile", "latencyThreshold", "a percentile such as 95"),
        _ => return Ok(threshold),
    };
    let said = format!("is off, and {given} is given; allowed: {allowed}, or both off");
    Err(ConfigError::said(&format!("{path}.trip.{missing}"), &said))
}

fn window(window: Reader<'_>, minimum_calls: u32, path: &str) -> Result<Length, ConfigError> {
    let at = format!("{path}.trip.window");
    match (window.at(field!("duration")).is_given(), window.at(field!("calls")).is_given()) {
        (true, false) => Ok(Length::Time(window.duration(field!("duration")))),
        (false, true) if window.integer(field!("calls")) < minimum_calls => {
            let value = Node::Number(f64::from(window.integer(field!("calls"))));
            let allowed = format!("at least minimumCalls, which is {minimum_calls}");
            Err(ConfigError::new(&format!("{at}.calls"), &value, &allowed))
        }
        (false, true) => Ok(Length::Calls(u64::from(window.integer(field!("calls"))))),
        (true, true) => Err(ConfigError::said(&at, "duration and calls are given; allowed: one of them")),
        (false, false) => Err(ConfigError::said(&at, "nothing is given; allowed: duration or calls")),
    }
}

fn failures(given: Reader<'_>) -> Failures {
    let mut failures = Failures {
        client_cancel: match given.text(field!("clientCancel")) {
            "neutral" => None,
            "failure" => Some(0),
            _ => Some(given.duration(field!("clientCancel"))),
        },
        injected_faults: given.text(field!("injectedFaults")) == "failure",
        rate_limited: match given.text(field!("rateLimited")) {
            "failure" => RateLimited::Failure,
            "ignore" => RateLimited::Ignore,
            _ => RateLimited::Soft,
        },
        all_attempts: given.text(field!("attempts")) == "all",
        ..Failures::default()
    };
    given.statuses(field!("httpStatus")).for_each(|status| failures.add_http(status));
    for word in given.words(field!("grpcStatus")) {
        let code = (0..).zip(fields::GRPC_CODES).find(|(_, name)| *name == word);
        code.into_iter().for_each(|(code, _)| failures.add_grpc(code));
    }
    for word in given.words(field!("upstreamErrors")) {
        failures.add_kind(match word {
            "connect" => FailureKind::Connect,
            "timeout" => FailureKind::Timeout,
            "reset" => FailureKind::Reset,
            "noHealthyUpstream" => FailureKind::NoHealthyUpstream,
            _ => FailureKind::Overflow,
        });
    }
    failures
}

fn rejection(rejection: Reader<'_>) -> Rejection {
    Rejection {
        status: rejection.integer(field!("status")),
        body: rejection.text(field!("body")).to_owned(),
        content_type: rejection.text(field!("contentType")).to_owned(),
        headers: rejection.headers(field!("headers")),
        retry_after: rejection.flag(field!("retryAfter")),
    }
}
