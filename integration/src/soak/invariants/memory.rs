//! Memory does not grow any more once everything has been met.

use super::Finding;
use crate::soak::evidence::Evidence;
use crate::soak::journal::Sample;

/// The least number of looks in a quarter of the time: fewer tell nothing.
const ENOUGH: usize = 8;

/// Growth of Envoy's resident memory that is allowed at the end, in MB. Its allocator keeps the pages of every peak,
/// and each worker has a cache of its own. A scrape of all stats while many requests wait is such a peak. Runs of two
/// to ten minutes ended between 1 MB less and 1.4 MB more.
const RESIDENT: f64 = 6.0;

/// The same for the largest VM, in MB: four of its pages of 64 KB. A VM keeps the memory that a crowd of waiting
/// requests needs.
const VM: f64 = 0.25;

/// Compares the median of the first quarter after the warm-up with that of the last quarter.
#[must_use]
pub fn check(evidence: &Evidence) -> Finding {
    let invariant = "Envoy's resident memory and its VMs' stay where they are after the warm-up";
    let warm = evidence.trap.map_or(0.0, |trap| trap.to);
    let samples: Vec<&Sample> = evidence.entries.samples.iter().filter(|sample| sample.at > warm).collect();
    let quarter = samples.len() / 4;
    if quarter < ENOUGH {
        let seen = format!("not judged: {} looks after the warm-up are too few", samples.len());
        return Finding { invariant, seen, broken: Vec::new() };
    }
    let (first, last) = (&samples[..quarter], &samples[samples.len() - quarter..]);
    let mut broken = Vec::new();
    let mut compare = |what: &str, of: fn(&Sample) -> f64, allowed: f64| {
        let (before, after) = (middle(first, of), middle(last, of));
        if after - before > allowed {
            broken.push(format!("{what} grew from {before:.2} to {after:.2} MB; allowed are {allowed} MB more"));
        }
        format!("{what} {before:.2} MB, at the end {after:.2}")
    };
    let resident = compare("resident memory", |sample| sample.resident, RESIDENT);
    let vm = compare("the largest VM's memory", |sample| sample.vm, VM);
    let vms = samples.last().map_or(0, |sample| sample.vms);
    // One for each worker, one for the main thread, and the one that the others are copied from.
    if vms > evidence.workers as usize + 2 {
        broken.push(format!("{vms} VMs are there at the end, for {} workers", evidence.workers));
    }
    Finding { invariant, seen: format!("{resident}; {vm}; {vms} VMs"), broken }
}

fn middle(samples: &[&Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(|sample| of(sample)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::invariants::tests::evidence;

    #[test]
    fn what_grows_is_found() {
        let sample = |at: u32, resident, vm| Sample { at: f64::from(at), resident, vm, vms: 6 };
        let mut evidence = evidence();
        evidence.entries.samples = (1..=40).map(|at| sample(at, 100.0, 0.5)).collect();
        assert!(check(&evidence).broken.is_empty());
        evidence.entries.samples = (1..=40).map(|at| sample(at, 100.0 + f64::from(at), 0.5)).collect();
        assert_eq!(check(&evidence).broken.len(), 1);
        evidence.entries.samples = (1..=40).map(|at| sample(at, 100.0, 0.5 + f64::from(at) / 64.0)).collect();
        assert_eq!(check(&evidence).broken.len(), 1);
        evidence.entries.samples.truncate(10);
        assert!(check(&evidence).broken.is_empty(), "too few to tell");
    }
}
