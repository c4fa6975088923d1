//! A set of HTTP statuses.

/// Some of the statuses from 0 to 639: a bit for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses([u64; 10]);

impl Statuses {
    pub(crate) fn add(&mut self, status: u32) {
        if let Some(word) = self.0.get_mut(status as usize / 64) {
            *word |= 1 << (status % 64);
        }
    }

    /// Whether the status is one of them.
    #[must_use]
    pub fn contains(&self, status: u32) -> bool {
        self.0.get(status as usize / 64).is_some_and(|word| word & (1 << (status % 64)) != 0)
    }
}

impl FromIterator<u32> for Statuses {
    fn from_iter<I: IntoIterator<Item = u32>>(all: I) -> Statuses {
        let mut statuses = Statuses::default();
        all.into_iter().for_each(|status| statuses.add(status));
        statuses
    }
}
