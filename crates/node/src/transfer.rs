//! Snapshots on their way: sent piece by piece on the bulk lane, staged and checked before raft-rs hears of them.
//!
//! The sender keeps a window of unacknowledged pieces; the first piece carries the `MsgSnapshot`. The receiver answers every
//! piece with the offset up to which it has the file: after a broken connection the same file goes on there. Once the file is
//! whole, checked and durable, the message is stepped.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_api::peer::{Frame, Lane, RaftMessage, SnapshotAck, SnapshotAsk, SnapshotPart};
use quorate_log::{Disk, GroupId, LogId, LogIndex, Term};
use raft::eraftpb::{Message, MessageType};

use crate::convert::{message_from_wire, message_to_wire};
use crate::io::{Effect, Monotonic};
use crate::jobs::Job;
use crate::limits::{MAX_SNAPSHOT_SENDS, RECEIVE_KEPT_MS, SNAPSHOT_STALL_MS, SNAPSHOT_WINDOW_CHUNKS};
use crate::node::Node;
use crate::replica::Replica;
use crate::snapshot::SnapshotFile;

/// Snapshots on their way, both directions.
#[derive(Debug)]
pub(crate) struct Transfers {
    chunk_bytes: u64,
    next_transfer: u64,
    /// By transfer. At most [`MAX_SNAPSHOT_SENDS`].
    sends: BTreeMap<u64, Send>,
    /// By group: a replica takes one at a time.
    receives: BTreeMap<u64, Receive>,
    /// Of each group the last one that came to its end: the sender may not have heard of it.
    finished: BTreeMap<u64, Finished>,
}

#[derive(Debug)]
struct Finished {
    from: u64,
    transfer: u64,
    at: Monotonic,
    /// What was said of it may be lost: it is said again at the next tick.
    is_unheard: bool,
}

#[derive(Debug)]
struct Send {
    to: u64,
    replica: u64,
    file: SnapshotFile,
    message: RaftMessage,
    /// Known from the first piece on.
    total_bytes: Option<u64>,
    /// The receiver has everything before this.
    acknowledged: u64,
    /// Pieces up to here were read, or are being.
    asked: u64,
    progress_at: Monotonic,
}

#[derive(Debug)]
struct Receive {
    from: u64,
    transfer: u64,
    file: SnapshotFile,
    total_bytes: u64,
    message: RaftMessage,
    /// Pieces before this were handed to the disk.
    handed: u64,
    progress_at: Monotonic,
}

impl Transfers {
    pub(crate) fn new(chunk_bytes: u64) -> Self {
        Self { chunk_bytes, next_transfer: 1, sends: BTreeMap::new(), receives: BTreeMap::new(), finished: BTreeMap::new() }
    }

    fn is_sending(&self, file: SnapshotFile) -> bool {
        self.sends.values().any(|send| send.file == file)
    }
}

impl<D: Disk> Node<D> {
    /// raft-rs wants a follower to have a snapshot.
    pub(crate) fn send_snapshot(&mut self, group: GroupId, to: u64, message: Message) {
        let replica = message.to;
        let metadata = message.get_snapshot().get_metadata();
        let at = LogId { term: Term(metadata.term), index: LogIndex(metadata.index) };
        let file = SnapshotFile { group, at };
        let is_double = self.transfers.sends.values().any(|send| send.replica == replica && send.file.group == group);
        if is_double || self.transfers.sends.len() >= MAX_SNAPSHOT_SENDS {
            return self.report_snapshot(group, replica, false);
        }
        let transfer = self.transfers.next_transfer;
        self.transfers.next_transfer += 1;
        let send = Send {
            to,
            replica,
            file,
            message: message_to_wire(group.0, message),
            total_bytes: None,
            acknowledged: 0,
            asked: self.transfers.chunk_bytes,
            progress_at: self.now,
        };
        self.transfers.sends.insert(transfer, send);
        let max_bytes = self.transfers.chunk_bytes;
        self.effects.push(Effect::Job(Job::Read { transfer, file, offset: 0, max_bytes }));
    }

