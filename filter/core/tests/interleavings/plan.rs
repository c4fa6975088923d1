//! What the seed of a schedule chooses: the number of workers and upstreams, their policies, and the faults.

use circuit_breaker_core::clock::{MILLISECOND, SECOND};
use circuit_breaker_core::config::Config;
use circuit_breaker_core::policy::{Length, Mode, Policy};

/// Numbers from a seed (xorshift64).
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn from(seed: u64) -> Draw {
        Draw(seed | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The lower bits of neighbouring seeds are alike at first.
        (self.0 >> 20) % bound
    }

    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// What may go wrong in a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// A VM is killed between two host calls, with all that it knows. Another one is started in its place.
    Death,
    /// The same, but none is started.
    DeathForGood,
    /// A worker is stopped between two host calls while all the others work, trip and recover.
    Stop,
    /// A host call gives an error.
    HostError,
    /// Another configuration takes over, sooner in one worker and later in another.
    Takeover,
    /// The clock steps forward or back by an hour.
    ClockStep,
    /// `/reset_counters`.
    Reset,
}

const FAULTS: [Fault; 7] =
    [Fault::Death, Fault::DeathForGood, Fault::Stop, Fault::HostError, Fault::Takeover, Fault::ClockStep, Fault::Reset];

/// A configuration, and its only policy.
pub(super) struct Rules {
    document: String,
    pub(super) config: Config,
    pub(super) policy: Policy,
}

/// One schedule.
pub(super) struct Plan {
    pub(super) workers: u64,
    pub(super) upstreams: usize,
    pub(super) faults: Vec<Fault>,
    /// The second takes over from the first, and the first again from the second.
    pub(super) rules: [Rules; 2],
    /// Every worker knows every circuit when it begins.
    pub(super) warm: bool,
    /// There are fewer slots than upstreams, and circuits end soon: slots change hands.
    pub(super) churn: bool,
}

impl Plan {
    pub(super) fn of(draw: &mut Draw) -> Plan {
        let churn = draw.one_in(4);
        Plan {
            workers: draw.one_of(&[2, 3, 4, 4]),
            upstreams: if churn { 3 } else { draw.one_of(&[1, 1, 2, 3]) },
            faults: faults(draw),
            rules: [Rules::of(draw, churn), Rules::of(draw, churn)],
            warm: draw.one_in(2),
            churn,
        }
    }

    /// The text that a failure prints.
    pub(super) fn describe(&self) -> String {
        let documents: Vec<&str> = self.rules.iter().map(|rules| rules.document.as_str()).collect();
        let Plan { workers, upstreams, faults, warm, churn, .. } = self;
        let documents = documents.join("\n");
        format!("{workers} workers, {upstreams} upstreams, {faults:?}, warm: {warm}, churn: {churn}\n{documents}")
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// The policies that can be in force.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.in_use().map(|rules| &rules.policy)
    }

    fn in_use(&self) -> impl Iterator<Item = &Rules> {
        let in_use = if self.has(Fault::Takeover) { 2 } else { 1 };
        self.rules.iter().take(in_use)
    }

    /// Whether some policy wants probes of the breaker's own.
    pub(super) fn probes_itself(&self) -> bool {
        self.policies().any(|policy| policy.half_open.active.is_some())
    }

    /// Slots that there may be, under any configuration.
    pub(super) fn slots(&self) -> u32 {
        self.in_use().map(|rules| rules.config.max_circuits).max().unwrap_or(0)
    }

    /// Nanoseconds after which an upstream that nobody uses has no circuit.
    pub(super) fn idle(&self) -> u64 {
        let idle = |rules: &Rules| rules.config.idle_circuit.max(pause(&rules.policy));
        self.in_use().map(idle).max().unwrap_or(0)
    }
}

/// None in a quarter of the schedules, so that nothing is weakened there; one in half of them; several in the rest.
fn faults(draw: &mut Draw) -> Vec<Fault> {
    match draw.below(4) {
        0 => Vec::new(),
        1 | 2 => vec![draw.one_of(&FAULTS)],
        _ => FAULTS.into_iter().filter(|_| draw.one_in(3)).collect(),
    }
}

impl Rules {
    fn of(draw: &mut Draw, churn: bool) -> Rules {
        let document = document(draw, churn);
        let config = Config::parse(document.as_bytes()).unwrap();
        let policy = config.policies().next().unwrap().clone();
        Rules { document, config, policy }
    }
}

/// Slower than these policies allow, and slower than their `slowCallDuration`.
pub(super) const OVER: u64 = 600 * MILLISECOND;
pub(super) const SLOW: u64 = 1200 * MILLISECOND;

fn document(draw: &mut Draw, churn: bool) -> String {
    format!(
        r#"{{"default": {{"mode": "{}", "trip": {}, "open": {}, "halfOpen": {}}}{}}}"#,
        draw.one_of(&["enforce", "enforce", "enforce", "observe"]),
        trip(draw),
        open(draw),
        half_open(draw),
        if churn { limits(draw) } else { String::new() }
    )
}

