//! The ratio of what two filters add, where noise is larger than what either adds.
//!
//! What a filter adds is a difference, and a ratio of two differences magnifies their errors. So the turns of the
//! variants are short against any disturbance of the machine, and only differences within a round count. The ratio is
//! the median: half of the rounds are above it and half below. Its interval holds the ratios that a sign test would
//! not yet refute (Dixon and Mood, "The statistical sign test", 1946; Fieller's theorem, but without his normal
//! distribution). A disturbed round moves the ratio no further than any other round on its side.

/// A ratio and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Half of the rounds are above this.
    pub middle: f64,
    /// It is at least this, with a certainty of 95 %.
    pub least: f64,
    /// It is at most this, with a certainty of 95 %.
    pub most: f64,
}

/// In standard deviations: 95 % of a normal distribution are below.
const CERTAIN: f64 = 1.645;

/// A bound: no filter adds more times what another one adds.
const LARGEST: f64 = 1e6;

/// Steps of the search by halves: more than a double has bits.
const STEPS: u32 = 80;

impl Ratio {
    /// The ratio of what one filter adds (first) to what another one adds (second). Each pair is from one round.
    /// Without rounds it is not a number.
    #[must_use]
    pub fn of(rounds: &[(f64, f64)]) -> Ratio {
        #[allow(clippy::cast_precision_loss)]
        let half_width = CERTAIN / 2.0 / (rounds.len() as f64).sqrt();
        let at = |share: f64| above(rounds, share.clamp(0.0, 1.0));
        Ratio { middle: at(0.5), least: at(0.5 + half_width), most: at(0.5 - half_width) }
    }

    /// The width of its interval.
    #[must_use]
    pub fn width(&self) -> f64 {
        self.most - self.least
    }
}

/// The ratio that this share of the rounds is above.
fn above(rounds: &[(f64, f64)], share: f64) -> f64 {
    if rounds.is_empty() {
        return f64::NAN;
    }
    let (mut low, mut high) = (0.0, LARGEST);
    for _ in 0..STEPS {
        let ratio = f64::midpoint(low, high);
        let over = rounds.iter().filter(|(one, other)| *one > ratio * other).count();
        #[allow(clippy::cast_precision_loss)]
        if over as f64 > share * rounds.len() as f64 { low = ratio } else { high = ratio }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One filter adds twice as much as the other. Each round has a disturbance of its own, and at times one of the
    /// two has another.
    fn rounds(number: u32) -> Vec<(f64, f64)> {
        // Murmur's finalizer: its output looks random, whatever its input is.
        let noise = |seed: u32| {
            let mixed = (seed ^ seed >> 16).wrapping_add(1).wrapping_mul(0x85EB_CA6B);
            let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xC2B2_AE35);
            f64::from((mixed ^ mixed >> 16) & 0xFFFF) / 65_536.0 - 0.5
        };
        let disturbed = |round: u32, at: u32| if round % 7 == at { 30.0 } else { 0.0 };
        (0..number)
            .map(|round| {
                let one = 14.0 + 4.0 * noise(3 * round) + disturbed(round, 1);
                (one, 7.0 + 4.0 * noise(3 * round + 1) + disturbed(round, 4))
            })
            .collect()
    }

    #[test]
    fn the_ratio_is_found_through_what_disturbs_a_seventh_of_the_rounds() {
        let Ratio { middle, least, most } = Ratio::of(&rounds(200));
        assert!((1.9..2.1).contains(&middle), "{middle}");
        assert!(least < middle && middle < most && least > 1.7 && most < 2.3, "{least} {most}");
    }

    #[test]
    fn more_rounds_are_surer() {
        let width = |number| Ratio::of(&rounds(number)).width();
        assert!(width(800) < width(50) * 0.5);
    }

    #[test]
    fn without_noise_there_is_no_doubt_and_without_rounds_nothing_else() {
        let Ratio { middle, least, most } = Ratio::of(&[(3.0, 2.0); 40]);
        assert!([middle, least, most].iter().all(|ratio| (ratio - 1.5).abs() < 1e-6));
        assert!(Ratio::of(&[]).middle.is_nan());
    }
}
