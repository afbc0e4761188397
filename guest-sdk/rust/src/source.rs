//! What an author of a partition source implements.

use crate::{Error, Listed};

/// Lists the partitions that exist.
///
/// The leader of a group asks: when it begins, and every `source.refreshInterval`. Each time it asks a new instance, so a source
/// has no memory. A listing may take 10 s (`source.plugin.callTimeout`). The list is taken as a whole or not at all: with an error,
/// a partition twice, an empty key or a list that is suddenly empty, the one before stays in force.
///
/// ```
/// use parti_guest::{Error, Listed, Source, config};
///
/// /// As many partitions as the operator wants.
/// struct Numbered;
///
/// impl Source for Numbered {
///     fn list_partitions() -> Result<Vec<Listed>, Error> {
///         let count: u32 = config::get("count").ok_or("`count` is missing")?.parse()?;
///         Ok((0..count).map(|n| Listed::new(["orders".to_owned(), n.to_string()])).collect())
///     }
/// }
///
/// parti_guest::export!(Numbered as source);
///
/// use parti_guest::{serde_json::json, testing};
/// let listed = testing::source().config(json!({"count": "2"})).list::<Numbered>()?;
/// assert_eq!(listed[1].keys, ["orders", "1"]);
/// # Ok::<(), Error>(())
/// ```
pub trait Source: 'static {
    /// Every partition, in any order.
    fn list_partitions() -> Result<Vec<Listed>, Error>;
}

impl Listed {
    /// The partition with these keys, of the usual weight.
    pub fn new<K: Into<String>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self { keys: keys.into_iter().map(Into::into).collect(), weight: 100 }
    }

    /// The same with this processing cost, relative to 100.
    pub fn weighing(self, weight: u64) -> Self {
        Self { weight, ..self }
    }
}
