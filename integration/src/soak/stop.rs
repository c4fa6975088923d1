//! How the parts of a round are told to end.

use std::time::Duration;

use tokio::sync::watch;

/// Whether to go on.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Tells all holders of the other end.
#[derive(Debug)]
pub struct Teller(watch::Sender<bool>);

/// A signal to end: the half that gives it, and the half that waits for it.
#[must_use]
pub fn stop() -> (Teller, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Teller(sender), Stop(receiver))
}

impl Teller {
    /// All are to end.
    pub fn tell(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether the signal was given, or can no longer be given.
    #[must_use]
    pub fn is_told(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for this long, or until the signal is given. False: it was given.
    pub async fn pause(&mut self, lasts: Duration) -> bool {
        let told = self.0.wait_for(|told| *told);
        tokio::time::timeout(lasts, told).await.is_err()
    }
}