    /// A replica lost its engine: it gets a snapshot, if this node leads. It asks again until it has one.
    pub(crate) fn on_snapshot_ask(&mut self, from: u64, ask: &SnapshotAsk) {
        let Some(own) = self.replicas.get_mut(&ask.group) else {
            return;
        };
        if let Some(message) = own.snapshot_for(ask.replica, ask.min_index) {
            self.send_snapshot(GroupId(ask.group), from, message);
        }
        self.dirty.insert(ask.group);
    }

    /// Asks the leaders of those of these replicas that lost their engines for snapshots.
    pub(crate) fn ask_for_snapshots(&mut self, busy: &BTreeSet<u64>) {
        for (group, replica) in busy.iter().filter_map(|group| self.replicas.get_key_value(group)) {
            let leader = self.routes.get(&(*group, replica.leader()));
            let is_receiving = self.transfers.receives.contains_key(group);
            if let (Some(min_index), Some(leader), false) = (replica.asks_for(), leader, is_receiving) {
                let frame = Frame::SnapshotAsk(SnapshotAsk { group: *group, replica: replica.spec.id, min_index });
                self.effects.push(Effect::Send { to: *leader, lane: Lane::Bulk, frame });
            }
        }
    }

    /// A piece was read: it goes out.
    pub(crate) fn on_piece_read(&mut self, transfer: u64, offset: u64, piece: Result<(u64, Bytes), String>) {
        let Some(send) = self.transfers.sends.get_mut(&transfer) else {
            return;
        };
        let Ok((total_bytes, data)) = piece else {
            return self.end_send(transfer, false);
        };
        send.total_bytes = Some(total_bytes);
        let message = (offset == 0).then(|| Box::new(send.message.clone()));
        let part = SnapshotPart { group: send.file.group.0, transfer, offset, total_bytes, data, message };
        let to = send.to;
        self.effects.push(Effect::Send { to, lane: Lane::Bulk, frame: Frame::Snapshot(part) });
    }

    /// The receiver says how far it is.
    pub(crate) fn on_snapshot_ack(&mut self, from: u64, ack: &SnapshotAck) {
        let now = self.now;
        let chunk_bytes = self.transfers.chunk_bytes;
        let Some(send) = self.transfers.sends.get_mut(&ack.transfer).filter(|send| send.to == from) else {
            return;
        };
        if ack.failed || ack.done {
            return self.end_send(ack.transfer, ack.done);
        }
        // Nobody has more of a file than there is.
        let total_bytes = send.total_bytes.unwrap_or(0);
        if ack.next_offset > total_bytes {
            return self.end_send(ack.transfer, false);
        }
        if ack.next_offset > send.acknowledged {
            send.acknowledged = ack.next_offset;
            send.progress_at = now;
        }
        // The receiver may have more than this transfer sent: from an earlier one of the same file.
        send.asked = send.asked.max(send.acknowledged);
        let until = total_bytes.min(send.acknowledged + SNAPSHOT_WINDOW_CHUNKS * chunk_bytes);
        while send.asked < until {
            let job = Job::Read { transfer: ack.transfer, file: send.file, offset: send.asked, max_bytes: chunk_bytes };
            send.asked += chunk_bytes;
            self.effects.push(Effect::Job(job));
        }
    }

    fn end_send(&mut self, transfer: u64, is_sent: bool) {
        if let Some(send) = self.transfers.sends.remove(&transfer) {
            self.report_snapshot(send.file.group, send.replica, is_sent);
        }
    }

    /// Tells raft-rs what came of a snapshot, so that it goes on.
    pub(crate) fn report_snapshot(&mut self, group: GroupId, replica: u64, is_sent: bool) {
        if let Some(own) = self.replicas.get_mut(&group.0) {
            own.report_snapshot(replica, is_sent);
            self.dirty.insert(group.0);
        }
    }

