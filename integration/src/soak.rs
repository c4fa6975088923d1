//! A long run in which everything happens at once: eight upstreams that fall sick and get well, clients of all kinds,
//! configurations good and bad, scrapes, upstreams that come and go, and a VM that traps.
//!
//! A run is a row of [`round`]s. In each round faults and updates come at random for a while. Then all upstreams get
//! well, their circuits must close, and the clients rest. So no request is under way, and the books can be balanced.
//! [`invariants`] say what must hold; [`picture`] and [`report`] show what was seen.

pub mod chance;
pub mod churn;
pub mod counters;
pub mod evidence;
pub mod fault;
pub mod http2;
pub mod invariants;
pub mod journal;
pub mod log;
pub mod picture;
pub mod report;
pub mod round;
pub mod stage;
pub mod stop;
pub mod traffic;
pub mod updates;
pub mod upstreams;
pub mod watch;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

pub use crate::scenario::LISTENER;

use evidence::Evidence;
use stage::Stage;
use stop::stop;
use updates::{Limit, Updates};

/// Worker threads of Envoy. There are several, to test one breaker over all of them.
pub const WORKERS: u32 = 4;

/// The length of a run, and its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time of the whole run, more or less: the last round ends when its circuits are CLOSED.
    pub lasts: Duration,
    /// The seed of all chance.
    pub seed: u64,
}

/// Time of a run by default.
const LASTS: u64 = 600;

/// The usual length of a round, with faults and rest.
const ROUND: u64 = 60;

/// Time of a round that goes to the rest.
const REST: Duration = Duration::from_secs(15);

/// Faults come for this long at least, however short the run is.
const LEAST: Duration = Duration::from_secs(5);

/// Circuits that the module may hold in the first half of a run, and in the second. Names come faster than circuits
/// end, so both limits are reached. The second one leaves room for circuits that never close, since their upstreams
/// go while they are sick.
const LIMITS: [Limit; 2] = [Limit(48), Limit(64)];

impl Settings {
    /// Reads `SOAK_SECONDS` and `SOAK_SEED`. The default seed is the time of day.
    ///
    /// # Errors
    /// One of them is not a number.
    pub fn from_environment() -> Result<Settings> {
        let number = |name: &str| match std::env::var(name) {
            Ok(text) if !text.is_empty() => {
                text.parse().map(Some).with_context(|| format!("{name}={text}: not a number"))
            }
            _ => Ok(None),
        };
        let today = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_micros()));
        let seconds = number("SOAK_SECONDS")?.unwrap_or(LASTS);
        Ok(Settings { lasts: Duration::from_secs(seconds), seed: number("SOAK_SEED")?.unwrap_or(today) })
    }

    /// Rounds, without the one with the trap. There are at least two, so that the books after the trap are balanced
    /// too.
    fn rounds(self) -> u32 {
        u32::try_from((self.lasts.as_secs() + ROUND / 2) / ROUND).unwrap_or(u32::MAX).max(2)
    }

    /// Time of a round in which faults come.
    fn faults(self) -> Duration {
        (self.lasts / self.rounds()).saturating_sub(REST).max(LEAST)
    }
}

/// Makes the run on a stage that is set.
///
/// # Errors
/// Envoy ends, does not answer, or does not come to rest.
pub async fn perform(stage: &Stage, settings: Settings) -> Result<Evidence> {
    let (teller, told) = stop();
    let rounds = async {
        let rounds = rounds(stage, settings).await;
        teller.tell();
        rounds
    };
    let watching = watch::watch(&stage.envoy, &stage.journal, told.clone());
    let stalls = async {
        watch::notice_stalls(&stage.journal, told.clone()).await;
        Ok(())
    };
    let (evidence, (), ()) = tokio::try_join!(rounds, watching, stalls)?;
    stage.complete(evidence).await
}

async fn rounds(stage: &Stage, settings: Settings) -> Result<Evidence> {
    let mut updates = Updates::new(&stage.envoy, &stage.journal, settings.seed);
    let mut evidence = Evidence { workers: WORKERS, limit: LIMITS[1].0, ..Evidence::default() };
    stage.warm_up().await?;
    for number in 1..=settings.rounds() {
        let late = number > settings.rounds() / 2;
        let limit = LIMITS[usize::from(late)];
        let plan = round::Plan { number: evidence.rounds.len() + 1, seed: settings.seed, limit, sick_names: late };
        let faults = stage.round(plan, round::Trouble::Faults(settings.faults()), &mut updates).await?;
        evidence.rounds.push(faults);
        if number == 1 {
            let plan = round::Plan { number: 2, ..plan };
            evidence.rounds.push(stage.round(plan, round::Trouble::Trap, &mut updates).await?);
        }
    }
    Ok(evidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_about_the_time_that_it_is_given() {
        for (seconds, rounds, faults) in [(600, 10, 45), (120, 2, 45), (90, 2, 30), (20, 2, 5)] {
            let settings = Settings { lasts: Duration::from_secs(seconds), seed: 1 };
            assert_eq!((settings.rounds(), settings.faults().as_secs()), (rounds, faults), "{seconds} s");
        }
    }
}
