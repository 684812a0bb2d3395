//! A watch that goes on: tells what there is, waits, and tells what comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_api::keyspace::Capability;
use quorate_api::problem::Code;
use quorate_engine::{Direction, View};
use quorate_node::keyspace::watch::{Piece, Selection, Watch};
use quorate_node::keyspace::{Cause, Keys, Record, Revision, ShardError, get, pairs};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::super::DEFAULT_TIMEOUT;
use super::super::deadline::Deadline;
use super::super::endpoint::App;
use super::super::feeds::Watcher;
use super::super::refusal::Refusal;
use super::super::scans::{Cost, Pieces};
use super::super::store::{Freshness, Store};
use super::message::Messages;
use super::{NO_HISTORY, Room, too_old};

/// Messages are handed over once there are so many bytes of them.
const PIECE_BYTES: usize = 64 << 10;

/// Revisions of the past that are read in one go.
const REVISIONS_AT_ONCE: usize = 256;

/// A client that takes nothing for so long is given up.
const MAX_STALL: Duration = Duration::from_mins(1);

/// A watch that goes on.
pub(super) struct Telling<S> {
    pub(super) app: Arc<App<S>>,
    pub(super) keyspace: String,
    pub(super) watcher: Watcher,
    pub(super) watch: Watch,
    pub(super) messages: Arc<Messages>,
    pub(super) is_ending: watch::Receiver<bool>,
    pub(super) pieces: mpsc::Sender<Bytes>,
    /// Given back when the watch ends.
    pub(super) _room: Room,
}

/// Why a watch ends.
enum End {
    /// The client went away, or takes nothing.
    Gone,
    /// The client is told why.
    Told(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Told(refusal)
    }
}

impl From<ShardError> for End {
    fn from(error: ShardError) -> Self {
        Self::Told(error.into())
    }
}

impl<S: Store> Telling<S> {
    /// Goes on until the client, the keyspace or the node does not.
    pub(super) async fn run(mut self, is_initial: bool) {
        if let Err(End::Told(refusal)) = self.tell_all(is_initial).await {
            let mut out = BytesMut::new();
            self.messages.put_error(self.watch.told(), refusal.into_part(false), &mut out);
            let _ = self.send(out).await;
        }
    }

    async fn tell_all(&mut self, is_initial: bool) -> Result<(), End> {
        self.send(self.messages.begin()).await?;
        if is_initial {
            self.tell_present().await?;
        }
        let interval = self.app.config.watch_progress_interval;
        let mut progress_due = Deadline::after(interval);
        loop {
            let has_news = self.tell_news().await?;
            // What the client does not ask for wakes this as well, and is no message.
            let is_due = progress_due.is_over();
            if is_due && !has_news {
                self.tell_progress().await?;
            }
            if is_due || has_news {
                progress_due = Deadline::after(interval);
            }
            self.wait(progress_due).await?;
        }
    }

    /// All that is there, of one moment.
    async fn tell_present(&mut self) -> Result<(), End> {
        let min_revision = Some(self.watch.told()).filter(|_| !self.messages.is_of_node);
        let freshness = Freshness { min_revision, ..Freshness::LOCAL };
        let reading = self.app.store.read(&self.keyspace, freshness, DEFAULT_TIMEOUT).await.map_err(Refusal::of_read)?;
        let (epoch, revision) = reading.watched_at();
        self.check_epoch(epoch)?;
        let cost = if self.app.store.can(&self.keyspace, Capability::Ordered) { Cost::Returned } else { Cost::Everything };
        let (watch, messages) = (Watch::new(self.watch.selections().to_vec(), revision), Arc::clone(&self.messages));
        let scan = move |pieces: &mut Pieces| tell_pairs((&*reading.view, (revision, reading.now_ms)), &watch, &messages, pieces);
        self.app.scans.send(cost, Deadline::after(DEFAULT_TIMEOUT), self.pieces.clone(), scan).await??;
        self.watch.skip_to(revision);
        let mut out = BytesMut::new();
        self.messages.put_sync(revision, &mut out);
        self.send(out).await
    }

    /// All that happened since. Whether that was anything.
    async fn tell_news(&mut self) -> Result<bool, End> {
        let mut has_news = false;
        loop {
            let feed = self.watcher.feed();
            let at = feed.at();
            let piece = match feed.after(self.watch.told()) {
                Some(piece) => piece,
                None => self.past().await?,
            };
            let told = self.watch.take(piece, PIECE_BYTES);
            has_news |= !told.is_empty();
            let mut out = BytesMut::new();
            let now_ms = if told.is_empty() { 0 } else { self.app.store.now_ms(&self.keyspace) };
            for told in told {
                self.messages.put_change(&told, now_ms, &mut out)?;
            }
            self.send(out).await?;
            if self.watch.told() >= at {
                return Ok(has_news);
            }
        }
    }

