//! `--session FILE`: what was seen goes from one command to the next, and from commands that run beside each other, too.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use quorate_api::session::MAX_TOKENS;
use quorate_client::Session;

use crate::exit::Failure;
use crate::export::{FILE_MODE, beside};

/// What has been seen, by keyspace; as in the file.
type Tokens = BTreeMap<String, Vec<String>>;

/// The session that the file has; a new one if there is no file.
pub(crate) fn read(file: &Path) -> Result<Session, Failure> {
    tokens_in(file).map(Session::resume)
}

fn tokens_in(file: &Path) -> Result<Tokens, Failure> {
    let text = match std::fs::read_to_string(file) {
        // A command has made it, and has not kept anything yet.
        Ok(text) if text.is_empty() => return Ok(Tokens::new()),
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Tokens::new()),
        Err(error) => return Err(Failure::failed(format!("cannot read the session in {}: {error}", file.display()))),
    };
    serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{} has no session: {error}; remove it to begin a new one", file.display())))
}

/// Puts the session into its file, which had `before`, together with what other commands have put there since. The file changes
/// as a whole: a command that is ended meanwhile leaves the old one or the new. Waits for others who do the same.
pub(crate) fn keep(session: &Session, before: &Tokens, file: &Path) -> Result<(), Failure> {
    let cannot =
        |error: &dyn std::fmt::Display| Failure::failed(format!("cannot keep the session in {}: {error}", file.display()));
    let _turn = turn(file).map_err(|error| cannot(&error))?;
    let tokens = with_others(session.tokens(), before, tokens_in(file)?);
    if tokens.values().any(|told| told.len() > MAX_TOKENS) {
        return Err(cannot(&format!("more than {MAX_TOKENS} commands have ended since one began")));
    }
    let text = serde_json::to_string(&tokens).map_err(|error| cannot(&error))?;
    let mut temporary = beside(file).map_err(|error| cannot(&error))?;
    temporary.write_all(text.as_bytes()).map_err(|error| cannot(&error))?;
    temporary.persist(file).map_err(|error| cannot(&error))?;
    Ok(())
}

/// All that is to be kept: what this command knows, which stands for what it began with, and what is new in the file. Tokens say
/// together what has been seen; the next command that asks something makes one of them.
fn with_others(own: Tokens, before: &Tokens, there: Tokens) -> Tokens {
    let mut all = own;
    for (keyspace, told) in there {
        let known = before.get(&keyspace).map_or(&[][..], Vec::as_slice);
        let kept = all.entry(keyspace).or_default();
        for token in told {
            if !known.contains(&token) && !kept.contains(&token) {
                kept.push(token);
            }
        }
    }
    all.retain(|_, told| !told.is_empty());
    all
}

/// The right to change the file, for as long as this is open. It is the file's own lock; where another file took its place while
/// it was waited for, the lock is on one that nobody sees any more.
fn turn(file: &Path) -> io::Result<File> {
    loop {
        let held = OpenOptions::new().read(true).append(true).create(true).mode(FILE_MODE).open(file)?;
        held.lock()?;
        let id = |found: std::fs::Metadata| (found.dev(), found.ino());
        match std::fs::metadata(file) {
            Ok(found) if id(found.clone()) == id(held.metadata()?) => return Ok(held),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(of: &[(&str, &[&str])]) -> Tokens {
        let told = |told: &[&str]| told.iter().map(|token| (*token).to_owned()).collect();
        of.iter().map(|(keyspace, of_it)| ((*keyspace).to_owned(), told(of_it))).collect()
    }

    #[test]
    fn what_others_have_kept_meanwhile_stays() {
        let before = tokens(&[("carts", &["a", "b"]), ("old", &["o"])]);
        // This command made one of both; another one began with the same, and a third with nothing.
        let there = tokens(&[("carts", &["other", "third"]), ("old", &["o"]), ("new", &["n"])]);
        let own = tokens(&[("carts", &["own"]), ("old", &["o"])]);
        let kept = tokens(&[("carts", &["own", "other", "third"]), ("new", &["n"]), ("old", &["o"])]);
        assert_eq!(with_others(own.clone(), &before, there), kept);
        // Nobody else was there: what it began with has gone into its own.
        assert_eq!(with_others(own.clone(), &before, before.clone()), own);
        // The file is gone, or one of another session took its place: this one is kept all the same.
        assert_eq!(with_others(own.clone(), &before, Tokens::new()), own);
    }

    /// Each of them was the only one left, before.
    #[test]
    fn commands_that_end_together_keep_all_that_they_saw() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("session");
        let keep_one = |number: usize| {
            let own = Session::resume(tokens(&[("carts", &[&format!("t{number}")])]));
            keep(&own, &Tokens::new(), &file).unwrap_or_else(|_| panic!("{number} cannot be kept"));
        };
        std::thread::scope(|scope| {
            for from in 0..8 {
                scope.spawn(move || (0..8).for_each(|at| keep_one(8 * from + at)));
            }
        });
        assert_eq!(tokens_in(&file).ok().unwrap()["carts"].len(), MAX_TOKENS);
        let one_more = keep(&Session::resume(tokens(&[("carts", &["more"])])), &Tokens::new(), &file);
        assert!(one_more.is_err() && tokens_in(&file).ok().unwrap()["carts"].len() == MAX_TOKENS);
    }
}
