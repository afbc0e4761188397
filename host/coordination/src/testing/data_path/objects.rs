//! The object store: what is in it, and that nothing is ever gone which a record names.

use super::{Command, Input, applied};
use crate::record::{OwnershipRecord, StoredSnapshot, object_parts};
use crate::{Epoch, Snapshot};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Objects {
    there: BTreeMap<String, Vec<u8>>,
}

impl Objects {
    /// A request reaches the store. What it answers, if nothing goes wrong.
    pub(crate) fn serve(&mut self, record_key: &str, command: &Command) -> Option<Input> {
        Some(match command {
            Command::PutObject { name, data } => {
                self.there.insert(name.clone(), data.to_vec());
                Input::ObjectPut(Ok(()))
            }
            Command::GetObject(name) => Input::Object(self.there.get(name).cloned().ok_or_else(|| "not found".into())),
            Command::DeleteObjects { names, before } => {
                self.there.retain(|name, _| !names.contains(name) && !is_before(name, record_key, *before));
                Input::ObjectsDeleted(Ok(()))
            }
            _ => return None,
        })
    }

    /// The sequences in the state that a record holds or names.
    pub(super) fn state(&self, record: &OwnershipRecord) -> Result<Vec<u64>, String> {
        Ok(applied(record.snapshot.as_ref().map(|stored| self.load(stored)).transpose()?.as_ref()))
    }

    fn load(&self, stored: &StoredSnapshot) -> Result<Snapshot, String> {
        match stored.object() {
            None => stored.load().map_err(|e| e.to_string()),
            Some(name) => {
                let data =
                    self.there.get(name).ok_or_else(|| format!("the object {name} is named, and is not there"))?;
                Ok(Snapshot { format: stored.format.clone(), data: data.clone() })
            }
        }
    }

    /// What is wrong with what a record names.
    pub(crate) fn judge(&self, record: &OwnershipRecord) -> Option<String> {
        self.load(record.snapshot.as_ref()?).err()
    }

    /// How many objects a partition has.
    pub(crate) fn of(&self, record_key: &str) -> usize {
        self.there.keys().filter(|name| object_parts(name).is_some_and(|(key, ..)| key == record_key)).count()
    }
}

/// What a request to the object store gets if nobody answers, or if the answer does not come through.
pub(crate) fn no_answer(command: &Command) -> Option<Input> {
    Some(match command {
        Command::PutObject { .. } => Input::ObjectPut(Err("no answer".into())),
        Command::GetObject(_) => Input::Object(Err("no answer".into())),
        Command::DeleteObjects { .. } => Input::ObjectsDeleted(Err(())),
        _ => return None,
    })
}

fn is_before(name: &str, record_key: &str, before: Option<Epoch>) -> bool {
    object_parts(name).is_some_and(|(key, epoch, _)| key == record_key && before.is_some_and(|before| epoch < before))
}
