//! The version of a plugin that is in force, for those who call it and for the one who replaces it.

use std::sync::{Arc, PoisonError, RwLock};

/// A version that can be replaced between two calls: who calls it asks for it each time. Clones show the same one.
#[derive(Debug)]
pub struct Current<P>(Arc<RwLock<Arc<P>>>);

impl<P> Clone for Current<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P> Current<P> {
    /// Begins with this version.
    #[must_use]
    pub fn new(version: Arc<P>) -> Self {
        Self(Arc::new(RwLock::new(version)))
    }

    /// The version in force.
    #[must_use]
    pub fn get(&self) -> Arc<P> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another version is in force from the next call on. Calls under way end with the one that they have begun with.
    pub fn replace(&self, version: Arc<P>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = version;
    }
}
