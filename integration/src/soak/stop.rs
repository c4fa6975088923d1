//! How the parts of a round are told to end.

use std::time::Duration;

use tokio::sync::watch;

/// Whether to go on.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Tells all that hold the other end.
#[derive(Debug)]
pub struct Teller(watch::Sender<bool>);

/// A word and who waits for it.
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
    /// Whether the word was given, or can be given no longer.
    #[must_use]
    pub fn is_told(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for so long, or until the word is given. False: it was.
    pub async fn pause(&mut self, lasts: Duration) -> bool {
        let told = self.0.wait_for(|told| *told);
        tokio::time::timeout(lasts, told).await.is_err()
    }
}