    fn check_epoch(&self, epoch: u64) -> Result<(), Refusal> {
        if epoch == self.messages.epoch {
            return Ok(());
        }
        Err(self.messages.compacted_by_other())
    }

    /// What comes next, from the history: the feed does not go back so far.
    async fn past(&self) -> Result<Piece, Refusal> {
        let after = self.watch.told();
        if self.messages.is_of_node {
            return Err(too_old(self.watcher.feed(), after, NO_HISTORY));
        }
        let reading = self.app.store.read(&self.keyspace, Freshness::LOCAL, DEFAULT_TIMEOUT).await.map_err(Refusal::of_read)?;
        self.check_epoch(reading.epoch)?;
        let read = move || Ok(Piece::of_history(&*reading.view, after, REVISIONS_AT_ONCE, PIECE_BYTES));
        let piece = self.app.turns.run(DEFAULT_TIMEOUT, read).await?;
        piece.map_err(|error| too_old(self.watcher.feed(), after, error))
    }

    /// Waits until something may have happened, or the client is to hear that nothing did.
    async fn wait(&mut self, progress_due: Deadline) -> Result<(), End> {
        tokio::select! {
            biased;
            () = self.pieces.closed() => return Err(End::Gone),
            _ = self.is_ending.wait_for(|is_ending| *is_ending) => {
                return Err(End::Told(Refusal::new(Code::ShuttingDown, "the node is going down: go on at another one")));
            }
            is_there = self.watcher.changed() => {
                if !is_there {
                    let detail = format!("keyspace {} cannot be read at this node any more", self.keyspace);
                    return Err(End::Told(Refusal::new(Code::WatchEnded, detail)));
                }
            }
            () = progress_due.over() => {}
        }
        // One that waits for a revision which is yet to come is not told of those before it.
        self.watch.skip_to(self.watcher.quiet_until(self.watch.told()));
        Ok(())
    }

    async fn tell_progress(&mut self) -> Result<(), End> {
        if self.watch.told() > self.watcher.feed().at() {
            return self.send(self.messages.comment()).await;
        }
        let mut out = BytesMut::new();
        self.messages.put_progress(self.watch.told(), &mut out);
        self.send(out).await
    }

    async fn send(&self, piece: BytesMut) -> Result<(), End> {
        if piece.is_empty() {
            return Ok(());
        }
        match timeout(MAX_STALL, self.pieces.send(piece.freeze())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(End::Gone),
        }
    }
}

/// Tells of all pairs in a view that a watch is about, each once.
fn tell_pairs(
    (view, at): (&dyn View, (Revision, u64)),
    watch: &Watch,
    messages: &Messages,
    pieces: &mut Pieces,
) -> Result<(), End> {
    let mut batch = Batch { at, messages, pairs: Vec::new(), bytes: 0 };
    let is_wanted = |selection: &Selection| selection.causes.contains(Cause::Put);
    for (selection, place) in watch.selections().iter().zip(0..).filter(|(selection, _)| is_wanted(selection)) {
        let of = |key: &Bytes| {
            let mut of = watch.selections_of(key);
            of.retain(|of| is_wanted(&watch.selections()[*of]));
            // Otherwise it was told with an earlier selection.
            (of.first() == Some(&place)).then_some(of)
        };
        match &selection.keys {
            Keys::One(key) => {
                if let Some((record, of)) = get(view, key)?.zip(of(key)) {
                    batch.add(key.clone(), record, of, pieces)?;
                }
            }
            Keys::Range(range) => {
                for pair in pairs(view, range, Direction::Forward) {
                    let (key, record) = pair?;
                    if let Some(of) = of(&key) {
                        batch.add(key, record, of, pieces)?;
                    }
                }
            }
        }
    }
    batch.send(pieces)
}

/// Pairs that go out together.
struct Batch<'a> {
    /// The revision, and the time.
    at: (Revision, u64),
    messages: &'a Messages,
    pairs: Vec<(Bytes, Record, Vec<usize>)>,
    bytes: usize,
}

impl Batch<'_> {
    fn add(&mut self, key: Bytes, record: Record, of: Vec<usize>, pieces: &mut Pieces) -> Result<(), End> {
        self.bytes += key.len() + record.value.len();
        self.pairs.push((key, record, of));
        if self.bytes >= PIECE_BYTES { self.send(pieces) } else { Ok(()) }
    }

    fn send(&mut self, pieces: &mut Pieces) -> Result<(), End> {
        if self.pairs.is_empty() {
            return Ok(());
        }
        let mut out = BytesMut::new();
        self.messages.put_snapshot(self.at, std::mem::take(&mut self.pairs), &mut out);
        self.bytes = 0;
        if pieces.send(out.freeze()) { Ok(()) } else { Err(End::Gone) }
    }
}
