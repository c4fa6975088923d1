//! Reads the section of probes of the breaker's own.

use super::defaults;
use super::error::ConfigError;
use super::fields::ACTIVE_PROBE;
use super::node::Node;
use super::reader::{Reader, field};
use crate::policy::active::ActiveProbe;

/// The first status that no probe may expect. Where an upstream gives no answer, Envoy itself answers with 503 or 504, and
/// nobody can tell that from an upstream that is well.
const FAILING: u32 = 500;

/// The probe that a merged section asks for. `path` is where the policy's author wrote it.
pub(super) fn active_probe(given: Reader<'_>, path: &str) -> Result<Option<ActiveProbe>, ConfigError> {
    let at = |name: &str| format!("{path}.halfOpen.activeProbe.{name}");
    let is_good = |status: u32| status < FAILING;
    let is_some = given.statuses(field!("expectedStatus")).next().is_some();
    if !is_some || !given.statuses(field!("expectedStatus")).all(is_good) {
        let value = given.at(field!("expectedStatus")).0.unwrap_or(&Node::Null);
        let allowed = "some statuses from 200 to 499: Envoy itself answers with 503 or 504 where the upstream does not";
        return Err(ConfigError::new(&at("expectedStatus"), value, allowed));
    }
    if given.text(field!("path")).is_empty() {
        let is_off = given.at(field!("path")).is_given() || given.0 == Some(&defaults(ACTIVE_PROBE));
        let said = "is not given, and other fields of the probe are; allowed: a path such as \"/healthz\", or \"\" for no \
            probe";
        return if is_off { Ok(None) } else { Err(ConfigError::said(&at("path"), said)) };
    }
    Ok(Some(ActiveProbe {
        method: if given.text(field!("method")) == "HEAD" { "HEAD" } else { "GET" },
        path: given.text(field!("path")).to_owned(),
        authority: given.text(field!("authority")).to_owned(),
        headers: given.headers(field!("headers")),
        interval: given.duration(field!("interval")),
        timeout: given.duration(field!("timeout")),
        expected: given.statuses(field!("expectedStatus")).collect(),
    }))
}
