//! `circuit-breaker why UPSTREAM`: why one upstream is cut off, and what to do next.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use circuit_breaker_core::Upstream as Name;
use circuit_breaker_core::config::{Config, effective};
use clap::Args;
use serde_json::{Value, json};

use crate::files::{Found, plugin_configs};
use crate::fleet::{Fleet, Upstream};
use crate::look::State;
use crate::paint::Paint;
use crate::policy_words::words;
use crate::report::{by_size, is_host, reopens_in, row, whole};
use crate::runbook::{Step, next_step};
use crate::status::{Asked, Output, Source, written};
use crate::table::{duration, short};
use crate::transitions::{Transition, read};

/// Which upstream, and where to look.
#[derive(Args, Debug)]
pub struct Why {
    /// Envoy's cluster name, a host, or what `status` calls it
    upstream: String,
    #[command(flatten)]
    source: Source,
    /// A proxy's log, in place of those of the cluster; repeat it for more
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
    /// The policy, in place of those of the cluster
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Transitions to show
    #[arg(long, value_name = "N", default_value_t = 10)]
    last: usize,
    /// How to print it
    #[arg(long, short, default_value = "table")]
    output: Output,
}

/// All that is known.
#[derive(Default)]
struct Known {
    fleet: Fleet,
    transitions: Vec<Transition>,
    policies: Vec<Found>,
    complaints: Vec<String>,
}

/// What is known of one upstream.
struct Answer<'a> {
    name: &'a str,
    upstream: Upstream,
    now: f64,
    transitions: Vec<&'a Transition>,
    policies: Vec<(String, Vec<String>)>,
    complaints: &'a [String],
    step: Step,
}

impl Why {
    /// Asks and prints. Whether the upstream is CLOSED everywhere.
    ///
    /// # Errors
    /// It could not be asked, or nobody knows the upstream.
    pub async fn run(&self) -> Result<bool> {
        let known = self.known().await?;
        let name = named(&known, &self.upstream)?;
        let answer = answer(&known, &name, self.last);
        match self.output {
            Output::Table => print!("{}", answer.text(Paint::of_stdout())),
            output => print!("{}", written(&answer.document(), output)?),
        }
        Ok(answer.upstream.state() == State::Closed)
    }

    async fn known(&self) -> Result<Known> {
        let mut known = Known::default();
        for file in &self.log {
            let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            known.transitions.extend(read(&file.display().to_string(), &String::from_utf8_lossy(&text)));
        }
        if let Some(file) = &self.policy {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            known.policies = plugin_configs(&text).with_context(|| file.display().to_string())?;
        }
        // Logs alone are enough, where nobody names a source of metrics beside them.
        if self.log.is_empty() || !self.source.is_cluster() || self.source.names_a_cluster() {
            let source = self.source.ready().await?;
            known.fleet = source.fleet().await?;
            if let Asked::Cluster(cluster) = &source {
                if self.log.is_empty() {
                    for (proxy, log) in cluster.logs().await? {
                        match log {
                            Ok(log) => known.transitions.extend(read(&proxy, &log)),
                            Err(why) => known.complaints.push(format!("the log of {proxy} cannot be had: {why}")),
                        }
                    }
                }
                if self.policy.is_none() {
                    known.policies = cluster.policies().await;
                }
            }
        }
        known.transitions.sort_by(|one, other| one.at.cmp(&other.at));
        Ok(known)
    }
}

/// The one upstream that a person means.
fn named(known: &Known, wanted: &str) -> Result<String> {
    let mut names: Vec<&str> = known.fleet.upstreams.keys().map(String::as_str).collect();
    names.extend(known.transitions.iter().map(|made| made.upstream.as_str()));
    names.sort_unstable();
    names.dedup();
    if names.contains(&wanted) {
        return Ok(wanted.to_owned());
    }
    let means = |name: &&&str| short(name) == wanted || is_host(Name::parse(name).host, wanted);
    let meant: Vec<_> = names.iter().filter(means).collect();
    match meant.as_slice() {
        [one] => Ok((**one).to_owned()),
        [] => bail!("no proxy knows {wanted}; `status --all` lists the upstreams"),
        several => {
            bail!("{wanted} may mean {}", several.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", "))
        }
    }
}

fn answer<'a>(known: &'a Known, name: &'a str, last: usize) -> Answer<'a> {
    let all: Vec<_> = known.transitions.iter().filter(|made| made.upstream == name).collect();
    let upstream = known.fleet.upstreams.get(name).cloned().unwrap_or_else(|| by_logs(&all));
    let trips = all.iter().filter(|made| made.to == "OPEN" && made.reason != "probe_failed").count();
    let policies = known.policies.iter().filter_map(|found| {
        let effective = effective(found.document.as_bytes(), name).ok()?;
        Some((title(found, &upstream)?, words(&serde_json::from_str::<Value>(&effective).ok()?)))
    });
    let policies = policies.collect();
    Answer {
        name,
        step: next_step(&upstream, trips),
        upstream,
        now: known.fleet.at,
        transitions: all.get(all.len().saturating_sub(last)..).unwrap_or_default().to_vec(),
        policies,
        complaints: &known.complaints,
    }
}