    /// A piece came in.
    pub(crate) fn on_snapshot_part(&mut self, from: u64, mut part: SnapshotPart) {
        let group = part.group;
        if let Some(message) = part.message.take() {
            self.begin_receive(from, &part, *message);
        }
        let is_current = |receive: &&mut Receive| receive.from == from && receive.transfer == part.transfer;
        let Some(receive) = self.transfers.receives.get_mut(&group).filter(is_current) else {
            return self.acknowledge(from, part.group, part.transfer, Progress::Failed);
        };
        if part.offset != receive.handed || part.total_bytes != receive.total_bytes {
            // A piece from before the file was taken up again: the sender is told where to go on.
            let next_offset = receive.handed;
            return self.acknowledge(from, group, part.transfer, Progress::At(next_offset));
        }
        receive.handed += part.data.len() as u64;
        receive.progress_at = self.now;
        let job = Job::Stage {
            transfer: part.transfer,
            file: receive.file,
            offset: part.offset,
            total_bytes: part.total_bytes,
            data: part.data,
        };
        self.effects.push(Effect::Job(job));
    }

    fn begin_receive(&mut self, from: u64, part: &SnapshotPart, message: RaftMessage) {
        let can_take = |own: &Replica<D>| !own.is_loading() || own.asks_for().is_some();
        let is_wanted = self.replicas.get(&part.group).is_some_and(|own| own.spec.id == message.to && can_take(own));
        let Some(meta) = message.snapshot.as_ref().filter(|_| is_wanted && message.group == part.group && !self.is_disk_full)
        else {
            self.drop_receive(part.group);
            return;
        };
        let at = LogId { term: Term(meta.term), index: LogIndex(meta.index) };
        let file = SnapshotFile { group: GroupId(part.group), at };
        let earlier = self.transfers.receives.remove(&part.group);
        // The same file from the same node goes on where it stopped; its pieces are the same.
        let is_same = |r: &Receive| r.from == from && r.file == file && r.total_bytes == part.total_bytes;
        if let Some(other) = earlier.as_ref().filter(|earlier| earlier.file != file) {
            self.effects.push(Effect::Job(Job::Discard { file: other.file }));
        }
        let staged = earlier.filter(is_same);
        let receive = Receive {
            from,
            transfer: part.transfer,
            file,
            total_bytes: part.total_bytes,
            message,
            handed: staged.map_or(0, |receive| receive.handed),
            progress_at: self.now,
        };
        self.transfers.receives.insert(part.group, receive);
    }

    /// A piece is on disk, or the whole file.
    pub(crate) fn on_staged(&mut self, transfer: u64, file: SnapshotFile, progress: &Result<(u64, bool), String>) {
        let group = file.group.0;
        let Some(receive) = self.transfers.receives.get(&group).filter(|receive| receive.file == file) else {
            return;
        };
        let (from, transfer) = (receive.from, if receive.transfer == transfer { transfer } else { receive.transfer });
        match progress {
            Ok((next_offset, false)) => self.acknowledge(from, group, transfer, Progress::At(*next_offset)),
            Ok((_, true)) => {
                if let Some(receive) = self.transfers.receives.remove(&group) {
                    self.transfers.finished.insert(group, Finished { from, transfer, at: self.now, is_unheard: false });
                    self.acknowledge(from, group, transfer, Progress::Done);
                    self.install(receive);
                }
            }
            Err(_) => {
                self.drop_receive(group);
                self.acknowledge(from, group, transfer, Progress::Failed);
            }
        }
    }

    fn drop_receive(&mut self, group: u64) {
        if let Some(receive) = self.transfers.receives.remove(&group) {
            self.effects.push(Effect::Job(Job::Discard { file: receive.file }));
        }
    }

    /// The group is no more.
    pub(crate) fn forget_transfers(&mut self, group: u64) {
        self.drop_receive(group);
        self.transfers.finished.remove(&group);
        self.transfers.sends.retain(|_, send| send.file.group.0 != group);
    }

