//! `<name>.yaml` beside `<name>.wasm`: what whoever ships a plugin says of it. Grants are not among it: whoever can drop a
//! file must not be able to grant itself the network.

use super::limits::LimitsOverride;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The content of a sidecar file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sidecar {
    /// Defaults for the plugin's configuration.
    #[serde(default)]
    pub(super) config: Map<String, Value>,
    /// Limits below the host's.
    #[serde(default)]
    pub(super) limits: LimitsOverride,
    /// The digest that the component must have, in hexadecimal digits.
    pub(super) sha256: Option<String>,
    /// `false` keeps the plugin from being used.
    #[serde(default = "enabled")]
    pub(super) enabled: bool,
}

fn enabled() -> bool {
    true
}

impl Default for Sidecar {
    fn default() -> Self {
        Self { config: Map::new(), limits: LimitsOverride::default(), sha256: None, enabled: enabled() }
    }
}

/// Put `over` onto `base`, key by key: where both hold an object, their keys join; else `over` wins.
pub(super) fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
