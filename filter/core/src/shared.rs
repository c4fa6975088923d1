//! What all workers of a proxy share beside the records of circuits, as one of them sees it.

pub(crate) mod counts;
pub(crate) mod number;
pub(crate) mod slots;
pub(crate) mod vm;
