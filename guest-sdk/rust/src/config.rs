//! What the operator set for this plugin: `handler.config` of the host's file, over the `config` of the plugin's own
//! yaml file.
//!
//! It does not change while a handler lives: a changed file opens new handlers. Read it in
//! [`Handler::open`](crate::Handler::open).

use serde::de::DeserializeOwned;

use crate::host;

/// The configuration does not fit the plugin.
#[derive(Debug, thiserror::Error)]
#[error("the plugin's configuration does not fit: {0}; correct `handler.config`")]
pub struct ConfigError(#[from] serde_json::Error);

/// The value at a key, if there is one; nested keys are joined with `.`. Text as it is, everything else as JSON.
pub fn get(key: &str) -> Option<String> {
    host::config_get(key)
}

/// Everything, as one JSON object.
pub fn all() -> String {
    host::config_all()
}

/// Everything, as the author's own type. Give fields defaults, and let `deny_unknown_fields` find spelling mistakes.
///
/// ```
/// use parti_guest::config;
///
/// #[derive(serde::Deserialize)]
/// #[serde(default, deny_unknown_fields)]
/// struct Config {
///     threshold: f64,
/// }
///
/// impl Default for Config {
///     fn default() -> Self {
///         Self { threshold: 3.0 }
///     }
/// }
///
/// let config: Config = config::parse()?;
/// assert_eq!(config.threshold, 3.0);
/// # Ok::<(), config::ConfigError>(())
/// ```
pub fn parse<T: DeserializeOwned>() -> Result<T, ConfigError> {
    Ok(serde_json::from_str(&all())?)
}
