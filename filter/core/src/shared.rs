//! What all workers of a proxy share beside the circuits' records, as one worker sees it.

pub(crate) mod counts;
pub(crate) mod number;
pub(crate) mod overall;
pub(crate) mod slots;
pub(crate) mod vm;
