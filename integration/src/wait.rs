//! Waiting on conditions.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Long enough for a loaded machine, short enough to fail a broken test soon.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `look` until `good` says yes, and returns what was seen then.
///
/// # Panics
/// After [`PATIENCE`]. The message has what was waited for, and what was seen last.
pub async fn until<T: Debug, F: Future<Output = T>>(
    what: &str,
    mut look: impl FnMut() -> F,
    good: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look().await;
        if good(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}; last seen: {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