/// Which policy it is, and whether the proxies have it: a new one that they refused stands in the cluster all the same.
fn title(found: &Found, upstream: &Upstream) -> Option<String> {
    let hash = format!("{:08x}", Config::parse(found.document.as_bytes()).ok()?.hash);
    let used = match (upstream.policies.is_empty(), upstream.policies.contains(&hash)) {
        (true, _) => "",
        (false, true) => ", in use",
        (false, false) => ", not in use by these proxies",
    };
    let resource = if found.resource.is_empty() { "the file" } else { &found.resource };
    Some(format!("{resource}, policy {hash}{used}"))
}

/// How it stands by the last line of each proxy's log.
fn by_logs(transitions: &[&Transition]) -> Upstream {
    let mut last = std::collections::BTreeMap::new();
    transitions.iter().for_each(|made| {
        last.insert(made.proxy.as_str(), made.to.as_str());
    });
    let count = |state: State| last.values().filter(|to| **to == state.word()).count() as u64;
    Upstream {
        open: count(State::Open),
        half_open: count(State::HalfOpen),
        closed: count(State::Closed),
        modes: [0].into(),
        ..Upstream::default()
    }
}

impl Answer<'_> {
    fn document(&self) -> Value {
        let mut document = row(self.name, &self.upstream, self.now);
        document["calls"] = json!(whole(&self.upstream.calls));
        document["failures"] = json!(whole(&self.upstream.failures));
        document["ejected_hosts"] = json!(self.upstream.ejected);
        document["transitions"] = self.transitions.iter().map(|made| made.document()).collect();
        document["policy"] =
            self.policies.iter().map(|(resource, words)| json!({"resource": resource, "says": words})).collect();
        let Step { finding, action, runbook } = self.step;
        document["next_step"] = json!({"finding": finding, "action": action, "runbook": runbook});
        document["complaints"] = json!(self.complaints);
        document
    }

    fn text(&self, paint: Paint) -> String {
        let mut out = format!("{}\n", self.headline(paint));
        let mut part = |title: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                let _ = writeln!(out, "\n{}", paint.bold(title));
                lines.iter().for_each(|line| {
                    let _ = writeln!(out, "  {line}");
                });
            }
        };
        part("Last transitions (UTC)", self.history(paint));
        part("Since the proxies started", self.counts());
        let says = self
            .policies
            .iter()
            .flat_map(|(resource, words)| std::iter::once(paint.dim(resource)).chain(words.iter().cloned()));
        part("The policy says", says.collect());
        part("Not known", self.complaints.iter().map(|why| paint.warn(why)).collect());
        let Step { finding, action, runbook } = self.step;
        let link = format!("istio/monitoring/runbooks.md#{}", runbook.to_lowercase());
        part("What to do", vec![format!("{finding}:"), paint.bold(action), paint.dim(&link)]);
        out
    }

    fn headline(&self, paint: Paint) -> String {
        let upstream = &self.upstream;
        let state = upstream.state();
        let so = [upstream.closed, upstream.half_open, upstream.open][state as usize];
        let name = paint.bold(&short(self.name));
        let when = match reopens_in(upstream, self.now) {
            Some(0) => "; the next request is a probe".to_owned(),
            Some(seconds) => format!("; the first probe in {}", duration(seconds)),
            None => String::new(),
        };
        format!("{name} is {} in {so} of {} proxies{when}", paint.state(state, state.word()), upstream.proxies())
    }

    fn history(&self, paint: Paint) -> Vec<String> {
        let width = self.transitions.iter().map(|made| made.proxy.chars().count()).max().unwrap_or(0);
        let line = |made: &&Transition| {
            let state = [State::Closed, State::HalfOpen, State::Open].into_iter().find(|state| state.word() == made.to);
            let to = format!("{:<9}", made.to);
            let to = state.map_or_else(|| to.clone(), |state| paint.state(state, &to));
            format!("{}  {:<width$}  {to}  {}", paint.dim(made.clock()), made.proxy, made.cause())
        };
        self.transitions.iter().map(line).collect()
    }

    fn counts(&self) -> Vec<String> {
        let Upstream { trips, failures, calls, ejected, .. } = &self.upstream;
        let mut lines = Vec::new();
        for (title, counts) in [("trips", trips), ("failures", failures), ("calls", calls)] {
            let sizes: Vec<_> = by_size(counts).iter().map(|(word, count)| format!("{word} {count}")).collect();
            if !sizes.is_empty() {
                lines.push(format!("{title:<9} {}", sizes.join(", ")));
            }
        }
        if let Some(hosts) = ejected {
            lines.push(format!("{:<9} {hosts} of its hosts now (outlier detection)", "ejected"));
        }
        lines
    }
}
