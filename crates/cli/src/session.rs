//! `--session FILE`: what was seen goes from one command to the next.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use quorate_client::Session;

use crate::exit::Failure;
use crate::export::beside;

/// The session that the file has; a new one if there is no file.
pub(crate) fn read(file: &Path) -> Result<Session, Failure> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Session::new()),
        Err(error) => return Err(Failure::failed(format!("cannot read the session in {}: {error}", file.display()))),
    };
    let tokens: BTreeMap<String, Vec<String>> = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{} has no session: {error}; remove it to begin a new one", file.display())))?;
    Ok(Session::resume(tokens))
}

/// Puts the session into its file, as a whole: a command that is ended meanwhile leaves the old one or the new.
pub(crate) fn keep(session: &Session, file: &Path) -> Result<(), Failure> {
    let cannot =
        |error: &dyn std::fmt::Display| Failure::failed(format!("cannot keep the session in {}: {error}", file.display()));
    let text = serde_json::to_string(&session.tokens()).map_err(|error| cannot(&error))?;
    let mut temporary = beside(file).map_err(|error| cannot(&error))?;
    temporary.write_all(text.as_bytes()).map_err(|error| cannot(&error))?;
    temporary.persist(file).map_err(|error| cannot(&error))?;
    Ok(())
}
