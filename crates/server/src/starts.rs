//! What a node knows of its peers' starts, and so which of them it lets in: a folder that was copied, or put back from a copy,
//! must not come back as the member that it was.
//!
//! A node promises what is durable: votes, entries, what an eventual keyspace's watermark rests on. An older state of its
//! folder has lost that, and two processes with one folder's identity promise different things under one name. Only others can
//! tell. A greeting carries the incarnation, a number drawn at that start, and where the log ended; while a node runs it says
//! how far its log is durable ([`Frame::LogEnd`]). Peers keep that ([`Start`]) and refuse
//!
//! - an incarnation below one that they have seen,
//! - another process with the same incarnation,
//! - a later start whose log ends before what had been durable.
//!
//! Not covered: what the node wrote to its log in the last second before it was killed ([`SAID_EVERY`]); what peers had not noted
//! on disk before all of them were killed too ([`KEPT_EVERY`]); and a copy of a node that runs, started beside it before anything
//! more was written: it has all that the node had, takes its place, and the node is the one that is refused.
//!
//! Rule 6 of section 5.6 of the reference for eventual replication asks for this; it holds for Raft's promises as well.
//!
//! [`Frame::LogEnd`]: quorate_api::peer::Frame::LogEnd

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate_api::peer::{Frame, Hello, Lane, Refusal};
use serde::{Deserialize, Serialize};

use crate::data_dir::{DataDir, DataDirError};
use crate::log_writer::LogWriter;
use crate::peers::Peers;

/// How often a node says how far its log is durable, if that has changed.
pub(crate) const SAID_EVERY: Duration = Duration::from_secs(1);

/// How often what peers say of that is made durable, if it has changed.
const KEPT_EVERY: Duration = Duration::from_secs(10);

/// A start of a node, as a peer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StartForm")]
pub struct Start {
    /// Which start it is.
    pub incarnation: u64,
    /// Drawn by that process; 0 if it was not said.
    pub id: u64,
    /// The last batch of the node's log that is known to be durable; 0 if nothing is known.
    pub log_end: u64,
}

/// As it stands in `peers.json`: at first, and until format 1 gets a successor, also as the incarnation alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StartForm {
    Incarnation(u64),
    Start { incarnation: u64, id: u64, log_end: u64 },
}

impl From<StartForm> for Start {
    fn from(form: StartForm) -> Self {
        match form {
            StartForm::Incarnation(incarnation) => Self { incarnation, id: 0, log_end: 0 },
            StartForm::Start { incarnation, id, log_end } => Self { incarnation, id, log_end },
        }
    }
}

impl Start {
    /// The start that a greeting is of, if its node may speak as far as `known`, the newest start of it that was seen, goes.
    pub(crate) fn admit(known: Option<Self>, hello: &Hello) -> Result<Self, Refusal> {
        let is_unchecked = hello.log_end == Hello::UNCHECKED;
        let greeted =
            Self { incarnation: hello.incarnation, id: hello.start_id, log_end: if is_unchecked { 0 } else { hello.log_end } };
        let Some(known) = known else { return Ok(greeted) };
        let (node, incarnation) = (hello.node, hello.incarnation);
        if incarnation < known.incarnation {
            return Err(Refusal::older_incarnation(node, incarnation, known.incarnation));
        }
        if incarnation == known.incarnation {
            let is_other = known.id != 0 && hello.start_id != 0 && known.id != hello.start_id;
            return if is_other { Err(Refusal::other_start(node, incarnation)) } else { Ok(known) };
        }
        if !is_unchecked && hello.log_end < known.log_end {
            return Err(Refusal::older_log(node, hello.log_end, known.log_end));
        }
        Ok(greeted)
    }
}

/// The newest starts of peers, as they are on disk.
#[derive(Debug)]
pub(crate) struct KeptStarts {
    folder: Arc<DataDir>,
    /// Locked for moments: every frame that comes in asks.
    kept: Mutex<BTreeMap<u64, Start>>,
    /// Held while they are written.
    writing: Mutex<()>,
}

