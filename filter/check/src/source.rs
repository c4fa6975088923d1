//! Where a fleet's metrics come from: files and addresses, Prometheus, or the proxies of a cluster.

pub mod cluster;
pub mod http;
pub mod prometheus;
pub mod stats;

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Proxies that are asked at once. More do not answer sooner: they share one way through the API server.
pub const AT_ONCE: usize = 64;

/// How long a proxy may take to answer, where nobody says otherwise. A page of a large gateway takes one or two seconds.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Unix time, in seconds.
#[must_use]
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// How many proxies have answered, on standard error while a person waits.
#[derive(Debug)]
pub struct Progress {
    all: usize,
    done: AtomicUsize,
    shown: bool,
}

impl Progress {
    /// Of so many. A screen that is redrawn shows none.
    #[must_use]
    pub fn of(all: usize, quiet: bool) -> Progress {
        Progress { all, done: AtomicUsize::new(0), shown: !quiet && std::io::stderr().is_terminal() }
    }

    /// One more has answered, or never will.
    pub fn one_more(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.shown {
            let _ = write!(std::io::stderr(), "\r{done} of {} proxies\x1b[K", self.all);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
