//! Between raft-rs' generated types, peer frames and log entries. The only place that knows all three.
//!
//! A log payload is what a normal entry carries, or, for a configuration change, our own encoding of it, told apart by its
//! first byte. raft-rs' protobuf form of a configuration change exists only inside the leader's own `propose` call.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_api::peer::{RaftEntry, RaftMessage, SnapshotMeta};
use quorate_log as log;
use raft::eraftpb;
use raft::prelude::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, EntryType, MessageType};

/// The first byte of a configuration change's payload. Entries of commands begin with their version, a small number.
const CONF_CHANGE_MARK: u8 = 0xc2;

/// A message as it travels.
pub(crate) fn message_to_wire(group: u64, mut message: eraftpb::Message) -> RaftMessage {
    let snapshot = message.has_snapshot().then(|| snapshot_to_wire(message.get_snapshot().get_metadata()));
    RaftMessage {
        group,
        kind: message.get_msg_type() as u8,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.take_entries().into_iter().map(entry_to_wire).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        priority: message.priority,
    }
}

/// A message as raft-rs takes it; none if its kind is one that a peer has no business to send.
pub(crate) fn message_from_wire(wire: RaftMessage) -> Option<eraftpb::Message> {
    let mut message = eraftpb::Message::default();
    message.set_msg_type(message_type(wire.kind)?);
    message.to = wire.to;
    message.from = wire.from;
    message.term = wire.term;
    message.log_term = wire.log_term;
    message.index = wire.index;
    message.commit = wire.commit;
    message.commit_term = wire.commit_term;
    message.request_snapshot = wire.request_snapshot;
    message.reject = wire.reject;
    message.reject_hint = wire.reject_hint;
    message.context = wire.context;
    message.priority = wire.priority;
    let entries: Option<Vec<_>> = wire.entries.into_iter().map(entry_from_wire).collect();
    message.set_entries(entries?.into());
    if let Some(snapshot) = wire.snapshot {
        message.set_snapshot(snapshot_from_wire(&snapshot));
    }
    Some(message)
}

/// The kinds that peers send each other. Proposals never travel as Raft messages, local messages never travel at all.
fn message_type(kind: u8) -> Option<MessageType> {
    const KINDS: [MessageType; 13] = [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgSnapshot,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgTransferLeader,
        MessageType::MsgTimeoutNow,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
    ];
    KINDS.into_iter().find(|known| *known as u8 == kind)
}

fn entry_to_wire(entry: eraftpb::Entry) -> RaftEntry {
    let is_change = entry.get_entry_type() != EntryType::EntryNormal;
    RaftEntry {
        kind: entry.get_entry_type() as u8,
        term: entry.term,
        index: entry.index,
        data: if is_change { Bytes::new() } else { entry.data },
        context: entry.context,
    }
}

fn entry_from_wire(wire: RaftEntry) -> Option<eraftpb::Entry> {
    let mut entry = eraftpb::Entry::default();
    entry.set_entry_type(entry_type(wire.kind)?);
    entry.term = wire.term;
    entry.index = wire.index;
    entry.data = wire.data;
    entry.context = wire.context;
    Some(entry)
}

fn entry_type(kind: u8) -> Option<EntryType> {
    [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2]
        .into_iter()
        .find(|known| *known as u8 == kind)
}

/// An entry as the log keeps it.
pub(crate) fn entry_to_log(entry: &eraftpb::Entry) -> log::Entry {
    let payload = if entry.get_entry_type() == EntryType::EntryNormal { &entry.data } else { &entry.context };
    let id = log::LogId { term: log::Term(entry.term), index: log::LogIndex(entry.index) };
    log::Entry { id, payload: payload.clone() }
}

/// An entry as raft-rs takes it back from the log.
pub(crate) fn entry_from_log(logged: log::Entry) -> eraftpb::Entry {
    let mut entry = eraftpb::Entry { term: logged.id.term.0, index: logged.id.index.0, ..Default::default() };
    if is_conf_change(&logged.payload) {
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.context = logged.payload;
    } else {
        entry.data = logged.payload;
    }
    entry
}

/// Whether a log payload is a configuration change.
pub(crate) fn is_conf_change(payload: &Bytes) -> bool {
    payload.first() == Some(&CONF_CHANGE_MARK)
}

/// Our own encoding of a change of one member: mark, kind, replica.
pub(crate) fn encode_conf_change(kind: ConfChangeType, replica: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(10);
    out.put_u8(CONF_CHANGE_MARK);
    out.put_u8(kind as u8);
    out.put_u64_le(replica);
    out.freeze()
}

/// Decodes [`encode_conf_change`]; none if it is not such a thing.
pub(crate) fn decode_conf_change(mut bytes: Bytes) -> Option<ConfChangeV2> {
    if bytes.len() != 10 || bytes.get_u8() != CONF_CHANGE_MARK {
        return None;
    }
    let kind = bytes.get_u8();
    let kind = [ConfChangeType::AddNode, ConfChangeType::RemoveNode, ConfChangeType::AddLearnerNode]
        .into_iter()
        .find(|known| *known as u8 == kind)?;
    Some(conf_change(kind, bytes.get_u64_le()))
}

