//! A source: what it lists, or why a worker would refuse that.

use super::figures::{micros, shown};
use super::{Bench, Verdict};
use crate::cli::operator::print::{counted, grouped};
use crate::cli::operator::table::{Align, Table};
use crate::error::OperatorError;
use crate::plugin::{PluginVersion, SourcePlugin};
use crate::source::checked;
use crate::worker::load_alone;
use parti_coordination::Partition;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// Partitions that are shown where not all of them are asked for.
const LISTED: usize = 100;

/// What it lists.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Found {
    partitions: Vec<Row>,
    micros: f64,
}

#[derive(Serialize)]
struct Row {
    id: String,
    keys: Vec<String>,
    weight: u64,
}

pub(super) async fn test(bench: &Bench<'_>) -> Result<(Arc<PluginVersion>, Verdict<Found>), OperatorError> {
    let file = &bench.file;
    let plugin = load_alone::<SourcePlugin>(&bench.engine, file.directory, file.name, &file.config, &file.host)?;
    let begun = Instant::now();
    let listed = plugin.list().await;
    let micros = micros(begun.elapsed());
    let (mut failures, mut notes) = (Vec::new(), Vec::new());
    let partitions = match listed.map_err(|error| error.to_string()).and_then(checked) {
        Ok(partitions) => partitions,
        Err(why) => {
            failures.push(why);
            Vec::new()
        }
    };
    if partitions.is_empty() && failures.is_empty() {
        notes.push(
            "the list is empty: where there were partitions, that is believed only with source.plugin.allowEmpty"
                .to_owned(),
        );
    }
    let row = |partition: &Partition| Row {
        id: partition.id().to_string(),
        keys: partition.keys().to_vec(),
        weight: partition.weight(),
    };
    let found = Found { partitions: partitions.iter().map(row).collect(), micros };
    Ok((Arc::clone(plugin.version()), Verdict { failures, notes, found }))
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[("PARTITION", Align::Left), ("WEIGHT", Align::Right), ("KEYS", Align::Left)]);
        for Row { id, keys, weight } in self.partitions.iter().take(LISTED) {
            table.row([id.clone(), grouped(*weight), format!("{keys:?}")]);
        }
        if !self.partitions.is_empty() {
            writeln!(f, "{table}")?;
        }
        let count = self.partitions.len();
        if count > LISTED {
            writeln!(f, "and {} more; --json lists all", grouped((count - LISTED) as u64))?;
        }
        writeln!(f, "{} in {}", counted(count as u64, "partition"), shown(self.micros))
    }
}
