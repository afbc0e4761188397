//! Environment variables: those that the operator grants this plugin, in `plugins.grants.NAME.env` of the host's file, and no others.
//! With the feature `wasi` of this crate.
//!
//! This is the place for secrets. What is in the plugin's configuration is shown to whoever may look at it.
//!
//! ```
//! use parti_guest::env;
//!
//! let token = env::get("TOKEN").ok_or("`plugins.grants` gives no TOKEN");
//! # assert!(token.is_err());
//! ```

use crate::host;

/// The value of a variable, if it is granted and text.
pub fn get(name: &str) -> Option<String> {
    host::env(name)
}
