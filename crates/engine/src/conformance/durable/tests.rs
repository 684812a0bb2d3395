//! The checks find what they are there to find: an engine that saves all it has at each flush, careless in one way at a time.

use std::fs::{self, File};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{
    check_durable, comes_back_after_a_loss_of_power, comes_back_after_it_was_closed, comes_back_after_it_was_killed, damage,
};
use crate::{
    Batch, Capabilities, Direction, Engine, EngineError, KeyRange, Rebuild, Stats, Table, Trie, View, conformance::run_script,
};

const FAULT_VARIABLE: &str = "QUORATE_CRASH_FAULT";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Says that it flushed what it only wrote.
    SyncsNothing,
    /// A file is only found again if its folder is synced.
    SyncsNoFolder,
    /// A crash in the middle leaves neither the old nor the new.
    WritesInPlace,
    /// A pair of a later batch is saved with the numbers of an earlier.
    SavesOldNumbers,
    /// Says that it flushed and did nothing.
    SavesNothing,
    /// What was changed on disk is taken as it is.
    ChecksNothing,
}

const FAULTS: [Fault; 7] = [
    Fault::None,
    Fault::SyncsNothing,
    Fault::SyncsNoFolder,
    Fault::WritesInPlace,
    Fault::SavesOldNumbers,
    Fault::SavesNothing,
    Fault::ChecksNothing,
];

#[test]
fn a_careful_engine_passes() {
    check_durable(&|folder| open(folder, Fault::None), &|| child(Fault::None));
}

#[test]
fn reopening_finds_what_was_not_saved() {
    for fault in [Fault::SavesNothing, Fault::SavesOldNumbers] {
        assert_found(fault, || comes_back_after_it_was_closed(&|folder| open(folder, fault)));
    }
}

#[test]
fn killing_finds_what_was_not_saved() {
    let fault = Fault::SavesNothing;
    assert_found(fault, || comes_back_after_it_was_killed(&|folder| open(folder, fault), &|| child(fault)));
}

#[test]
fn a_loss_of_power_finds_what_was_not_synced() {
    if Command::new("strace").arg("-V").output().is_err() {
        return;
    }
    for fault in [Fault::SyncsNothing, Fault::SyncsNoFolder, Fault::WritesInPlace, Fault::SavesOldNumbers] {
        assert_found(fault, || comes_back_after_a_loss_of_power(&|folder| open(folder, fault), &|| child(fault)));
    }
}

#[test]
fn damage_that_is_not_noticed_is_found() {
    assert_found(Fault::ChecksNothing, || damage::check(&|folder| open(folder, Fault::ChecksNothing)));
}

#[test]
#[ignore = "other tests start it in a process of its own"]
fn crashes() {
    let name = std::env::var(FAULT_VARIABLE).unwrap();
    let fault = FAULTS.into_iter().find(|fault| format!("{fault:?}") == name).unwrap();
    run_script(&|folder| open(folder, fault));
}

fn child(fault: Fault) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "conformance::durable::tests::crashes", "--ignored", "--nocapture"]);
    child.env(FAULT_VARIABLE, format!("{fault:?}"));
    child
}

fn assert_found(fault: Fault, check: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(check)).is_err(), "{fault:?} went unnoticed");
}

/// A trie, and the file that it is saved in.
#[derive(Debug)]
struct Saved {
    content: Arc<Trie>,
    file: Arc<SavedFile>,
}

#[derive(Debug)]
struct SavedFile {
    folder: PathBuf,
    fault: Fault,
    applied: Mutex<u64>,
}

fn open(folder: &Path, fault: Fault) -> Result<Arc<dyn Engine>, EngineError> {
    fs::create_dir_all(folder)?;
    let content = Trie::new();
    if let Ok(bytes) = fs::read(folder.join("state")) {
        load(&bytes, &content, fault)?;
    }
    let applied = Mutex::new(content.view().applied());
    let file = Arc::new(SavedFile { folder: folder.to_owned(), fault, applied });
    Ok(Arc::new(Saved { content: Arc::new(content), file }))
}

