//! What the rules look at: the repository's texts, its crate graph and its policy, read once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use thiserror::Error;

use crate::crate_graph::CrateGraph;
use crate::policy::Policy;

/// Folders that hold nothing of ours: build output and other programs' state.
const SKIPPED_FOLDERS: [&str; 4] = ["target", ".git", ".venv", "node_modules"];

/// Extensions of the files whose text the rules read.
const TEXT_EXTENSIONS: [&str; 3] = ["md", "rs", "toml"];

/// The repository, read into memory; paths are relative to its root and have `/` between their parts.
#[derive(Debug, Default)]
pub struct Workspace {
    /// Text of every `.rs`, `.md` and `.toml` file.
    pub texts: BTreeMap<String, String>,
    /// Every file and every folder.
    pub paths: BTreeSet<String>,
    /// The crates and what they depend on.
    pub graph: CrateGraph,
    /// `deny.toml`.
    pub policy: Policy,
}

/// Why the repository could not be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file or folder could not be read, or holds no UTF-8.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `cargo metadata` failed; with an outdated `Cargo.lock`, for one.
    #[error("`cargo metadata --locked` failed: {0}")]
    Cargo(String),
    /// `cargo metadata` printed something else than expected.
    #[error("`cargo metadata` printed what this version cannot read: {0}")]
    Metadata(#[from] serde_json::Error),
    /// `deny.toml` is malformed or lacks a section that the rules need.
    #[error("deny.toml: {0}")]
    Policy(#[from] toml::de::Error),
}

impl Workspace {
    /// Reads the repository that this crate was built in; blocks on the file system and on cargo.
    pub fn load() -> Result<Self, LoadError> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut workspace = Self { graph: CrateGraph::parse(&cargo_metadata(&root)?)?, ..Self::default() };
        workspace.read_folder(&root, "")?;
        let policy = workspace.texts.get("deny.toml").map_or("", String::as_str);
        workspace.policy = Policy::parse(policy)?;
        Ok(workspace)
    }

    /// The files with this extension, as (path, text).
    pub fn texts_with(&self, extension: &'static str) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .filter(move |(path, _)| has_extension(path, extension))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    fn read_folder(&mut self, root: &Path, folder: &str) -> Result<(), LoadError> {
        let absolute = root.join(folder);
        let unreadable = |source| LoadError::Unreadable { path: absolute.clone(), source };
        for entry in fs::read_dir(&absolute).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let file_type = entry.file_type().map_err(unreadable)?;
            if file_type.is_dir() && !SKIPPED_FOLDERS.contains(&name.as_str()) {
                self.read_folder(root, &path)?;
            } else if file_type.is_file() && TEXT_EXTENSIONS.iter().any(|extension| has_extension(&path, extension)) {
                let read = fs::read_to_string(entry.path());
                let text = read.map_err(|source| LoadError::Unreadable { path: entry.path(), source })?;
                self.texts.insert(path.clone(), text);
            }
            self.paths.insert(path);
        }
        Ok(())
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

/// `--locked`, because a check must not change the lock file; one platform, because the others' packages need not be on
/// this machine.
fn cargo_metadata(root: &Path) -> Result<Vec<u8>, LoadError> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "host-tuple"])
        .current_dir(root)
        .output()
        .map_err(|error| LoadError::Cargo(error.to_string()))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(LoadError::Cargo(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
