//! Time, for plugins that compare moments: with the feature `wasi` of this crate. Where the standard library has clocks
//! (`wasm32-wasip2`), these are the same.

use std::time::Duration;

use crate::host;

/// Time since some moment before this instance began. It never goes back, and means nothing to another instance.
///
/// ```
/// use parti_guest::clock;
///
/// let begun = clock::monotonic();
/// assert!(clock::monotonic() - begun < std::time::Duration::from_secs(3600));
/// ```
pub fn monotonic() -> Duration {
    host::monotonic()
}
