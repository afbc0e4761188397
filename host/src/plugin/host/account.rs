//! What the versions of a plugin share, so that two that run at once have together what one may have, and what they count, so that what a
//! version did that was refused or taken back is counted too.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// The accounts of all plugins of this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Accounts(Arc<Mutex<BTreeMap<String, Arc<Account>>>>);

/// The account of one plugin.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) http_sent: AtomicU64,
    pub(super) http_denied: AtomicU64,
    pub(super) log_lines_dropped: AtomicU64,
    pub(super) log_lines_cut: AtomicU64,
    pub(super) metric_values_dropped: AtomicU64,
    /// How many requests may be in flight, and their places.
    places: Mutex<Option<(u64, Arc<Semaphore>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is consistent after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Accounts {
    pub(super) fn of(&self, plugin: &str) -> Arc<Account> {
        Arc::clone(lock(&self.0).entry(plugin.to_owned()).or_default())
    }
}

impl Account {
    /// The places of so many requests in flight. A version with another limit than the one before begins anew.
    pub(super) fn places(&self, requests: u64) -> Arc<Semaphore> {
        let mut places = lock(&self.places);
        match &*places {
            Some((same, places)) if *same == requests => Arc::clone(places),
            _ => {
                let count = usize::try_from(requests).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
                let (_, new) = places.insert((requests, Arc::new(Semaphore::new(count))));
                Arc::clone(new)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_the_same_limit_share_its_places() {
        let accounts = Accounts::default();
        let (old, new) = (accounts.of("p").places(2), accounts.of("p").places(2));
        let _held = old.try_acquire().unwrap();
        assert_eq!(new.available_permits(), 1);
        assert_eq!(accounts.of("p").places(3).available_permits(), 3);
        assert_eq!(accounts.of("q").places(2).available_permits(), 2);
    }
}
