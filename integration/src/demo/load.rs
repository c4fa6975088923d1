//! Steady load: requests leave at their times, however slow the earlier ones are, as with users.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Side;
use crate::client;

/// Requests a second and side.
pub const RATE: u32 = 100;

/// What became of one request.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Which way it went.
    pub side: Side,
    /// When it was sent, from the start of the load.
    pub sent: Duration,
    /// How long its client waited.
    pub waited: Duration,
    /// The status; 0 for no answer.
    pub status: u16,
    /// The breaker answered.
    pub rejected: bool,
}

impl Record {
    /// Whether its client got what it asked for.
    #[must_use]
    pub fn is_good(&self) -> bool {
        (200..400).contains(&self.status)
    }
}

/// All requests so far.
#[derive(Clone, Debug, Default)]
pub struct Records(Arc<Mutex<Vec<Record>>>);

impl Records {
    /// The requests that are answered.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    #[must_use]
    pub fn all(&self) -> Vec<Record> {
        self.0.lock().expect("no holder panics").clone()
    }

    fn add(&self, record: Record) {
        self.0.lock().expect("no holder panics").push(record);
    }
}

/// Sends requests to one side for this long, and ends when the last one is answered.
pub async fn run(side: Side, to: SocketAddr, start: Instant, length: Duration, records: Records) {
    let mut beat = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut under_way = tokio::task::JoinSet::new();
    while start.elapsed() < length {
        beat.tick().await;
        let records = records.clone();
        under_way.spawn(async move {
            let sent = start.elapsed();
            let reply = client::get(to, side.path()).await;
            let (status, rejected) = reply.map_or((0, false), |reply| (reply.status, reply.is_rejection()));
            records.add(Record { side, sent, waited: start.elapsed() - sent, status, rejected });
        });
    }
    under_way.join_all().await;
}
