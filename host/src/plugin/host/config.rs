//! `parti:plugin/config`: a plugin's configuration.

use serde_json::{Map, Value};

/// A plugin's configuration, fixed for one version of it.
pub(in super::super) struct PluginConfig {
    value: Value,
    text: String,
}

impl PluginConfig {
    pub(in super::super) fn new(value: Map<String, Value>) -> Self {
        let value = Value::Object(value);
        Self { text: value.to_string(), value }
    }

    /// Everything, as one object.
    pub(in super::super) fn value(&self) -> &Value {
        &self.value
    }

    /// The value at a key; nested keys are joined with `.`. Strings as they are, everything else as JSON.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        match key.split('.').try_fold(&self.value, |value, key| value.get(key))? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// Everything, as one JSON object.
    pub(super) fn all(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_keys_are_found_and_only_strings_come_bare() {
        let Value::Object(value) =
            serde_json::json!({"prefix": "out", "limit": {"high": 2.5, "on": true}, "tags": ["a"]})
        else {
            unreachable!()
        };
        let config = PluginConfig::new(value);
        assert_eq!(config.get("prefix").as_deref(), Some("out"));
        assert_eq!(config.get("limit.high").as_deref(), Some("2.5"));
        assert_eq!(config.get("limit").as_deref(), Some(r#"{"high":2.5,"on":true}"#));
        assert_eq!(config.get("tags").as_deref(), Some(r#"["a"]"#));
        for absent in ["", ".", "none", "prefix.more", "limit.", "limit.low"] {
            assert_eq!(config.get(absent), None, "{absent}");
        }
        assert_eq!(serde_json::from_str::<Value>(config.all()).unwrap()["limit"]["on"], true);
    }
}
