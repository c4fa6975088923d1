//! The variants: what can be in front of the router.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::bootstrap::Listener;
use crate::envoy::workspace;

/// The filter of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// No filter.
    None,
    /// [`circuit-breaker-empty`](../../../empty): the SDK and nothing else.
    Empty,
    /// [`circuit-breaker-rejecting`](../../../rejecting): rejects and does nothing else.
    Rejecting,
    /// The breaker with its circuit CLOSED. Once the circuit is OPEN it stays so for the whole run.
    Closed,
    /// The breaker with its circuit OPEN.
    Open,
    /// The breaker in a ramp that stays at half of the requests.
    Ramp,
    /// The breaker observing a circuit that is OPEN.
    Observe,
    /// A Lua filter that does the least that any breaker must, in one worker.
    Lua,
    /// Envoy's own `admission_control`.
    AdmissionControl,
}

impl Variant {
    /// All variants with a healthy upstream, but for [`Variant::Rejecting`], which only shows the least that a
    /// rejection can cost.
    pub const ALL: [Variant; 8] = [
        Variant::None,
        Variant::Empty,
        Variant::AdmissionControl,
        Variant::Lua,
        Variant::Closed,
        Variant::Observe,
        Variant::Ramp,
        Variant::Open,
    ];

    /// The name of the listener.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Variant::None => "none",
            Variant::Empty => "empty",
            Variant::Rejecting => "rejecting",
            Variant::Closed => "breaker",
            Variant::Open => "open",
            Variant::Ramp => "ramp",
            Variant::Observe => "observe",
            Variant::Lua => "lua",
            Variant::AdmissionControl => "admission-control",
        }
    }

    /// In a table for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Variant::None => "no filter",
            Variant::Empty => "an empty SDK filter",
            Variant::Rejecting => "a filter that only rejects",
            Variant::Closed => "the breaker, CLOSED",
            Variant::Open => "the breaker, OPEN (rejects all)",
            Variant::Ramp => "the breaker, HALF_OPEN (a ramp at 50 %)",
            Variant::Observe => "the breaker, observing an OPEN circuit",
            Variant::Lua => "Lua doing a breaker's least",
            Variant::AdmissionControl => "native admission_control",
        }
    }

    /// Whether the circuit must trip before there is anything to measure.
    #[must_use]
    pub fn trips(self) -> bool {
        matches!(self, Variant::Open | Variant::Ramp | Variant::Observe)
    }

    /// A listener with it.
    #[must_use]
    pub fn listener(self) -> Listener {
        let breaker = |config: &Value| Listener::new(self.name(), Some(&config.to_string()));
        let filter = |filter: Value| Listener { filters: vec![filter], ..Listener::new(self.name(), None) };
        let yardstick = |filter| Listener { module: Some(yardstick(filter)), ..Listener::new(self.name(), Some("")) };
        let for_good = json!({"baseDuration": "24h", "maxDuration": "24h"});
        match self {
            Variant::None => Listener::new(self.name(), None),
            Variant::Empty => yardstick("empty"),
            Variant::Rejecting => yardstick("rejecting"),
            Variant::Closed | Variant::Open => breaker(&json!({"default": {"open": for_good}})),
            Variant::Observe => breaker(&json!({"default": {"mode": "observe", "open": for_good}})),
            Variant::Ramp => breaker(&json!({"default": {
                "open": {"baseDuration": "0.1s"},
                "halfOpen": {"successThreshold": 1, "ramp": {"initialPercent": 50, "duration": "24h"}},
            }})),
            Variant::Lua => filter(json!({"name": "lua", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                "default_source_code": {"inline_string": LUA},
            }})),
            Variant::AdmissionControl => filter(json!({"name": "admission_control", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
                "success_criteria": {"http_criteria": {"http_success_status": [{"start": 100, "end": 500}]}},
            }})),
        }
    }
}

/// What any breaker needs: the upstream's name, the clock, the status and a count by worker.
const LUA: &str = r#"
local calls, failures = {}, {}
function envoy_on_request(handle)
  local info = handle:streamInfo()
  info:dynamicMetadata():set("breaker", "upstream", info:routeName())
  info:dynamicMetadata():set("breaker", "start", handle:timestamp())
end
function envoy_on_response(handle)
  local seen = handle:streamInfo():dynamicMetadata():get("breaker")
  local upstream = seen["upstream"]
  calls[upstream] = (calls[upstream] or 0) + 1
  if tonumber(handle:headers():get(":status")) >= 500 or handle:timestamp() - seen["start"] > 60000 then
    failures[upstream] = (failures[upstream] or 0) + 1
  end
end
"#;

/// The directory where `make build-yardsticks` puts the filters that the breaker is compared with.
fn yardstick(filter: &str) -> PathBuf {
    workspace().join(format!("target/wasm32-unknown-unknown/release/circuit_breaker_{filter}.wasm"))
}
