//! Shares, in millionths: exact where a floating-point number would not be.

/// The whole, in millionths.
pub(crate) const ALL: u32 = 1_000_000;

/// `share` millionths of `whole`, rounded down.
pub(crate) fn part(whole: u64, share: u32) -> u64 {
    let product = u128::from(whole).saturating_mul(u128::from(share));
    u64::try_from(product / 1_000_000).unwrap_or(u64::MAX)
}