fn load(bytes: &[u8], content: &Trie, fault: Fault) -> Result<(), EngineError> {
    let damaged = || EngineError::Corrupt("the state is damaged".to_owned());
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
    if fault != Fault::ChecksNothing && crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(damaged());
    }
    let mut body = Bytes::copy_from_slice(body);
    let mut take = |len: usize| if len <= body.len() { Ok(body.split_to(len)) } else { Err(damaged()) };
    let number = |take: &mut dyn FnMut(usize) -> Result<Bytes, EngineError>| {
        take(8).map(|bytes| u64::from_le_bytes(bytes[..].try_into().unwrap()))
    };
    let (applied, revision, count) = (number(&mut take)?, number(&mut take)?, number(&mut take)?);
    let mut rebuild = content.rebuild()?;
    for _ in 0..count {
        let (tag, key_len, value_len) = (number(&mut take)?, number(&mut take)?, number(&mut take)?);
        let table = u8::try_from(tag).ok().and_then(Table::from_tag).ok_or_else(damaged)?;
        rebuild.put(table, take(key_len as usize)?, take(value_len as usize)?)?;
    }
    rebuild.commit(applied, revision)
}

impl SavedFile {
    fn save(&self, view: &dyn View) -> Result<u64, EngineError> {
        let mut pairs = Vec::new();
        for table in Table::ALL {
            for item in view.scan(table, &KeyRange::all(), Direction::Forward) {
                pairs.push((table, item?));
            }
        }
        let applied = view.applied();
        let saved_applied = if self.fault == Fault::SavesOldNumbers { applied.saturating_sub(1) } else { applied };
        let mut bytes = [saved_applied, view.revision(), pairs.len() as u64].map(u64::to_le_bytes).concat();
        for (table, (key, value)) in pairs {
            bytes.extend([table as u64, key.len() as u64, value.len() as u64].map(u64::to_le_bytes).concat());
            bytes.extend_from_slice(&key);
            bytes.extend_from_slice(&value);
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        self.write(&bytes)?;
        *self.applied.lock().unwrap() = applied;
        Ok(applied)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), EngineError> {
        if self.fault == Fault::SavesNothing {
            return Ok(());
        }
        let state = self.folder.join("state");
        let part = if self.fault == Fault::WritesInPlace { state.clone() } else { self.folder.join("part") };
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        if self.fault != Fault::SyncsNothing {
            file.sync_all()?;
        }
        fs::rename(&part, state)?;
        if self.fault != Fault::SyncsNoFolder {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }
}

impl Engine for Saved {
    fn kind(&self) -> &'static str {
        "saved"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { durable: true, ..self.content.capabilities() }
    }

    fn view(&self) -> Arc<dyn View> {
        self.content.view()
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.content.apply(batch)
    }

    fn durable_applied(&self) -> u64 {
        *self.file.applied.lock().unwrap()
    }

    fn flush(&self) -> Result<u64, EngineError> {
        self.file.save(&*self.content.view())
    }

    fn rebuild(&self) -> Result<Box<dyn Rebuild>, EngineError> {
        let (inner, content, file) = (self.content.rebuild()?, Arc::clone(&self.content), Arc::clone(&self.file));
        Ok(Box::new(SavedRebuild { inner, content, file }))
    }

    fn stats(&self) -> Stats {
        self.content.stats()
    }
}

#[derive(Debug)]
struct SavedRebuild {
    inner: Box<dyn Rebuild>,
    content: Arc<Trie>,
    file: Arc<SavedFile>,
}

impl Rebuild for SavedRebuild {
    fn put(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        self.inner.put(table, key, value)
    }

    fn commit(self: Box<Self>, applied: u64, revision: u64) -> Result<(), EngineError> {
        self.inner.commit(applied, revision)?;
        self.file.save(&*self.content.view()).map(drop)
    }
}
