//! Why a configuration was refused: one message that names the path, the value and what is allowed.

use std::fmt;

use super::node::Node;

/// A refusal. The whole document is refused, and the configuration that was serving goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    pub(super) fn new(path: &str, value: &Node, allowed: &str) -> Self {
        let path = if path.is_empty() { "pluginConfig" } else { path };
        ConfigError(format!("{path}: {value} is not allowed; allowed: {allowed}"))
    }

    pub(super) fn unknown(path: &str, hint: &str) -> Self {
        ConfigError(format!("{path}: unknown field; {hint}"))
    }

    pub(super) fn said(path: &str, why: &str) -> Self {
        let path = if path.is_empty() { "pluginConfig" } else { path };
        ConfigError(format!("{path}: {why}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}
