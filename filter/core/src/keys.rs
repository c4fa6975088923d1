//! The keys of shared data, in one place: no two things may lie under the same one.

/// Istio gives all plugins of a proxy one key space: every key of ours begins so.
const PREFIX: &str = "circuit_breaker:";

/// What the shared-data keys of all records begin with.
#[cfg(feature = "testing")]
pub(crate) const RECORDS: &str = "circuit_breaker:circuit:";

/// Shared-data key of the record of the circuit in a slot.
pub(crate) fn record_key(slot: u32) -> String {
    format!("{PREFIX}circuit:{slot}")
}

/// Shared-data key of the list of slots.
pub(crate) fn slots_key() -> String {
    format!("{PREFIX}slots")
}

/// Shared-data key of the page of the ledger of a place in the list of circuits; `None`: of the proxy's own.
pub(crate) fn series_key(slot: Option<u32>) -> String {
    slot.map_or_else(|| format!("{PREFIX}series"), |slot| format!("{PREFIX}series:{slot}"))
}

/// Shared-data key of how far the VMs of a new module have come in keeping what was counted.
pub(crate) fn kept_key() -> String {
    format!("{PREFIX}kept")
}

/// Shared-data key of the number of the process.
pub(crate) fn process_key() -> String {
    format!("{PREFIX}process")
}

/// Shared-data key of where the fallback of the circuit in a slot leads.
pub(crate) fn fallback_key(slot: u32) -> String {
    format!("{PREFIX}fallback:{slot}")
}

/// Shared-data key that is there once something that is said once a proxy has been said.
pub(crate) fn said_key(what: &str) -> String {
    format!("{PREFIX}said:{what}")
}
