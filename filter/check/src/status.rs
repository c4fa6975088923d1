//! `circuit-breaker status`: the breakers of a whole fleet, the most harmed upstream first.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::fleet::{Fleet, Round};
use crate::look::State;
use crate::paint::Paint;
use crate::report::{Filter, StateWord, by_harm, document};
use crate::source::cluster::{Access, Cluster};
use crate::source::prometheus::Prometheus;
use crate::source::stats::Pages;
use crate::table::{Style, table};
use crate::watch;

/// What to ask, and how to show it.
#[derive(Args, Debug)]
pub struct Status {
    #[command(flatten)]
    source: Source,
    /// Only upstreams of this namespace
    #[arg(long, short)]
    namespace: Option<String>,
    /// Only upstreams with this host: whole, its first label, or `*.example.com`
    #[arg(long)]
    host: Option<String>,
    /// Only upstreams whose worst state is this
    #[arg(long)]
    state: Option<StateWord>,
    /// List upstreams that are well, too
    #[arg(long)]
    all: bool,
    /// How to print it
    #[arg(long, short, default_value = "table")]
    output: Output,
    /// Look again every two seconds, until q
    #[arg(long, conflicts_with = "output")]
    watch: bool,
    /// End with 1 where an upstream is so, or worse
    #[arg(long, value_name = "STATE")]
    fail_on: Option<FailOn>,
}

/// Where the metrics come from. Without any of these it is the cluster of the kubeconfig.
#[derive(Args, Debug)]
pub struct Source {
    /// A page of /stats/prometheus: a file or an address; repeat it for more proxies
    #[arg(long, value_name = "FILE_OR_URL")]
    stats: Vec<String>,
    /// Ask this Prometheus
    #[arg(long, value_name = "URL", conflicts_with = "stats")]
    prometheus: Option<String>,
    /// A file with the bearer token for Prometheus
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
    /// Seconds that a proxy may take to answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// For programs that like it better
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Open,
    HalfOpen,
}

/// Time between two looks: long enough for a rate, short enough to wait for.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Where the metrics come from, ready to be asked.
pub enum Asked {
    /// Pages.
    Pages(Pages),
    /// A cluster.
    Cluster(Box<Cluster>),
    /// A Prometheus.
    Prometheus(Prometheus),
}

impl Source {
    /// Whether metrics are to come from a cluster.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        self.stats.is_empty() && self.prometheus.is_none()
    }

    /// Whether somebody has said which cluster.
    #[must_use]
    pub fn names_a_cluster(&self) -> bool {
        self.access.kubeconfig.is_some() || self.access.context.is_some()
    }

    /// Gets ready.
    ///
    /// # Errors
    /// There is no way to the cluster, or the token cannot be read.
    pub async fn ready(&self) -> Result<Asked> {
        let patience = Duration::from_secs(self.timeout);
        if let Some(base) = &self.prometheus {
            let token = self.token_file.as_ref().map(|file| {
                let token = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
                anyhow::Ok(token.trim().to_owned())
            });
            return Ok(Asked::Prometheus(Prometheus::new(base, token.transpose()?, patience)));
        }
        if !self.stats.is_empty() {
            return Ok(Asked::Pages(Pages::new(self.stats.clone(), patience)));
        }
        Ok(Asked::Cluster(Box::new(Cluster::reach(&self.access, patience).await?)))
    }
}

impl Asked {
    /// The fleet, with rates: by two looks where the source does not remember.
    ///
    /// # Errors
    /// The source cannot be asked, or no proxy of it answers.
    pub async fn fleet(&self) -> Result<Fleet> {
        if let Asked::Prometheus(prometheus) = self {
            return prometheus.fleet().await;
        }
        let first = self.round(false).await?;
        let changes = !matches!(self, Asked::Pages(pages) if !pages.change());
        let fleet = if changes && first.proxies.iter().any(|(_, look)| look.is_ok()) {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            Fleet::of(Some(&first), &self.round(false).await?)
        } else {
            Fleet::of(None, &first)
        };
        let why = fleet.unreachable.first().map(|(proxy, why)| format!("{proxy}: {why}"));
        ensure!(fleet.proxies > 0 || why.is_none(), "no proxy answers; {}", why.unwrap_or_default());
        Ok(fleet)
    }

    /// One look; a rate needs an earlier one.
    ///
    /// # Errors
    /// As [`Asked::fleet`].
    pub async fn fleet_since(&self, earlier: &mut Option<Round>) -> Result<Fleet> {
        if let Asked::Prometheus(prometheus) = self {
            return prometheus.fleet().await;
        }
        let round = self.round(true).await?;
        let fleet = Fleet::of(earlier.as_ref(), &round);
        *earlier = Some(round);
        Ok(fleet)
    }

    async fn round(&self, quiet: bool) -> Result<Round> {
        match self {
            Asked::Pages(pages) => Ok(pages.round(quiet).await),
            Asked::Cluster(cluster) => cluster.round(quiet).await,
            Asked::Prometheus(_) => bail!("Prometheus has no pages of proxies"),
        }
    }
}

impl Status {
    /// Asks and prints. Whether all is as `--fail-on` wants it.
    ///
    /// # Errors
    /// It could not be asked.
    pub async fn run(&self) -> Result<bool> {
        let source = self.source.ready().await?;
        let filter = Filter { namespace: self.namespace.clone(), host: self.host.clone(), state: self.state };
        let fleet = if self.watch {
            watch::until_quit(&source, &filter, self.all).await?
        } else {
            let fleet = source.fleet().await?;
            print!("{}", shown(&fleet, &filter, self.output, self.all)?);
            fleet
        };
        ensure!(fleet.proxies > 0 || !fleet.upstreams.is_empty(), "there is no proxy");
        let worst = by_harm(&fleet, &filter).iter().map(|(_, upstream)| upstream.state()).max();
        Ok(match self.fail_on {
            None => true,
            Some(FailOn::Open) => worst < Some(State::Open),
            Some(FailOn::HalfOpen) => worst < Some(State::HalfOpen),
        })
    }
}

fn shown(fleet: &Fleet, filter: &Filter, output: Output, all: bool) -> Result<String> {
    if output != Output::Table {
        return written(&document(fleet, filter), output);
    }
    let width = crossterm::terminal::size().map_or(usize::MAX, |(columns, _)| usize::from(columns));
    let paint = Paint::of_stdout();
    // What goes into a file or another program is not cut.
    let width = if std::io::IsTerminal::is_terminal(&std::io::stdout()) { width } else { usize::MAX };
    Ok(table(fleet, filter, Style { paint, width, rows: usize::MAX, all }))
}

/// A document as programs want it.
///
/// # Errors
/// Never: the documents are plain.
pub fn written(document: &Value, output: Output) -> Result<String> {
    Ok(match output {
        Output::Yaml => serde_yaml_ng::to_string(document)?,
        Output::Json | Output::Table => serde_json::to_string_pretty(document)? + "\n",
    })
}
