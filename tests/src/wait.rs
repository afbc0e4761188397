//! Waiting for what must come true: tests never sleep and hope.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long anything may take. Generous, because a busy machine is no failure; what is checked then is exact.
pub const DEADLINE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(50);

/// Asks again and again until the answer is `Ok`, and gives what is in it. Panics with the last `Err` after [`DEADLINE`].
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    within(DEADLINE, what, ask).await
}

/// The same with another deadline.
pub async fn within<T>(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(why) if begun.elapsed() > limit => panic!("not within {limit:?}: {what}; at last: {why}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Asks again and again until the answer is `expected`.
pub async fn eventually_is<T: PartialEq + Debug>(what: &str, expected: T, mut ask: impl AsyncFnMut() -> T) {
    eventually(what, async || {
        let found = ask().await;
        if found == expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}")) }
    })
    .await;
}
