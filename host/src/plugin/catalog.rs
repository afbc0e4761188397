//! The plugin directory: which components are there, and which are fit to use.

use super::digest::Digest;
use super::engine::PluginEngine;
use super::error::LoadError;
use super::grants::Grants;
use super::inspect::{PluginKind, inspect};
use super::limits::Limits;
use super::sidecar::{Sidecar, merge};
use super::version::PluginSettings;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The directory of `plugins.directory`: `<name>.wasm`, each with an optional `<name>.yaml` beside it.
#[derive(Debug, Clone)]
pub struct Catalog {
    directory: PathBuf,
    limits: Limits,
    /// By the plugins' names.
    grants: BTreeMap<String, Grants>,
}

/// Loads a plugin of one kind from its bytes, under a name.
pub type Load<P> = fn(&PluginEngine, &str, &[u8], PluginSettings) -> Result<Arc<P>, LoadError>;

/// Which plugin the configuration asks for, and what it sets for it.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The plugin's name.
    pub name: &'a str,
    /// The section of the configuration that names it, such as `handler`.
    pub section: &'a str,
    /// What it must be.
    pub kind: PluginKind,
    /// What the plugin gets as its configuration, over that of its sidecar, key by key.
    pub config: Map<String, Value>,
    /// What it may use; a sidecar can lower that.
    pub limits: Limits,
}

/// Why the catalog does not give a plugin.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The directory cannot be read.
    #[error("the plugin directory {} cannot be read: {error}. Create it, or set plugins.directory", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// A name that is no file name of the directory.
    #[error(
        "`{name}` is no plugin name. A name has letters, digits, `-`, `_` and `.`, begins with a letter or digit, and is the \
         name of a file in plugins.directory without `.wasm`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// No such plugin.
    #[error(
        "there is no plugin `{name}` in {}. {}. Copy {name}.wasm there, or correct the name or plugins.directory",
        directory.display(), available(names, nearest.as_deref())
    )]
    Missing {
        /// The name.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
        /// What is there instead, sorted.
        names: Vec<String>,
        /// The likeliest of them.
        nearest: Option<String>,
    },
    /// A file that cannot be read.
    #[error("{} cannot be read: {error}. Check the file's permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// A sidecar that is not as it should be.
    #[error("{} is refused: {detail}. Correct the file; it may have the keys config, limits, sha256 and enabled", path.display())]
    Sidecar {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A plugin switched off by its sidecar.
    #[error("plugin {name} is disabled: {} says `enabled: false`. Enable it there, or configure another plugin", path.display())]
    Disabled {
        /// The name.
        name: String,
        /// The sidecar.
        path: PathBuf,
    },
    /// A component other than the one that the sidecar vouches for.
    #[error(
        "plugin {name} has the digest {found}, but its sidecar demands {wanted}. \
         The file was damaged or replaced: copy it again, or correct `sha256`"
    )]
    Digest {
        /// The name.
        name: String,
        /// What the file has.
        found: Digest,
        /// What the sidecar names.
        wanted: String,
    },
    /// A file that is no plugin of this host.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl CatalogError {
    /// Whether the directory has no plugin of that name, as opposed to one that cannot be used.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Name { .. })
    }
}

fn available(names: &[String], nearest: Option<&str>) -> String {
    match (names, nearest) {
        ([], _) => "The directory has no plugins".to_owned(),
        (_, Some(nearest)) => format!("Did you mean `{nearest}`? It has {}", names.join(", ")),
        (_, None) => format!("It has {}", names.join(", ")),
    }
}

/// Where the limits of a plugin come from that no section names.
const LISTED: &str = "plugins.defaults";

/// A component of the directory, as far as it can be told without compiling it.
#[derive(Debug)]
pub struct Listing {
    /// Its name.
    pub name: String,
    /// What it is, its digest and size, or why it cannot be used.
    pub component: Result<ListedComponent, CatalogError>,
}

/// What a usable component of the directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedComponent {
    /// What it is.
    pub kind: PluginKind,
    /// What identifies its version.
    pub digest: Digest,
    /// Bytes of the component.
    pub size: u64,
    /// The interfaces it imports.
    pub imports: Vec<String>,
}

