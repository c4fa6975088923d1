//! The keys of shared data, in one place: no two things may have the same key.

/// Istio gives all plugins of a proxy one key space, so every key of ours begins with this.
const PREFIX: &str = "circuit_breaker:";

/// The first part of the keys of all records.
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

/// Shared-data key of a page of the ledger: the page of the circuit in a slot, or with `None` the page of the proxy
/// itself.
pub(crate) fn series_key(slot: Option<u32>) -> String {
    slot.map_or_else(|| format!("{PREFIX}series"), |slot| format!("{PREFIX}series:{slot}"))
}

/// Shared-data key of how far the VMs of this module have come in defining what was counted (`breaker/keeping`).
pub(crate) fn kept_key(module: &str) -> String {
    format!("{PREFIX}kept:{module}")
}

/// Shared-data key of the overall health of all upstreams (`breaker/health`).
pub(crate) fn overall_key() -> String {
    format!("{PREFIX}overall")
}

/// Shared-data key of the number of the process.
pub(crate) fn process_key() -> String {
    format!("{PREFIX}process")
}

/// Shared-data key of the landing of the fallback of the circuit in a slot (`breaker/landing`).
pub(crate) fn fallback_key(slot: u32) -> String {
    format!("{PREFIX}fallback:{slot}")
}

/// Shared-data key that exists once a message that is logged once a proxy has been logged.
pub(crate) fn said_key(what: &str) -> String {
    format!("{PREFIX}said:{what}")
}