/// A change of one member.
pub(crate) fn conf_change(kind: ConfChangeType, replica: u64) -> ConfChangeV2 {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = replica;
    let mut change = ConfChangeV2::default();
    change.set_changes(vec![single].into());
    change
}

fn snapshot_to_wire(metadata: &eraftpb::SnapshotMetadata) -> SnapshotMeta {
    let state = metadata.get_conf_state();
    SnapshotMeta {
        index: metadata.index,
        term: metadata.term,
        voters: state.voters.clone(),
        learners: state.learners.clone(),
        voters_outgoing: state.voters_outgoing.clone(),
        learners_next: state.learners_next.clone(),
        auto_leave: state.auto_leave,
    }
}

fn snapshot_from_wire(meta: &SnapshotMeta) -> eraftpb::Snapshot {
    let mut state = ConfState { voters: meta.voters.clone(), learners: meta.learners.clone(), ..Default::default() };
    state.voters_outgoing.clone_from(&meta.voters_outgoing);
    state.learners_next.clone_from(&meta.learners_next);
    state.auto_leave = meta.auto_leave;
    snapshot(meta.index, meta.term, state)
}

/// A snapshot as raft-rs takes it; its data travels apart.
pub(crate) fn snapshot(index: u64, term: u64, state: ConfState) -> eraftpb::Snapshot {
    let mut snapshot = eraftpb::Snapshot::default();
    snapshot.mut_metadata().index = index;
    snapshot.mut_metadata().term = term;
    snapshot.mut_metadata().set_conf_state(state);
    snapshot
}

/// Membership as the shard keeps it: voters and learners. We never enter joint configurations.
pub(crate) fn encode_membership(state: &ConfState) -> Bytes {
    assert!(state.voters_outgoing.is_empty() && state.learners_next.is_empty(), "members change one at a time");
    let mut out = BytesMut::new();
    out.put_u32_le(state.voters.len() as u32);
    out.put_u32_le(state.learners.len() as u32);
    // raft-rs keeps members in hash sets: sorted, so that replicas agree byte for byte.
    for ids in [&state.voters, &state.learners] {
        let mut ids = ids.clone();
        ids.sort_unstable();
        ids.into_iter().for_each(|id| out.put_u64_le(id));
    }
    out.freeze()
}

/// Decodes [`encode_membership`]; none if it is not such a thing. Empty bytes are an empty membership.
pub(crate) fn decode_membership(mut bytes: Bytes) -> Option<ConfState> {
    if bytes.is_empty() {
        return Some(ConfState::default());
    }
    if bytes.len() < 8 {
        return None;
    }
    let voters = bytes.get_u32_le() as usize;
    let learners = bytes.get_u32_le() as usize;
    if bytes.len() != voters.checked_add(learners)?.checked_mul(8)? {
        return None;
    }
    let voters = (0..voters).map(|_| bytes.get_u64_le()).collect();
    let learners = (0..learners).map(|_| bytes.get_u64_le()).collect();
    Some(ConfState { voters, learners, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_changes_survive_log_and_wire() {
        let payload = encode_conf_change(ConfChangeType::AddLearnerNode, 77);
        assert!(is_conf_change(&payload));
        assert_eq!(decode_conf_change(payload.clone()), Some(conf_change(ConfChangeType::AddLearnerNode, 77)));
        assert_eq!(decode_conf_change(payload.slice(..9)), None);

        let id = log::LogId { term: log::Term(3), index: log::LogIndex(9) };
        let logged = log::Entry { id, payload };
        let entry = entry_from_log(logged.clone());
        assert_eq!(entry_to_log(&entry), logged);
        assert_eq!(entry_from_wire(entry_to_wire(entry.clone())), Some(entry));
    }

    #[test]
    fn membership_is_the_same_bytes_in_any_order() {
        let state = |voters: &[u64]| ConfState { voters: voters.to_vec(), learners: vec![9], ..Default::default() };
        assert_eq!(encode_membership(&state(&[3, 1])), encode_membership(&state(&[1, 3])));
        let decoded = decode_membership(encode_membership(&state(&[3, 1]))).unwrap();
        assert_eq!(decoded, state(&[1, 3]));
        assert_eq!(decode_membership(Bytes::from_static(b"\x01\0\0\0\0\0\0\0\x01")), None);
    }

    #[test]
    fn messages_that_no_peer_may_send_are_refused() {
        for kind in [MessageType::MsgHup, MessageType::MsgBeat, MessageType::MsgPropose, MessageType::MsgUnreachable] {
            let wire = RaftMessage { kind: kind as u8, ..RaftMessage::default() };
            assert_eq!(message_from_wire(wire), None);
        }
        assert_eq!(message_from_wire(RaftMessage { kind: 200, ..RaftMessage::default() }), None);
    }
}
