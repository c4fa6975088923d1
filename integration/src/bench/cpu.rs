//! Processor time of a request, and what clients see, under full load.
//!
//! Envoy is on one core; nginx and wrk are on another. The variants take turns of a second each, for many rounds, so
//! that a disturbance of the machine hits all of them. Of a variant's rounds the lower quartile counts, since a
//! disturbance only ever adds. The variants with a healthy upstream are listeners of one Envoy: the place of its code
//! and heap in memory changes a tenth of a request's time from one process to the next, more than a filter adds. A
//! variant that needs a circuit in a state of its own has an Envoy of its own. What filters add is compared in many
//! more and shorter turns ([`Ratio`]).

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::load::{self, Load};
use super::nginx::Nginx;
use super::process::{Core, cpu_time, resident};
use super::ratio::Ratio;
use super::variant::Variant;
use crate::bootstrap::{Bootstrap, Cluster};
use crate::client;
use crate::envoy::{Envoy, tool};
use crate::wait::until;

/// Rounds in which all variants take their turns, and the seconds of a turn. A first round warms up and is not
/// counted.
const ROUNDS: usize = 10;
const TURN: u32 = 1;

/// The variants that are compared, and the requests of a turn. A turn lasts an eighth of a second: whatever slows
/// this machine down lasts longer.
const COMPARED: [Variant; 4] = [Variant::None, Variant::Empty, Variant::Lua, Variant::Closed];
const SHORT_TURN: u32 = 2000;

/// Rounds of one Envoy, before another takes its place: so no single placement in memory decides.
const ROUNDS_OF_ONE: usize = 60;

/// How narrow the ratio's interval is to be, and the largest number of Envoys, which takes 6 minutes. After these the
/// interval is what it is.
const SURE: f64 = 0.2;
const MOST_ENVOYS: usize = 10;

/// The cost of a request with a variant.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The filter before the router.
    pub variant: Variant,
    /// Envoy's processor time of a request, in microseconds.
    pub cpu: f64,
    /// Requests a second. This figure and the rest are the median of all rounds.
    pub rate: f64,
    /// Share of the requests that are rejected.
    pub refused: f64,
    /// Waiting in milliseconds.
    pub p50: f64,
    /// As above.
    pub p99: f64,
    /// As above.
    pub p999: f64,
    /// Memory of an Envoy with nothing else after a turn, in MB.
    pub resident: f64,
}

/// Processor time that the breaker adds in CLOSED, against what others add.
#[derive(Clone, Copy, Debug)]
pub struct Added {
    /// The empty filter.
    pub against_empty: Ratio,
    /// Lua doing a breaker's least.
    pub against_lua: Ratio,
}

struct Proxy {
    variant: Variant,
    envoy: Arc<Envoy>,
    resident: f64,
    rounds: Vec<(f64, Load)>,
}

/// All variants in turns.
///
/// # Errors
/// nginx or wrk is not installed, an Envoy does not start, or a circuit is not in the state that is to be measured.
pub async fn measure() -> Result<Vec<Cost>> {
    let nginx = Nginx::start().await?;
    let well: Vec<Variant> = Variant::ALL.into_iter().filter(|variant| !variant.trips()).collect();
    let shared = Arc::new(start(&well, &nginx).await?);
    let mut proxies = Vec::new();
    for variant in Variant::ALL {
        let mut proxy = Proxy::start(variant, &nginx).await?;
        proxy.turn().await?;
        proxy.resident = resident(proxy.envoy.pid())?;
        if !variant.trips() {
            proxy.envoy = Arc::clone(&shared);
        }
        proxies.push(proxy);
    }
    for round in 0..=ROUNDS {
        for proxy in &mut proxies {
            let turn = proxy.turn().await?;
            if round > 0 {
                proxy.rounds.push(turn);
            }
        }
    }
    proxies.iter().map(Proxy::cost).collect()
}

