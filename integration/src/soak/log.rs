//! What Envoy wrote: transitions with their times, critical lines, and a line for each request.

use serde_json::Value;

use super::journal::{At, Journal, Span};
use super::traffic::NAMED;
use crate::scenario::State;

/// Envoy's own log, with seconds since 1970 to the microsecond so that no time zone matters; then level and
/// component.
pub const FORMAT: &str = "[%E.%f][%l][%n] %v";

/// The module's text before the JSON of a transition.
const TRANSITION: &str = "circuit_breaker transition ";

/// A transition, as the worker that made it logged it.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// When it was logged: a moment after it was made.
    pub at: At,
    /// Whose circuit.
    pub upstream: String,
    /// Its number in the circuit's life.
    pub generation: u64,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub reason: String,
}

/// The transitions in a log, in the order of their lines.
#[must_use]
pub fn transitions(log: &str, journal: &Journal) -> Vec<Transition> {
    log.lines().filter_map(|line| transition(line, journal)).collect()
}

fn transition(line: &str, journal: &Journal) -> Option<Transition> {
    let (head, json) = line.split_once(TRANSITION)?;
    let told: Value = serde_json::from_str(json).ok()?;
    let text = |field: &str| told[field].as_str().map(str::to_owned);
    Some(Transition {
        at: journal.at(stamp(head)?),
        upstream: text("upstream")?,
        generation: told["generation"].as_u64()?,
        from: state(told["from"].as_str()?)?,
        to: state(told["to"].as_str()?)?,
        reason: text("reason")?,
    })
}

fn state(word: &str) -> Option<State> {
    match word {
        "CLOSED" => Some(State::Closed),
        "HALF_OPEN" => Some(State::HalfOpen),
        "OPEN" => Some(State::Open),
        _ => None,
    }
}

/// Seconds since 1970 at the beginning of a line.
fn stamp(line: &str) -> Option<f64> {
    line.strip_prefix('[')?.split(']').next()?.parse().ok()
}

/// Lines of Envoy's level `critical`, each with its time.
#[must_use]
pub fn critical(log: &str, journal: &Journal) -> Vec<(At, String)> {
    let critical = log.lines().filter(|line| line.split(']').nth(1) == Some("[critical"));
    critical.filter_map(|line| Some((journal.at(stamp(line)?), line.to_owned()))).collect()
}

/// When the module refused a configuration.
#[must_use]
pub fn refused(log: &str, journal: &Journal) -> Vec<At> {
    let refused = log.lines().filter(|line| line.contains("circuit_breaker config refused"));
    refused.filter_map(|line| Some(journal.at(stamp(line)?))).collect()
}

/// A stretch of a circuit's life.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// Its state.
    pub state: State,
    /// From its transition to the next.
    pub span: Span,
    /// Why it came to be.
    pub reason: String,
}

impl Stretch {
    /// Whether a configuration holds it OPEN.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.state == State::Open && self.reason == "forced"
    }
}

/// The life of one circuit from the run's beginning to its `end`. It begins CLOSED.
#[must_use]
pub fn stretches(transitions: &[Transition], upstream: &str, end: At) -> Vec<Stretch> {
    let mut own: Vec<&Transition> = transitions.iter().filter(|seen| seen.upstream == upstream).collect();
    // Two workers may log two transitions in the wrong order.
    own.sort_by_key(|transition| transition.generation);
    let begin = Stretch { state: State::Closed, span: Span { from: 0.0, to: end }, reason: String::new() };
    let mut life = vec![begin];
    for transition in own {
        if let Some(last) = life.last_mut() {
            last.span.to = transition.at;
        }
        let span = Span { from: transition.at, to: end };
        life.push(Stretch { state: transition.to, span, reason: transition.reason.clone() });
    }
    life
}

/// The format of a line of the access log.
#[must_use]
pub fn access_format() -> Value {
    serde_json::json!({
        "path": "%REQ(:PATH)%",
        "status": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "cluster": "%UPSTREAM_CLUSTER_RAW%",
        "start": "%START_TIME(%s.%6f)%",
        "took": "%DURATION%",
    })
}

