//! The instances of a handler on this worker: one for each partition, or a few that its partitions share.
//!
//! A shared instance serves one call at a time, and what ends one of them badly ends the instance for all that share it. The others
//! notice at their next call, of which nothing is held against their messages: they open again, each from its last commit.

use super::error::CallError;
use super::handler::{HandlerInstance, HandlerPlugin, House, Place};
use super::host::{Ownership, Scope};
use parti_coordination::{OpenReason, Partition, Snapshot};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{MappedMutexGuard, MutexGuard};
use wasmtime::component::ResourceAny;

/// Opens a handler's partitions where they are to live.
pub struct HandlerInstances {
    plugin: Arc<HandlerPlugin>,
    /// None where each partition has an instance of its own.
    slots: Vec<Arc<Slot>>,
}

impl HandlerInstances {
    /// Of this version: so many that are shared, or one for each partition.
    #[must_use]
    pub fn new(plugin: Arc<HandlerPlugin>, shared: Option<NonZeroUsize>) -> Self {
        let slots = (0..shared.map_or(0, NonZeroUsize::get)).map(|_| Arc::default()).collect();
        Self { plugin, slots }
    }

    /// The version.
    #[must_use]
    pub fn plugin(&self) -> &Arc<HandlerPlugin> {
        &self.plugin
    }

    /// Open a partition: in an instance of its own, or in the shared one with the fewest partitions.
    ///
    /// # Errors
    /// The guest's refusal, for example of a snapshot in a format it does not know, or a failed call.
    pub async fn open(
        &self,
        partition: &Partition,
        why: OpenReason,
        snapshot: Option<&Snapshot>,
        ownership: &Ownership,
    ) -> Result<HandlerInstance, CallError> {
        match self.slots.iter().min_by_key(|slot| slot.tenants.load(Relaxed)) {
            Some(slot) => Tenancy::begin(&self.plugin, slot, partition, why, snapshot, ownership).await,
            None => self.plugin.open(partition, why, snapshot, ownership).await,
        }
    }
}

/// A place for one shared instance, and for the next one when that is lost.
#[derive(Default)]
struct Slot {
    tenants: AtomicUsize,
    lived_in: tokio::sync::Mutex<LivedIn>,
    left: Mutex<Vec<Left>>,
}

/// What a partition that has left without a word has left behind in the instance of this number.
struct Left {
    number: u64,
    scope: Scope,
    handler: ResourceAny,
}

#[derive(Default)]
struct LivedIn {
    /// Of the instance.
    number: u64,
    house: Option<House>,
}

impl Slot {
    fn left(&self) -> std::sync::MutexGuard<'_, Vec<Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance, with nothing in it of those who have left.
    async fn clear_out(&self, lived_in: &mut LivedIn) {
        let LivedIn { number, house: Some(house) } = lived_in else { return };
        let left = std::mem::take(&mut *self.left());
        for Left { scope, handler, .. } in left.into_iter().filter(|left| left.number == *number) {
            house.enter(&scope);
            if house.forget(handler).await.is_err() {
                // It is lost, and everything in it with it.
                return;
            }
        }
    }
}

/// A partition in a shared instance.
pub(super) struct Tenancy {
    slot: Arc<Slot>,
    plugin: Arc<HandlerPlugin>,
    scope: Scope,
    number: u64,
    /// What the partition has there, until it is closed.
    handler: Option<ResourceAny>,
}

impl Tenancy {
    async fn begin(
        plugin: &Arc<HandlerPlugin>,
        slot: &Arc<Slot>,
        partition: &Partition,
        why: OpenReason,
        snapshot: Option<&Snapshot>,
        ownership: &Ownership,
    ) -> Result<HandlerInstance, CallError> {
        slot.tenants.fetch_add(1, Relaxed);
        let scope = Scope::of(partition.id(), ownership);
        let mut tenancy = Self { slot: Arc::clone(slot), plugin: Arc::clone(plugin), scope, number: 0, handler: None };
        let mut lived_in = slot.lived_in.lock().await;
        slot.clear_out(&mut lived_in).await;
        let LivedIn { number, house } = &mut *lived_in;
        if house.as_ref().is_none_or(House::is_lost) {
            (*number, *house) = (*number + 1, Some(House::new(plugin.version(), tenancy.scope.clone())));
        }
        // There is one now.
        if let Some(house) = house {
            house.enter(&tenancy.scope);
            tenancy.number = *number;
            tenancy.handler = Some(house.open(plugin, partition, why, snapshot).await?);
        }
        drop(lived_in);
        Ok(HandlerInstance { place: Place::Shared(tenancy) })
    }

    /// The instance for one call of this partition, and what the partition has there. Who is not waited for any more by the time
    /// that it is free does not call it: the partition may be another worker's.
    pub(super) async fn enter(&self) -> Result<(MappedMutexGuard<'_, House>, ResourceAny), CallError> {
        let entered = self.enter_at_last().await?;
        match self.scope.is_cancelled() {
            true => Err(CallError::Lost { plugin: self.plugin.version().name().into() }),
            false => Ok(entered),
        }
    }

    async fn enter_at_last(&self) -> Result<(MappedMutexGuard<'_, House>, ResourceAny), CallError> {
        let lost = || CallError::Lost { plugin: self.plugin.version().name().into() };
        let handler = self.handler.ok_or_else(lost)?;
        let mut lived_in = self.slot.lived_in.lock().await;
        self.slot.clear_out(&mut lived_in).await;
        let is_there = |lived_in: &LivedIn| {
            lived_in.number == self.number && lived_in.house.as_ref().is_some_and(|house| !house.is_lost())
        };
        if !is_there(&lived_in) {
            return Err(lost());
        }
        let mut house = MutexGuard::try_map(lived_in, |lived_in| lived_in.house.as_mut()).map_err(|_| lost())?;
        house.enter(&self.scope);
        Ok((house, handler))
    }

    /// The partition leaves nothing behind, and says goodbye before if it has something to say.
    pub(super) async fn end(
        mut self,
        goodbye: impl AsyncFnOnce(&mut House, ResourceAny) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        let (mut house, handler) = self.enter_at_last().await?;
        let said = goodbye(&mut house, handler).await;
        let gone = if house.is_lost() { Ok(()) } else { house.forget(handler).await };
        drop(house);
        self.handler = None;
        said.and(gone)
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.slot.left().push(Left { number: self.number, scope: self.scope.clone(), handler });
        }
        if self.slot.tenants.fetch_sub(1, Relaxed) == 1
            && let Ok(mut lived_in) = self.slot.lived_in.try_lock()
            && self.slot.tenants.load(Relaxed) == 0
        {
            // Nobody is left: its memory is free.
            lived_in.house = None;
            self.slot.left().clear();
        }
    }
}