fn limits(draw: &mut Draw) -> String {
    let idle = draw.one_of(&["1s", "2s", "5s"]);
    format!(r#", "limits": {{"maxCircuits": {}, "idleCircuit": "{idle}"}}"#, 1 + draw.below(2))
}

fn trip(draw: &mut Draw) -> String {
    let window =
        draw.one_of(&[r#"{"duration": "5s"}"#, r#"{"duration": "10s"}"#, r#"{"calls": 10}"#, r#"{"calls": 25}"#]);
    let streak = draw.one_of(&[0, 1, 2, 3, 3, 5]);
    // Where everything fails, one of the two always holds.
    let rate = if streak == 0 { draw.one_of(&[50, 80, 100]) } else { draw.one_of(&[0, 50, 80, 100]) };
    let slow = draw.one_of(&[r#""0s""#, r#""1s""#]);
    let latency = draw.one_of(&["", r#", "latencyPercentile": 70, "latencyThreshold": "500ms""#]);
    format!(
        r#"{{"consecutiveFailures": {streak}, "failureRatePercent": {rate}, "minimumCalls": {}, "slowCallRatePercent": {},
            "slowCallDuration": {slow}, "window": {window}{latency}}}"#,
        draw.one_of(&[1, 3, 6, 10]),
        draw.one_of(&[0, 50, 100]),
    )
}

fn open(draw: &mut Draw) -> String {
    format!(
        r#"{{"baseDuration": "{}", "maxDuration": "2s", "multiplier": {}, "jitterPercent": {}, "maxRetryAfter": "{}"}}"#,
        draw.one_of(&["500ms", "1s", "2s"]),
        draw.one_of(&["1", "2"]),
        draw.one_of(&[0, 20]),
        draw.one_of(&["0s", "3s", "20s"]),
    )
}

/// Under any two policies probes time out within seconds of each other. A lease that ends later than the policy in
/// force could have given counts as one of another clock, and its probe as none.
fn half_open(draw: &mut Draw) -> String {
    let active = if draw.one_in(3) { active_probe(draw) } else { String::new() };
    format!(
        r#"{{"maxConcurrentProbes": {}, "successThreshold": {}, "probeTimeout": "{}s",
            "ramp": {{"initialPercent": {}, "duration": "{}"}}{active}}}"#,
        1 + draw.below(4),
        1 + draw.below(4),
        1 + draw.below(4),
        draw.one_of(&[1, 10, 50, 100]),
        draw.one_of(&["0s", "0s", "1s", "2s", "5s"]),
    )
}

/// The breaker itself probes.
fn active_probe(draw: &mut Draw) -> String {
    let interval = draw.one_of(&["100ms", "1s", "2s"]);
    format!(r#", "activeProbe": {{"path": "/", "interval": "{interval}", "timeout": "{}s"}}"#, 1 + draw.below(4))
}

/// Nanoseconds within which a circuit is CLOSED again, whatever was left behind, once its upstream is well and every
/// worker has a call and a tick at each `period`.
pub(super) fn recovery(plan: &Plan, period: u64) -> u64 {
    let longest = |of: fn(&Policy) -> u64| plan.policies().map(of).max().unwrap_or(0);
    // Good calls may complete the number that the failures before them needed, so that the circuit opens once more.
    let open = longest(Policy::longest_open) * 2;
    // Leases of dead workers.
    let leases = longest(|policy| policy.half_open.longest_probe()) + 2 * SECOND;
    let interval = longest(|policy| policy.half_open.active.as_ref().map_or(0, |probe| probe.interval));
    let probes = longest(|policy| u64::from(policy.half_open.success_threshold)) * (period + interval);
    // A step lasts up to twice its time while calls are few. A worker then lets one request through for each step.
    let ramp = longest(|policy| policy.half_open.ramp_duration) * 3 + 10 * 2 * period;
    // A change that a worker could not tell is found when its circuit's turn comes.
    let untold = 20 * period;
    open + leases + 2 * (probes + ramp) + untold
}

/// Nanoseconds within which all circuits that nobody uses have ended, whatever was left behind.
pub(super) fn end(plan: &Plan, period: u64) -> u64 {
    recovery(plan, period) + plan.idle()
}

/// Failures in a row that open a circuit for certain, after a pause as long as the window, where the streak counts as
/// many. If a reset or a clock that stepped back has ended a window, the next begins at a worker's next look, and
/// does not hold the call of that look. So many workers may have to `begin` one.
pub(super) fn failures_to_trip(policy: &Policy, streak: u64, begin: u64) -> u64 {
    let trip = &policy.trip;
    if trip.consecutive_failures > 0 {
        return u64::from(trip.consecutive_failures).saturating_sub(streak).max(1);
    }
    match trip.window {
        Length::Time(_) => u64::from(trip.minimum_calls) + begin,
        // Until all good calls have left, the window is as coarse as one of its buckets for each worker.
        Length::Calls(calls) => calls * 2,
    }
}

/// The time after which a window holds nothing older.
pub(super) fn pause(policy: &Policy) -> u64 {
    match policy.trip.window {
        Length::Time(time) => time + 2 * policy.trip.window.bucket(),
        Length::Calls(_) => 0,
    }
}

pub(super) fn observes(policy: &Policy) -> bool {
    policy.mode == Mode::Observe
}
