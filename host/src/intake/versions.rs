//! The versions of a handler that this worker has loaded: the one in force, and one that is on trial beside it.

use crate::plugin::{HandlerInstances, HandlerPlugin};
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError, RwLock};

/// The handler's versions. The one in force is what a partition begins with.
pub(super) struct Versions {
    /// Instances that the partitions share, if they do.
    shared: Option<NonZeroUsize>,
    loaded: RwLock<Loaded>,
}

struct Loaded {
    current: Arc<HandlerInstances>,
    candidate: Option<Arc<HandlerInstances>>,
}

impl Versions {
    pub(super) fn new(current: Arc<HandlerPlugin>, shared: Option<NonZeroUsize>) -> Self {
        let current = Arc::new(HandlerInstances::new(current, shared));
        Self { shared, loaded: RwLock::new(Loaded { current, candidate: None }) }
    }

    /// The version in force.
    pub(super) fn current(&self) -> Arc<HandlerPlugin> {
        Arc::clone(self.loaded.read().unwrap_or_else(PoisonError::into_inner).current.plugin())
    }

    /// The instances of the version with this identity, if it is loaded.
    pub(super) fn find(&self, id: &str) -> Option<Arc<HandlerInstances>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        [Some(&loaded.current), loaded.candidate.as_ref()]
            .into_iter()
            .flatten()
            .find(|instances| instances.plugin().version().id() == id)
            .cloned()
    }

    /// A version is to be taken up.
    pub(super) fn propose(&self, candidate: Arc<HandlerPlugin>) {
        let candidate = Arc::new(HandlerInstances::new(candidate, self.shared));
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).candidate = Some(candidate);
    }

    /// The proposed version is in force from now on, or the one before stays. The other one stays loaded until the next proposal: a
    /// partition that has not heard of it may still ask for it.
    pub(super) fn settle(&self, keep: bool) {
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        if keep && let Some(candidate) = loaded.candidate.take() {
            loaded.candidate = Some(std::mem::replace(&mut loaded.current, candidate));
        }
    }
}