impl KeptStarts {
    /// Those that the folder has.
    pub(crate) fn read(folder: Arc<DataDir>) -> Result<Self, DataDirError> {
        let kept = Mutex::new(folder.peer_starts()?);
        Ok(Self { folder, kept, writing: Mutex::default() })
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeMap<u64, Start> {
        self.kept().clone()
    }

    /// Whether this start of the peer, or a later one, is on disk.
    pub(crate) fn has(&self, peer: u64, start: &Start) -> bool {
        self.kept().get(&peer).is_some_and(|kept| kept.incarnation >= start.incarnation)
    }

    /// Makes starts durable, unless later ones are. Blocks. On a full disk only what is urgent takes the room that is kept for
    /// it.
    pub(crate) fn keep(&self, starts: impl IntoIterator<Item = (u64, Start)>, is_urgent: bool) -> Result<(), DataDirError> {
        let _writing = self.writing.lock().expect(POISONED);
        let before = self.all();
        let mut next = before.clone();
        for (peer, start) in starts {
            let of_peer = next.entry(peer).or_insert(start);
            if (start.incarnation, start.log_end) > (of_peer.incarnation, of_peer.log_end) {
                *of_peer = start;
            }
        }
        if next != before {
            self.folder.write_peer_starts(&next, is_urgent)?;
            *self.kept() = next;
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<u64, Start>> {
        self.kept.lock().expect(POISONED)
    }
}

const POISONED: &str = "no panic while it is locked";

/// Says how far this node's log is durable, and keeps what peers say of theirs.
#[derive(Clone, Debug)]
pub(crate) struct Tracking {
    pub(crate) peers: Peers,
    pub(crate) log: LogWriter,
    /// What the log's numbers are behind those that are said; see [`crate::data_dir::Member::log_offset`].
    pub(crate) log_offset: u64,
    pub(crate) kept: Arc<KeptStarts>,
}

impl Tracking {
    /// Does so for as long as it is polled.
    pub(crate) async fn run(self) {
        let mut said = 0;
        let mut until_kept = KEPT_EVERY;
        loop {
            tokio::time::sleep(SAID_EVERY).await;
            until_kept = until_kept.saturating_sub(SAID_EVERY);
            // Now and then also if nothing is new, for peers that were not there.
            if self.log_end() > said || until_kept.is_zero() {
                said = self.say();
            }
            if until_kept.is_zero() {
                until_kept = KEPT_EVERY;
                keep(&self.kept, self.peers.starts(), false).await;
            }
        }
    }

    /// Once more, since nothing will be written any more.
    pub(crate) async fn finish(&self) {
        self.say();
        keep(&self.kept, self.peers.starts(), false).await;
    }

    fn log_end(&self) -> u64 {
        self.log_offset + self.log.last_sequence()
    }

    fn say(&self) -> u64 {
        let log_end = self.log_end();
        for peer in self.peers.known() {
            // If its queue is full, it hears of it with the next one.
            let _ = self.peers.send(peer, Lane::Control, Frame::LogEnd(log_end));
        }
        log_end
    }
}

/// Makes starts durable; false, and a line in the log, if that fails. See [`KeptStarts::keep`].
pub(crate) async fn keep(kept: &Arc<KeptStarts>, starts: BTreeMap<u64, Start>, is_urgent: bool) -> bool {
    let kept = Arc::clone(kept);
    match tokio::task::spawn_blocking(move || kept.keep(starts, is_urgent)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!(%error, "what is known of peers' starts cannot be noted");
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use quorate_api::peer::RefusalKind;

    use super::*;

    fn hello(incarnation: u64, start_id: u64, log_end: u64) -> Hello {
        Hello { cluster: 1, node: 3, incarnation, start_id, log_end, lane: Lane::Control, min_wire: 1, max_wire: 2 }
    }

    fn refused(known: Start, hello: &Hello) -> Option<RefusalKind> {
        Start::admit(Some(known), hello).err().map(|refusal| refusal.kind)
    }

    #[test]
    fn a_start_is_let_in_unless_it_is_of_a_copy_or_of_an_older_state() {
        let known = Start { incarnation: 5, id: 50, log_end: 1000 };
        assert_eq!(Start::admit(None, &hello(7, 70, 3)), Ok(Start { incarnation: 7, id: 70, log_end: 3 }));
        assert_eq!(refused(known, &hello(4, 40, 2000)), Some(RefusalKind::OlderIncarnation));
        // The same process greets again: what is known of it since stays.
        assert_eq!(Start::admit(Some(known), &hello(5, 50, 900)), Ok(known));
        assert_eq!(refused(known, &hello(5, 51, 2000)), Some(RefusalKind::OtherStart));
        assert_eq!(Start::admit(Some(known), &hello(6, 60, 1000)), Ok(Start { incarnation: 6, id: 60, log_end: 1000 }));
        assert_eq!(refused(known, &hello(6, 60, 999)), Some(RefusalKind::OlderLog));
        assert_eq!(refused(known, &hello(9, 60, 0)), Some(RefusalKind::OlderLog));
    }

    #[test]
    fn what_is_not_said_is_not_held_against_anybody() {
        let known = Start { incarnation: 5, id: 0, log_end: 1000 };
        assert_eq!(Start::admit(Some(known), &hello(5, 51, 0)), Ok(known));
        let unchecked = Start::admit(Some(known), &hello(6, 60, Hello::UNCHECKED));
        assert_eq!(unchecked, Ok(Start { incarnation: 6, id: 60, log_end: 0 }), "and the log may end earlier from now on");
        let known = Start { id: 50, ..known };
        assert_eq!(Start::admit(Some(known), &hello(5, 0, Hello::UNCHECKED)), Ok(known));
    }

    #[test]
    fn starts_are_kept_over_restarts_and_never_fall() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Arc::new(DataDir::open(parent.path()).unwrap());
        // As the first versions wrote it.
        std::fs::write(parent.path().join("peers.json"), r#"{"2": 4, "3": {"incarnation": 5, "id": 50, "log_end": 7}}"#).unwrap();
        let kept = KeptStarts::read(Arc::clone(&folder)).unwrap();
        let (two, three) = (Start { incarnation: 4, id: 0, log_end: 0 }, Start { incarnation: 5, id: 50, log_end: 7 });
        assert_eq!(kept.all(), BTreeMap::from([(2, two), (3, three)]));
        assert!(kept.has(3, &three) && !kept.has(3, &Start { incarnation: 6, ..three }) && !kept.has(4, &two));
        let further = Start { log_end: 9, ..three };
        kept.keep([(3, further), (4, two)], true).unwrap();
        kept.keep([(3, three), (3, Start { incarnation: 4, id: 1, log_end: 99 })], false).unwrap();
        assert_eq!(KeptStarts::read(folder).unwrap().all(), BTreeMap::from([(2, two), (3, further), (4, two)]));
    }
}