    /// The file is in place: raft-rs may accept the snapshot.
    fn install(&mut self, receive: Receive) {
        let group = receive.file.group;
        // We never enter joint configurations: a message that says so is not ours.
        let is_plain =
            receive.message.snapshot.as_ref().is_some_and(|s| s.voters_outgoing.is_empty() && s.learners_next.is_empty());
        let message = message_from_wire(receive.message).filter(|m| is_plain && m.get_msg_type() == MessageType::MsgSnapshot);
        let Some(message) = message else {
            return;
        };
        self.wake(group.0);
        let Some(replica) = self.replicas.get_mut(&group.0) else {
            return;
        };
        if replica.is_loading() && replica.asks_for().is_none() {
            // It gets another one if it still needs it.
            return replica.files.old.push(receive.file);
        }
        replica.step(message);
        let is_accepted = replica.raft().snap().is_some_and(|snapshot| snapshot.get_metadata().index == receive.file.at.index.0);
        let is_own = replica.files.latest.as_ref().is_some_and(|latest| latest.file == receive.file);
        if !is_accepted && !is_own && !replica.take_fetched(receive.file, &mut self.out) {
            replica.files.old.push(receive.file);
        }
        self.dirty.insert(group.0);
    }

    fn acknowledge(&mut self, to: u64, group: u64, transfer: u64, progress: Progress) {
        let next_offset = match progress {
            Progress::At(offset) => offset,
            Progress::Failed | Progress::Done => 0,
        };
        let ack = SnapshotAck {
            group,
            transfer,
            next_offset,
            failed: matches!(progress, Progress::Failed),
            done: matches!(progress, Progress::Done),
        };
        self.effects.push(Effect::Send { to, lane: Lane::Bulk, frame: Frame::SnapshotAck(ack) });
    }

    /// What was on its way to a node may be lost: the copies begin again, where they stopped, and what was said of those from
    /// there is said again, or their sender would wait until it gives them up.
    pub(crate) fn on_copies_lost(&mut self, node: u64) {
        let finished = self.transfers.finished.values_mut();
        finished.filter(|finished| finished.from == node).for_each(|finished| finished.is_unheard = true);
        let lost = |(transfer, send): (&u64, &Send)| (send.to == node).then_some(*transfer);
        let lost: Vec<u64> = self.transfers.sends.iter().filter_map(lost).collect();
        lost.into_iter().for_each(|transfer| self.end_send(transfer, false));
    }

    /// Gives up what stands still, and removes files that no longer serve these groups.
    pub(crate) fn on_copies_tick(&mut self, busy: &BTreeSet<u64>) {
        let now = self.now;
        let is_stalled = |since: Monotonic| now.since(since) >= SNAPSHOT_STALL_MS;
        let stalled: Vec<u64> =
            self.transfers.sends.iter().filter(|(_, send)| is_stalled(send.progress_at)).map(|(transfer, _)| *transfer).collect();
        stalled.into_iter().for_each(|transfer| self.end_send(transfer, false));
        self.transfers.finished.retain(|_, finished| !is_stalled(finished.at));
        let mut unheard = Vec::new();
        for (group, finished) in &mut self.transfers.finished {
            if std::mem::take(&mut finished.is_unheard) {
                unheard.push((finished.from, *group, finished.transfer));
            }
        }
        unheard.into_iter().for_each(|(to, group, transfer)| self.acknowledge(to, group, transfer, Progress::Done));
        let abandoned = self.transfers.receives.iter().filter(|(_, receive)| now.since(receive.progress_at) >= RECEIVE_KEPT_MS);
        let abandoned: Vec<u64> = abandoned.map(|(group, _)| *group).collect();
        abandoned.into_iter().for_each(|group| self.drop_receive(group));
        for group in busy {
            let Some(replica) = self.replicas.get_mut(group) else { continue };
            let transfers = &self.transfers;
            let moves = &replica.moves;
            let is_unused = |file: &mut SnapshotFile| !transfers.is_sending(*file) && !moves.needs_file(*file);
            // One that is about to be loaded may be among them.
            let is_loading = replica.is_loading();
            let unused: Vec<SnapshotFile> = replica.files.old.extract_if(.., |file| !is_loading && is_unused(file)).collect();
            if !unused.is_empty() {
                self.effects.push(Effect::Job(Job::Remove { group: GroupId(*group), files: unused }));
            }
        }
    }
}

/// How far a copy is.
#[derive(Clone, Copy)]
enum Progress {
    At(u64),
    Failed,
    Done,
}
