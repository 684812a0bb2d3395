//! Where a demo's data lies: in a temporary folder, or in one that stays.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::exit::Failure;

/// A folder; a temporary one is removed with this value.
#[derive(Debug)]
pub(crate) enum Folder {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Folder {
    pub(crate) fn for_demo(keep: Option<PathBuf>) -> Result<Self, Failure> {
        match keep {
            None => Self::temporary(),
            Some(path) => {
                let made = std::fs::create_dir_all(&path).and_then(|()| path.canonicalize());
                made.map(Self::Kept).map_err(|error| Failure::failed(format!("cannot use {}: {error}", path.display())))
            }
        }
    }

    pub(crate) fn temporary() -> Result<Self, Failure> {
        let made = tempfile::Builder::new().prefix("quorate-demo-").tempdir();
        made.map(Self::Temporary).map_err(|error| Failure::failed(format!("cannot make a temporary folder: {error}")))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }

    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary(_))
    }
}
