//! A fleet by what Prometheus has of it.
//!
//! Prometheus counts the proxies itself, so that the answer has a row for each upstream and not one for each circuit: a
//! mesh of a thousand proxies has a million of those.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::http::Http;
use super::now;
use crate::fleet::{Fleet, Upstream};
use crate::look::{Counts, State, mode_of, upstream_of};

/// A Prometheus, or what speaks its HTTP API.
#[derive(Debug)]
pub struct Prometheus {
    base: String,
    http: Http,
}

/// What tells one proxy from another, by whichever job scrapes it.
const PROXY: &str = "namespace, pod, instance";

/// Time over which rates are taken: four scrapes of the usual 15 s.
const RATE: &str = "1m";

/// How far back it looks for the last time when an upstream was well.
const MEMORY: &str = "6h";

/// One series of an answer.
struct Series {
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Series {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Prometheus {
    /// At this address, with a bearer token where it asks for one.
    #[must_use]
    pub fn new(base: &str, token: Option<String>, patience: Duration) -> Prometheus {
        Prometheus { base: base.trim_end_matches('/').to_owned(), http: Http::new(token, patience) }
    }

    /// The fleet now.
    ///
    /// # Errors
    /// Prometheus does not answer, or refuses a query.
    pub async fn fleet(&self) -> Result<Fleet> {
        let mut fleet = Fleet { at: now(), ..Fleet::default() };
        self.states(&mut fleet).await?;
        self.counters(&mut fleet).await?;
        self.proxies(&mut fleet).await?;
        Ok(fleet)
    }

    async fn states(&self, fleet: &mut Fleet) -> Result<()> {
        for series in self.ask("count_values by (tag) (\"state\", circuit_breaker_state)").await? {
            let upstream = upstream(fleet, &series);
            let proxies = match State::of(series.label("state").parse().unwrap_or(0.0)) {
                State::Open => &mut upstream.open,
                State::HalfOpen => &mut upstream.half_open,
                State::Closed => &mut upstream.closed,
            };
            *proxies += whole(series.value);
        }
        for series in self.ask("min by (tag) (circuit_breaker_open_until_seconds > 0)").await? {
            let at = fleet.at;
            upstream(fleet, &series).open_until = Some(series.value.max(at));
        }
        // A circuit that enforces has no such gauge.
        for series in self.ask("count_values by (tag) (\"mode\", circuit_breaker_mode)").await? {
            upstream(fleet, &series).modes.insert(mode_of(series.label("mode").parse().unwrap_or(0.0)));
        }
        let enforce =
            "count by (tag) (circuit_breaker_state unless on (tag, namespace, pod, instance) circuit_breaker_mode)";
        for series in self.ask(enforce).await? {
            upstream(fleet, &series).modes.insert(0);
        }
        let sick = "max by (tag) (circuit_breaker_state) > 0";
        let well = format!(
            "max_over_time(timestamp(max by (tag) (circuit_breaker_state) == 0)[{MEMORY}:30s]) and on (tag) ({sick})"
        );
        for series in self.ask(&well).await? {
            upstream(fleet, &series).since = Some(series.value);
        }
        Ok(())
    }

    async fn counters(&self, fleet: &mut Fleet) -> Result<()> {
        type Field = fn(&mut Upstream) -> &mut Counts;
        let counters: [(&str, Field); 3] = [
            ("circuit_breaker_trips_total", |upstream| &mut upstream.trips),
            ("circuit_breaker_calls_total", |upstream| &mut upstream.calls),
            ("circuit_breaker_failures_total", |upstream| &mut upstream.failures),
        ];
        for (metric, field) in counters {
            for series in self.ask(&format!("sum by (tag, component) ({metric})")).await? {
                field(upstream(fleet, &series)).insert(series.label("component").to_owned(), series.value);
            }
        }
        // An upstream that never rejected has no such series, and its rate is known all the same.
        for upstream in fleet.upstreams.values_mut() {
            (upstream.rejected_per_second, upstream.would_reject_per_second) = (Some(0.0), Some(0.0));
        }
        for series in self.ask(&format!("sum by (tag) (rate(circuit_breaker_rejected_total[{RATE}]))")).await? {
            upstream(fleet, &series).rejected_per_second = Some(series.value);
        }
        for series in self.ask(&format!("sum by (tag) (rate(circuit_breaker_would_reject_total[{RATE}]))")).await? {
            upstream(fleet, &series).would_reject_per_second = Some(series.value);
        }
        for series in self.ask("max by (cluster_name) (envoy_cluster_outlier_detection_ejections_active)").await? {
            if let Some(upstream) = fleet.upstreams.get_mut(series.label("cluster_name")) {
                upstream.ejected = Some(series.value);
            }
        }
        Ok(())
    }

    async fn proxies(&self, fleet: &mut Fleet) -> Result<()> {
        let protected = format!("max by ({PROXY}) (circuit_breaker_circuits)");
        let all = format!("(max by ({PROXY}) (envoy_server_live) or {protected})");
        fleet.proxies = self.ask(&format!("count({all})")).await?.first().map_or(0, |series| whole(series.value));
        for series in self.ask(&format!("{all} unless on ({PROXY}) {protected}")).await? {
            fleet.unprotected.push(proxy(&series));
        }
        for series in self.ask("count by (component, tag) (circuit_breaker_info == 1)").await? {
            *fleet.policies.entry(series.label("component").to_owned()).or_default() += whole(series.value);
            *fleet.modules.entry(series.label("tag").to_owned()).or_default() += whole(series.value);
        }
        for series in
            self.ask("up{pod!=\"\"} == 0 and on (namespace, pod) max_over_time(envoy_server_live[1h])").await?
        {
            fleet.unreachable.push((proxy(&series), "the last scrape failed".to_owned()));
        }
        Ok(())
    }

    async fn ask(&self, query: &str) -> Result<Vec<Series>> {
        let encoded = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let page = self.http.get(&format!("{}/api/v1/query?query={encoded}", self.base)).await;
        let page = page.with_context(|| format!("{} does not answer {query}", self.base))?;
        let answer: Value = serde_json::from_str(&page).with_context(|| format!("{} is no Prometheus", self.base))?;
        ensure!(answer["status"] == "success", "{} refuses {query}: {}", self.base, answer["error"]);
        let series = answer["data"]["result"].as_array().into_iter().flatten().map(|series| Series {
            labels: serde_json::from_value(series["metric"].clone()).unwrap_or_default(),
            value: series["value"][1].as_str().and_then(|value| value.parse().ok()).unwrap_or(0.0),
        });
        Ok(series.collect())
    }
}

fn upstream<'a>(fleet: &'a mut Fleet, series: &Series) -> &'a mut Upstream {
    fleet.upstreams.entry(upstream_of(series.label("tag"))).or_default()
}

/// A proxy by its pod, or by its address where the scrape knows no pods.
fn proxy(series: &Series) -> String {
    match series.label("pod") {
        "" => series.label("instance").to_owned(),
        pod => format!("{}/{pod}", series.label("namespace")),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    value as u64
}
