//! The policy as the reference model knows it, and the conditions of a trip.

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    Good,
    Failed,
    /// Failed, and the upstream wants to be left alone for so many milliseconds.
    Asked(u64),
    Slow,
    Nothing,
}

/// The policy, as far as the model knows it. Zero switches a condition off.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How many workers there are.
    pub workers: usize,
    pub consecutive: u64,
    pub failure_percent: u64,
    pub slow_percent: u64,
    pub slow_after: u64,
    pub percentile: u64,
    pub threshold: u64,
    pub minimum: u64,
    pub window: Window,
    pub base: u64,
    pub multiplier: u64,
    pub longest: u64,
    /// 0: nobody minds when an upstream wants to be asked again.
    pub longest_asked: u64,
    pub probes: usize,
    pub good_probes: u64,
    pub probe_timeout: u64,
    pub ramp_initial: u64,
    pub ramp: u64,
    pub observe: bool,
}

/// What the rates are taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    Time(u64),
    Calls(usize),
}

impl Window {
    /// Milliseconds between two ticks: half a bucket, at most half a second.
    pub fn tick(self) -> u64 {
        match self {
            Window::Time(window) => (window / 20).min(500),
            Window::Calls(_) => 500,
        }
    }
}

/// A call that counts: whose it was, when it counted, and whether it took longer than the threshold.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub by: usize,
    pub at: u64,
    pub came: Came,
    pub over: bool,
}

impl Rules {
    /// The conditions that hold, in the order in which they are asked, with so many bad calls fewer.
    pub fn conditions(&self, calls: &[Counted], streak: u64, ramp: bool, fewer: u64) -> Vec<&'static str> {
        let few = self.good_probes;
        let consecutive = match (ramp, self.consecutive) {
            (false, bound) => bound,
            (true, 0) => few,
            (true, bound) => bound.min(few),
        };
        let minimum = if ramp { self.minimum.min(few) } else { self.minimum };
        let least_over = if ramp { few } else { 1 };
        let all = calls.len() as u64;
        let count = |which: &dyn Fn(&Counted) -> bool| {
            (calls.iter().filter(|call| which(call)).count() as u64).saturating_sub(fewer)
        };
        let holds = |bad: u64, percent: u64| percent > 0 && bad * 100 >= percent * all;
        let over = count(&|call| call.over);
        let late = self.percentile > 0 && over * 100 > all * (100 - self.percentile);
        let enough = all >= minimum;
        let conditions = [
            ("consecutive", consecutive > 0 && streak >= consecutive),
            ("failure_rate", enough && holds(count(&|call| call.came == Came::Failed), self.failure_percent)),
            ("slow_rate", enough && holds(count(&|call| call.came == Came::Slow), self.slow_percent)),
            ("latency", enough && late && over >= least_over),
        ];
        conditions.into_iter().filter(|(_, holds)| *holds).map(|(reason, _)| reason).collect()
    }
}
