//! Where the code that components compile to is kept, so that the next start and the other workers of a machine need not compile.
//!
//! wasmtime does the keeping: the key covers the component, the engine's settings and the compiler's version, files come by renaming, and
//! what does not fit is compiled anew. What is ours is the question of who may write there. Compiled code runs as it is, in no sandbox:
//! whoever can put a file there can do what the worker can. A plugin directory is often open to more people than that.

use rustix::process::geteuid;
use std::fs::{self, DirBuilder, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use wasmtime::{Cache, CacheConfig};

/// Why compiled code is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{} cannot be used: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("others than this user can write {}, and compiled code is run as it is", path.display())]
    Open { path: PathBuf },
    #[error("wasmtime refuses it: {0}")]
    Refused(String),
}

/// Opens the cache in this directory. What is missing is created, for this user alone.
///
/// # Errors
/// It cannot be created or read, or somebody else could put a file or a directory in its place.
pub(super) fn open(directory: &Path) -> Result<Cache, Unusable> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        |error| Unusable::Io { path, error }
    };
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent).map_err(unusable(parent))?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(unusable(directory)(error)),
        _ => {}
    }
    let directory = directory.canonicalize().map_err(unusable(directory))?;
    for path in directory.ancestors() {
        let found = fs::metadata(path).map_err(unusable(path))?;
        if !is_ours(&found, path == directory) {
            return Err(Unusable::Open { path: path.to_owned() });
        }
    }
    let mut config = CacheConfig::new();
    config.with_directory(directory);
    Cache::new(config).map_err(|error| Unusable::Refused(format!("{error:#}")))
}

/// Whether nobody but this user and root can change what has a name in this directory. In a sticky one, such as `/tmp`, everybody can add
/// names, and nobody can take away another's; that does for the directories above.
fn is_ours(found: &Metadata, is_cache: bool) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let owner = found.uid();
    let closed = found.mode() & OTHERS_WRITE == 0 || (!is_cache && found.mode() & STICKY != 0);
    closed && (owner == 0 || owner == geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn compiled_code_is_kept_only_where_nobody_else_can_write() {
        let above = tempfile::tempdir().unwrap();
        let directory = above.path().join("cache/code");
        assert!(open(&directory).is_ok());
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700, "created for this user alone");
        for (path, mode) in [(directory.clone(), 0o770), (directory.clone(), 0o1777), (above.path().into(), 0o702)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(open(&directory), Err(Unusable::Open { path: open }) if open == path.canonicalize().unwrap())
            );
            fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        }
        fs::set_permissions(above.path(), Permissions::from_mode(0o1777)).unwrap();
        assert!(open(&directory).is_ok(), "a sticky directory above, such as /tmp, lets nobody rename what is ours");
    }

    #[test]
    fn a_link_to_a_place_of_others_is_followed_and_refused() {
        let above = tempfile::tempdir().unwrap();
        let theirs = above.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::set_permissions(&theirs, Permissions::from_mode(0o777)).unwrap();
        let code = above.path().join("code");
        std::os::unix::fs::symlink(&theirs, &code).unwrap();
        assert!(matches!(open(&code), Err(Unusable::Open { path }) if path == theirs.canonicalize().unwrap()));
        fs::write(above.path().join("file"), "").unwrap();
        assert!(matches!(open(&above.path().join("file/code")), Err(Unusable::Io { .. })));
    }
}