/// [`COMPARED`] in turns, each in Envoys that have nothing else, and with no other process beside them.
///
/// # Errors
/// nginx or h2load is not installed, or Envoy does not start.
pub async fn compare() -> Result<Added> {
    let nginx = Nginx::start().await?;
    let (mut empty, mut lua) = (Vec::new(), Vec::new());
    for _ in 0..MOST_ENVOYS {
        let envoy = start(&COMPARED, &nginx).await?;
        round(&envoy, false).await?;
        for number in 0..ROUNDS_OF_ONE {
            let [none, with_empty, with_lua, closed] = round(&envoy, number % 2 == 0).await?;
            empty.push((closed - none, with_empty - none));
            lua.push((closed - none, with_lua - none));
        }
        if Ratio::of(&empty).width() <= SURE {
            break;
        }
    }
    Ok(Added { against_empty: Ratio::of(&empty), against_lua: Ratio::of(&lua) })
}

/// A turn of each variant, in this order or the reverse one: a steady change is then the same for all.
async fn round(envoy: &Envoy, back: bool) -> Result<[f64; COMPARED.len()]> {
    let mut times = [0.0; COMPARED.len()];
    for turn in 0..COMPARED.len() {
        let at = if back { COMPARED.len() - 1 - turn } else { turn };
        times[at] = short_turn(envoy, COMPARED[at]).await?;
    }
    Ok(times)
}

/// Microseconds of processor time of a request.
async fn short_turn(envoy: &Envoy, variant: Variant) -> Result<f64> {
    let before = cpu_time(envoy.pid())?;
    load::short(envoy.address(variant.name()), "/", SHORT_TURN).await?;
    Ok(cpu_time(envoy.pid())?.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(SHORT_TURN))
}

async fn start(variants: &[Variant], nginx: &Nginx) -> Result<Envoy> {
    let clusters = vec![Cluster::new("nginx", nginx.address())];
    let listeners = variants.iter().map(|variant| variant.listener()).collect();
    let bootstrap = Bootstrap { bare: true, ..Bootstrap::new(clusters, listeners) };
    Envoy::start_by(bootstrap, 1, Core::Measured.command(&tool("envoy")?)).await
}

impl Proxy {
    async fn start(variant: Variant, nginx: &Nginx) -> Result<Proxy> {
        let envoy = Arc::new(start(&[variant], nginx).await?);
        let proxy = Proxy { variant, envoy, resident: 0.0, rounds: Vec::new() };
        if variant.trips() {
            proxy.trip().await?;
        }
        Ok(proxy)
    }

    async fn trip(&self) -> Result<()> {
        let to = self.envoy.address(self.variant.name());
        for _ in 0..5 {
            client::get(to, "/fail").await?;
        }
        if self.variant == Variant::Ramp {
            // OPEN is over soon. Then one good probe begins the ramp.
            let ask = || async { client::get(to, "/").await.map_or(0, |reply| reply.status) };
            until("a good probe", ask, |status| *status == 200).await;
        }
        let state = self.envoy.metric("circuit_breaker_state", "nginx", "").await?;
        let wanted = if self.variant == Variant::Ramp { 1 } else { 2 };
        ensure!(
            state == wanted,
            "{}: the circuit's state is {state} where it was to be {wanted}",
            self.variant.title()
        );
        Ok(())
    }

    /// Microseconds of processor time of a request, and the rest.
    async fn turn(&self) -> Result<(f64, Load)> {
        let before = cpu_time(self.envoy.pid())?;
        let load = load::full(self.envoy.address(self.variant.name()), "/", TURN).await?;
        let spent = cpu_time(self.envoy.pid())?.saturating_sub(before);
        Ok((spent.as_secs_f64() * 1e6 / load.requests, load))
    }

    fn cost(&self) -> Result<Cost> {
        let at = |mut values: Vec<f64>, quarter: usize| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() * quarter / 4).copied().context("no rounds")
        };
        let of = |value: fn(&(f64, Load)) -> f64, quarter: usize| at(self.rounds.iter().map(value).collect(), quarter);
        Ok(Cost {
            variant: self.variant,
            cpu: of(|round| round.0, 1)?,
            rate: of(|round| round.1.rate, 2)?,
            refused: of(|round| round.1.refused, 2)?,
            p50: of(|round| round.1.p50, 2)?,
            p99: of(|round| round.1.p99, 2)?,
            p999: of(|round| round.1.p999, 2)?,
            resident: self.resident,
        })
    }
}
