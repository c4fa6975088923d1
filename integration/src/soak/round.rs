//! One round: trouble for a while, then health, until all circuits are CLOSED and no request is under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::chance::Chance;
use super::counters::Counters;
use super::evidence::Round;
use super::fault::Fault;
use super::journal::Span;
use super::stage::Stage;
use super::stop::{Stop, stop};
use super::updates::{Limit, Updates};
use crate::wait::PATIENCE;

/// What happens in a round.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// Faults and updates at random, for this long.
    Faults(Duration),
    /// A module that traps, while a circuit is not CLOSED.
    Trap,
}

/// Which round it is, and its settings beside the trouble.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Its number, from 1.
    pub number: usize,
    /// The run's seed.
    pub seed: u64,
    /// Circuits that the module may hold.
    pub limit: Limit,
    /// Some of the upstreams that come and go are sick.
    pub sick_names: bool,
}

impl Plan {
    fn chance(&self, part: &str) -> Chance {
        Chance::of(self.seed, &format!("round {} {part}", self.number))
    }
}

/// How long traffic goes on after all circuits have closed: while all are CLOSED the module takes another path.
const CALM: Duration = Duration::from_secs(2);

impl Stage {
    /// Makes a round.
    ///
    /// # Errors
    /// Envoy does not answer, or does not come to rest.
    pub async fn round(&self, plan: Plan, trouble: Trouble, updates: &mut Updates<'_>) -> Result<Round> {
        let (before, seen_before) = self.standing().await?;
        let from = self.journal.now();
        let (teller, told) = stop();
        let story = async {
            match trouble {
                Trouble::Faults(lasts) => self.faults(plan, lasts, updates).await?,
                Trouble::Trap => self.trap(plan, updates).await?,
            }
            self.until_closed().await?;
            tokio::time::sleep(CALM).await;
            self.journal.with(|entries| entries.traffic.push(Span { from, to: self.journal.now() }));
            teller.tell();
            Ok(())
        };
        tokio::try_join!(story, self.send(plan, told.clone()), self.names(plan, told.clone()))?;
        let lines = self.until_quiet().await?;
        let (after, mut seen) = self.standing().await?;
        for (upstream, seen) in &mut seen {
            *seen -= seen_before.get(upstream).copied().unwrap_or(0);
        }
        let span = Span { from, to: self.journal.now() };
        let traps = matches!(trouble, Trouble::Trap);
        Ok(Round { number: plan.number, span, before, after, seen, lines, traps })
    }

    /// The metrics, and what each upstream has seen.
    async fn standing(&self) -> Result<(Counters, BTreeMap<String, u64>)> {
        let mut seen = BTreeMap::new();
        for target in &self.targets {
            seen.insert(target.name.to_owned(), target.seen().await);
        }
        Ok((self.counters().await?, seen))
    }

    async fn faults(&self, plan: Plan, lasts: Duration, updates: &mut Updates<'_>) -> Result<()> {
        let (teller, told) = stop();
        let mut flips = JoinSet::new();
        for target in &self.targets {
            let (target, journal, told) = (Arc::clone(target), Arc::clone(&self.journal), told.clone());
            let chance = plan.chance(target.name);
            flips.spawn(async move { target.flip(chance, told, &journal).await });
        }
        let time = async {
            tokio::time::sleep(lasts).await;
            teller.tell();
            Ok(())
        };
        tokio::try_join!(time, updates.go_on(plan.limit, told))?;
        for flipped in flips.join_all().await {
            flipped?;
        }
        updates.calm(plan.limit).await
    }

    /// Lets one upstream fail. It then gives Envoy the module that traps where a gRPC answer has trailers (all
    /// answers of `u8` have), and takes that module back.
    async fn trap(&self, plan: Plan, updates: &mut Updates<'_>) -> Result<()> {
        let mut chance = plan.chance("trap");
        self.targets[0].behave(Fault::Errors, &mut chance, &self.journal).await?;
        self.until_stats(|counters| counters.get("circuit_breaker_state", self.targets[0].name, "") != 0).await?;
        let before = self.reloads().await?;
        updates.trap(&self.faulty, plan.limit).await?;
        let deadline = Instant::now() + PATIENCE;
        while self.reloads().await? == before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        updates.calm(plan.limit).await?;
        self.targets[0].behave(Fault::Healthy, &mut chance, &self.journal).await
    }

    /// Waits until the metrics meet a condition, or for too long.
    async fn until_stats(&self, are_so: impl Fn(&Counters) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !are_so(&self.counters().await?) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn send(&self, plan: Plan, told: Stop) -> Result<()> {
        let mut senders = JoinSet::new();
        for target in &self.targets {
            let chance = plan.chance(&format!("clients of {}", target.name));
            senders.spawn(self.clients().send_to(target.name, target.protocol, chance, told.clone()));
        }
        senders.join_all().await;
        Ok(())
    }

    async fn names(&self, plan: Plan, told: Stop) -> Result<()> {
        let clients = self.clients();
        let sending = async {
            self.churn.send(&clients, plan.chance("clients of names"), told.clone()).await;
            Ok(())
        };
        tokio::try_join!(self.churn.turn(plan.sick_names, plan.chance("names"), told.clone()), sending)?;
        Ok(())
    }
}
