//! What an operator has granted a plugin, and which interfaces that opens to it. Only the configuration of the host grants: whoever
//! can drop a file into the plugin directory must not be able to grant itself the network.

use crate::config::HttpOrigin;
use std::path::PathBuf;

/// What a plugin may reach beyond its host. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Where it may send HTTP requests.
    pub http: Vec<HttpOrigin>,
    /// The environment variables that it sees.
    pub env: Vec<(String, String)>,
    /// The directory that it may read.
    pub directory: Option<PathBuf>,
}

/// A grant that opens interfaces which are otherwise not linked. Environment variables need none: `wasi:cli/environment` is always
/// there, because standard libraries import it, and empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Opening {
    Http,
    Directory,
}

impl Grants {
    pub(super) fn open(&self, opening: Opening) -> bool {
        match opening {
            Opening::Http => !self.http.is_empty(),
            Opening::Directory => self.directory.is_some(),
        }
    }
}

impl Opening {
    /// Its key below the plugin's name in `plugins.grants`.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Directory => "directory",
        }
    }

    /// What is below the plugin's name in `plugins.grants` to grant it, with an example.
    pub(super) fn example(self) -> &'static str {
        match self {
            Self::Http => "http: [\"https://HOST\"]",
            Self::Directory => "directory: PATH",
        }
    }
}
