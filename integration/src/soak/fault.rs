//! What befalls an upstream.

use std::time::Duration;

/// What an upstream does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers well and at once.
    Healthy,
    /// Answers with a 5xx, or with UNAVAILABLE.
    Errors,
    /// Resets the connection, or HTTP/2's stream.
    Reset,
    /// Never answers.
    Hang,
    /// Listens no longer.
    Refuse,
    /// Answers well after [`SLOW`].
    Slow,
    /// HTTP/2: tells its connection to go away, and then closes it under the requests that wait.
    GoAway,
}

impl Fault {
    /// The word for pictures.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Fault::Healthy => "healthy",
            Fault::Errors => "5xx",
            Fault::Reset => "reset",
            Fault::Hang => "hang",
            Fault::Refuse => "refuse",
            Fault::Slow => "slow",
            Fault::GoAway => "GOAWAY",
        }
    }
}

/// Time to the first byte of a slow answer: over every policy's `slowCallDuration`.
pub const SLOW: Duration = Duration::from_millis(1300);