/// What a version is made of, besides the configuration: a component, and the text of its sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// The component.
    pub bytes: Vec<u8>,
    /// What lies beside it, if anything does.
    pub sidecar: Option<String>,
}

/// A plugin that is not yet compiled, but known: what it is, how it is configured and limited.
pub struct Prepared {
    name: String,
    component: Component,
    digest: Digest,
    settings: PluginSettings,
    /// Why its sidecar does not suit its kind.
    unsuited: Option<CatalogError>,
}

impl Prepared {
    /// The version that it is, as [`PluginVersion::id`](super::PluginVersion::id) tells it once it is compiled.
    #[must_use]
    pub fn id(&self) -> String {
        self.settings.id(&self.digest)
    }

    /// The digest of its component.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it is made of.
    #[must_use]
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// Compiles it.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn load<P>(self, engine: &PluginEngine, load: Load<P>) -> Result<Arc<P>, CatalogError> {
        let plugin = load(engine, &self.name, &self.component.bytes, self.settings)?;
        self.unsuited.map_or(Ok(plugin), Err)
    }
}

/// What a sidecar makes of a component.
struct Found {
    sidecar: Sidecar,
    limits: Limits,
    digest: Digest,
}

impl Catalog {
    /// The catalog of a directory. `limits` hold for what is listed; `grants` are for the plugins of these names.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, limits: Limits, grants: BTreeMap<String, Grants>) -> Self {
        Self { directory: directory.into(), limits, grants }
    }

    fn grants(&self, name: &str) -> Grants {
        self.grants.get(name).cloned().unwrap_or_default()
    }

    /// Load a plugin: `load` is that of its kind, such as [`HandlerPlugin::load`](super::HandlerPlugin::load), and compiles.
    ///
    /// # Errors
    /// No such plugin, or one that cannot be used.
    pub fn load<P>(&self, engine: &PluginEngine, wanted: Wanted<'_>, load: Load<P>) -> Result<Arc<P>, CatalogError> {
        let component = self.read(&wanted)?;
        self.prepare(wanted, component)?.load(engine, load)
    }

    /// What the directory has of a plugin.
    ///
    /// # Errors
    /// No such plugin, or one that cannot be read.
    pub fn read(&self, wanted: &Wanted<'_>) -> Result<Component, CatalogError> {
        self.read_files(wanted.name, wanted.section, &wanted.limits)
    }

    /// What the directory has beside a plugin's component, whether that is there or not.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read_sidecar(&self, name: &str) -> Result<Option<String>, CatalogError> {
        if !is_name(name) {
            return Err(CatalogError::Name { name: name.to_owned() });
        }
        let path = self.sidecar(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CatalogError::Unreadable { path, error }),
        }
    }

    /// When the component of a plugin was last written, if there is one.
    #[must_use]
    pub fn modified(&self, name: &str) -> Option<SystemTime> {
        fs::metadata(self.directory.join(format!("{name}.wasm"))).ok()?.modified().ok()
    }

    /// What a component becomes with its sidecar and the configuration, wherever it is from.
    ///
    /// # Errors
    /// Its sidecar is not as it should be, or demands another component.
    pub fn prepare(&self, wanted: Wanted<'_>, component: Component) -> Result<Prepared, CatalogError> {
        let Found { sidecar, limits, digest } = self.apply_sidecar(wanted.name, &component, &wanted.limits)?;
        let unsuited = self.suits(wanted.name, sidecar.limits.meaningless(wanted.kind)).err();
        let mut config = sidecar.config;
        merge(&mut config, wanted.config);
        let grants = self.grants(wanted.name);
        let settings = PluginSettings { section: wanted.section.into(), config, limits, grants };
        Ok(Prepared { name: wanted.name.to_owned(), component, digest, settings, unsuited })
    }

    /// Every component of the directory, sorted by name.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn list(&self) -> Result<Vec<Listing>, CatalogError> {
        let listed = self.names()?.into_iter().map(|name| Listing { component: self.describe(&name), name });
        Ok(listed.collect())
    }

    fn describe(&self, name: &str) -> Result<ListedComponent, CatalogError> {
        let component = self.read_files(name, LISTED, &self.limits)?;
        let found = self.apply_sidecar(name, &component, &self.limits)?;
        let inspection = inspect(name, &component.bytes, &self.grants(name))?;
        self.suits(name, found.sidecar.limits.meaningless(inspection.kind))?;
        Ok(ListedComponent {
            kind: inspection.kind,
            digest: found.digest,
            size: component.bytes.len() as u64,
            imports: inspection.imports,
        })
    }

    fn read_files(&self, name: &str, section: &str, ceiling: &Limits) -> Result<Component, CatalogError> {
        let sidecar = self.read_sidecar(name)?;
        if let Some(bytes) = self.read_component(name, section, ceiling.component_bytes)? {
            return Ok(Component { bytes, sidecar });
        }
        let names = self.names()?;
        let nearest = nearest(name, &names);
        Err(CatalogError::Missing { name: name.to_owned(), directory: self.directory.clone(), names, nearest })
    }

    fn apply_sidecar(&self, name: &str, component: &Component, ceiling: &Limits) -> Result<Found, CatalogError> {
        let path = self.sidecar(name);
        let sidecar = parse_sidecar(&path, component.sidecar.as_deref())?;
        if !sidecar.enabled {
            return Err(CatalogError::Disabled { name: name.to_owned(), path });
        }
        let digest = Digest::of(&component.bytes);
        if let Some(wanted) = sidecar.sha256.as_ref().filter(|wanted| !wanted.eq_ignore_ascii_case(digest.as_str())) {
            return Err(CatalogError::Digest { name: name.to_owned(), found: digest, wanted: wanted.clone() });
        }
        match sidecar.limits.within(ceiling) {
            Ok(limits) => Ok(Found { sidecar, limits, digest }),
            Err(detail) => Err(CatalogError::Sidecar { path, detail }),
        }
    }

    /// Whether a plugin's sidecar suits its kind: it sets no limit that is meaningless for it.
    fn suits(&self, name: &str, meaningless: Option<String>) -> Result<(), CatalogError> {
        match meaningless {
            Some(detail) => Err(CatalogError::Sidecar { path: self.sidecar(name), detail }),
            None => Ok(()),
        }
    }

    fn sidecar(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.yaml"))
    }

    /// The bytes of a component, or `None` if it is not there. Reads no more than a component may have.
    fn read_component(&self, name: &str, section: &str, limit: u64) -> Result<Option<Vec<u8>>, CatalogError> {
        let path = self.directory.join(format!("{name}.wasm"));
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| {
            let size = file.metadata()?.len();
            file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok(size)
        });
        match read {
            Ok(size) if bytes.len() as u64 > limit => {
                Err(LoadError::TooLarge { plugin: name.into(), section: section.into(), size, limit }.into())
            }
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CatalogError::Unreadable { path, error }),
        }
    }

    /// The names of the `*.wasm` files, sorted.
    fn names(&self) -> Result<Vec<String>, CatalogError> {
        let unreadable = |error| CatalogError::Directory { directory: self.directory.clone(), error };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.file_name();
            if let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".wasm")).filter(|name| is_name(name)) {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Whether `name` can name a file of the directory, and nothing outside it.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// The name that `name` was probably meant to be, if one is near enough to be a slip.
fn nearest(name: &str, names: &[String]) -> Option<String> {
    const NEAR: f64 = 0.8;
    let likeness = |other: &&String| strsim::jaro_winkler(name, other);
    names.iter().filter(|other| likeness(other) >= NEAR).max_by(|a, b| likeness(a).total_cmp(&likeness(b))).cloned()
}

fn parse_sidecar(path: &Path, text: Option<&str>) -> Result<Sidecar, CatalogError> {
    let Some(text) = text else { return Ok(Sidecar::default()) };
    serde_saphyr::from_str(text)
        .map_err(|error| CatalogError::Sidecar { path: path.to_owned(), detail: error.without_snippet().to_string() })
}