/// A request, as Envoy's access log has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The number that its client gave it; none where its head never came.
    pub id: Option<u64>,
    /// Where it was to go.
    pub upstream: String,
    /// From its head to its end.
    pub span: Span,
    /// The status that Envoy sent.
    pub status: u64,
    /// Why.
    pub details: String,
    /// Envoy's response flags.
    pub flags: String,
}

impl Line {
    /// Whether the breaker answered it.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        self.details.starts_with("circuit_breaker_open")
    }

    /// Whether it may have been counted as good while its answer went on, and once more when the answer broke off.
    /// The module does so from a second after a good head on.
    #[must_use]
    pub fn may_count_twice(&self) -> bool {
        let broke = self.flags.split(',').any(|flag| matches!(flag, "UC" | "UR" | "UT" | "SI" | "UPE"));
        broke && self.status < 500 && self.span.seconds() >= 1.0
    }
}

/// A line of the access log; `None` for one that is not whole.
#[must_use]
pub fn line(text: &str, journal: &Journal) -> Option<Line> {
    let told: Value = serde_json::from_str(text).ok()?;
    let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
    let path = text("path");
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let first = parts.next().unwrap_or_default();
    let upstream = if first == NAMED { text("cluster") } else { first.to_owned() };
    let from = journal.at(told["start"].as_str()?.parse().ok()?);
    let took = told["took"].as_f64().unwrap_or(0.0) / 1000.0;
    Some(Line {
        id: parts.next().and_then(|id| id.parse().ok()),
        upstream,
        span: Span { from, to: from + took },
        status: told["status"].as_u64().unwrap_or(0),
        details: text("details"),
        flags: text("flags"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"[1000000010.500000][warning][wasm] wasm log guarded-breaker circuit_breaker: circuit_breaker transition {"upstream":"u1","from":"CLOSED","to":"OPEN","reason":"consecutive","generation":1,"open_ms":1}
[1000000011.250000][critical][wasm] oh
[1000000012.000000][warning][wasm] wasm log guarded-breaker circuit_breaker: circuit_breaker transition {"upstream":"u1","from":"OPEN","to":"HALF_OPEN","stage":"probe","reason":"open_over","generation":2}
[1000000012.100000][error][wasm] wasm log guarded-breaker circuit_breaker: circuit_breaker config refused: no
"#;

    #[test]
    fn transitions_come_with_their_times() {
        let journal = Journal::begin();
        let seen = transitions(LOG, &journal);
        assert_eq!(seen.len(), 2);
        assert!((seen[1].at - seen[0].at - 1.5).abs() < 1e-6);
        assert_eq!((seen[0].from, seen[0].to, seen[0].generation), (State::Closed, State::Open, 1));
        assert_eq!((critical(LOG, &journal).len(), refused(LOG, &journal).len()), (1, 1));
        let life = stretches(&seen, "u1", seen[1].at + 3.0);
        let states: Vec<State> = life.iter().map(|stretch| stretch.state).collect();
        assert_eq!(states, [State::Closed, State::Open, State::HalfOpen]);
        assert!((life[2].span.to - life[2].span.from - 3.0).abs() < 1e-6);
        assert_eq!(stretches(&seen, "u2", 1.0).len(), 1);
    }

    #[test]
    fn a_line_of_the_access_log_tells_which_request_it_was() {
        let journal = Journal::begin();
        let text = r#"{"path":"/u3/17","status":503,"details":"circuit_breaker_open{ramp}","flags":"-","cluster":"u3","start":"1000000010.500000","took":2}"#;
        let seen = line(text, &journal).unwrap();
        assert_eq!((seen.id, seen.upstream.as_str(), seen.status), (Some(17), "u3", 503));
        assert!(seen.is_rejection() && !seen.may_count_twice());
        let text = r#"{"path":"/named/18","status":200,"details":"via_upstream","flags":"UC","cluster":"churn-4","start":"1000000010.5","took":1500}"#;
        let seen = line(text, &journal).unwrap();
        assert_eq!(seen.upstream, "churn-4");
        assert!(!seen.is_rejection() && seen.may_count_twice());
        assert_eq!(line("{\"path\":", &journal), None);
    }
}
