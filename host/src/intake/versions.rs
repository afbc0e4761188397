//! The versions of a handler that this worker has loaded: the one in force, and one that is on trial beside it.

use crate::plugin::HandlerPlugin;
use std::sync::{Arc, PoisonError, RwLock};

/// The handler's versions. The one in force is what a partition begins with.
pub(super) struct Versions(RwLock<Loaded>);

struct Loaded {
    current: Arc<HandlerPlugin>,
    candidate: Option<Arc<HandlerPlugin>>,
}

impl Versions {
    pub(super) fn new(current: Arc<HandlerPlugin>) -> Self {
        Self(RwLock::new(Loaded { current, candidate: None }))
    }

    /// The version in force.
    pub(super) fn current(&self) -> Arc<HandlerPlugin> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).current)
    }

    /// The version with this identity, if it is loaded.
    pub(super) fn find(&self, id: &str) -> Option<Arc<HandlerPlugin>> {
        let loaded = self.0.read().unwrap_or_else(PoisonError::into_inner);
        [Some(&loaded.current), loaded.candidate.as_ref()]
            .into_iter()
            .flatten()
            .find(|v| v.version().id() == id)
            .cloned()
    }

    /// A version is to be taken up.
    pub(super) fn propose(&self, candidate: Arc<HandlerPlugin>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).candidate = Some(candidate);
    }

    /// The proposed version is in force from now on, or the one before stays. The other one stays loaded until the next proposal: a
    /// partition that has not heard of it may still ask for it.
    pub(super) fn settle(&self, keep: bool) {
        let mut loaded = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if keep && let Some(candidate) = loaded.candidate.take() {
            loaded.candidate = Some(std::mem::replace(&mut loaded.current, candidate));
        }
    }
}
