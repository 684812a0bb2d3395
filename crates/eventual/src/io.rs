//! What goes into a replica and what comes out: all it can ask of the world.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_engine::Batch;

use crate::changes::Changes;
use crate::entry::{Body, Entry};
use crate::lookup::{LookedUp, Lookup};
use crate::message::Message;
use crate::options::Ack;
use crate::session::Session;
use crate::version::{InstanceId, Version};

/// The time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Milliseconds since an arbitrary point; never goes back.
    pub mono_ms: u64,
    /// Milliseconds since 1970 by the wall clock, which may jump.
    pub wall_ms: u64,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A client writes.
    Write(Write),
    /// A client reads, in a mode where reads ask others, or in a session.
    Read {
        /// Comes back with the answer.
        token: u64,
        /// The key.
        key: Bytes,
        /// What the client has seen: nothing older is found. Comes back with what it sees now.
        session: Option<Session>,
        /// When to stop waiting for those who may know, in monotonic milliseconds.
        deadline_ms: u64,
    },
    /// A peer says something.
    Message(Message),
    /// What was appended up to this index is durable.
    Durable {
        /// As in [`Effect::Append`].
        index: u64,
    },
    /// The engine has taken in what it was to: the last [`Effect::Apply`].
    Applied,
    /// The engine was flushed, as of the last [`Effect::Flush`]: it comes back at this log position, or later.
    Flushed {
        /// What it said.
        index: u64,
    },
    /// What an [`Effect::LookUp`] found.
    LookedUp(LookedUp),
    /// The log is to be kept short now, if that can be done without writing more to it.
    ShortenLog,
    /// The members are these now.
    Members(Members),
    /// A client in a session is to read many keys; answered when all that it has seen is here.
    Level {
        /// Comes back with the answer.
        token: u64,
        /// What the client has seen.
        session: Session,
        /// When to stop waiting, in monotonic milliseconds.
        deadline_ms: u64,
    },
    /// Send what was collected, or copy, now; answered when the others have it.
    Flush {
        /// Comes back with the answer.
        token: u64,
        /// When to stop waiting, in monotonic milliseconds.
        deadline_ms: u64,
    },
    /// Compare with all others now; answered when that has ended.
    Sync {
        /// Comes back with the answer.
        token: u64,
        /// When to stop waiting, in monotonic milliseconds.
        deadline_ms: u64,
    },
}

/// A client's write.
#[derive(Clone, Debug)]
pub struct Write {
    /// Comes back with the answer.
    pub token: u64,
    /// The key.
    pub key: Bytes,
    /// A value, or a tombstone.
    pub body: Body,
    /// How long the value lives, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Whom it waits for; none: whom the keyspace says.
    pub ack: Option<Ack>,
    /// When to stop waiting for them, in monotonic milliseconds. If none that is missing is heard of, it is answered before.
    pub deadline_ms: u64,
    /// What the client has seen: the write is stamped above all of it. Comes back with the write in it.
    pub session: Option<Session>,
}

/// Who has a replica, as the cluster has agreed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Greater with each change of who is a member.
    pub epoch: u64,
    /// The members.
    pub states: BTreeMap<InstanceId, MemberState>,
}

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It has not all that it should have: it takes no writes, and answers no reads.
    Joining,
    /// It serves.
    Up,
    /// It shall go, once the others have what it wrote.
    Leaving,
}

/// Something to be done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append to the replica's log, then [`Input::Durable`]. Only if it is durable.
    Append {
        /// The one after the last.
        index: u64,
        /// What to write.
        record: Bytes,
    },
    /// Let the engine take this in, beside everything else, then [`Input::Applied`]. One at a time, and only with an engine that
    /// is durable: it may stall.
    Apply {
        /// What.
        batch: Batch,
    },
    /// Tell those who watch what a batch changed that the engine has now: by revision, each once, and before any answer that
    /// relies on it. Begins with the first poll; what was read back from the log before is not told.
    Changes(Changes),
    /// Look something up, beside everything else, then [`Input::LookedUp`]. Several may be under way, in any order, and only if
    /// the engine is durable.
    LookUp(Lookup),
    /// Flush the engine, beside everything else, then [`Input::Flushed`]. One at a time, and only if it is durable.
    Flush,
    /// The log is not needed any more up to this index.
    Purge {
        /// The index.
        upto: u64,
    },
    /// Send a message. It may be lost.
    Send(Message),
    /// Answer a request.
    Reply {
        /// The request's.
        token: u64,
        /// The answer.
        answer: Answer,
    },
    /// This replica has all that it should have: let the cluster agree that it is up. Said again until it is.
    Joined,
    /// This replica wrote nothing that the others lack: it can go. Said again until it is gone.
    Drained,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The write is applied here, and durable where the keyspace is.
    Written {
        /// Its version.
        version: Version,
        /// What was there before, if it was a value that was served.
        replaced: bool,
        /// How many other members are known to have it.
        replicated: u32,
        /// Whether those it should wait for have it.
        is_met: bool,
        /// What the client has seen now, if it was told what it had.
        session: Option<Box<Session>>,
    },
    /// What was read.
    Found {
        /// What is there, if it is to be served.
        entry: Option<Entry>,
        /// How many others answered.
        answered: u32,
        /// How many were asked.
        asked: u32,
        /// What the client has seen now, if it was told what it had.
        session: Option<Box<Session>>,
    },
    /// All that the client has seen is here.
    Level {
        /// What it has seen once it has read whatever is here now.
        session: Session,
    },
    /// The flush or comparison has ended.
    Done {
        /// How many other members it was done with.
        reached: u32,
        /// How many others there are.
        others: u32,
    },
    /// Nothing was done.
    Refused(Refusal),
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too much waits already.
    Overloaded,
    /// The keyspace is as large as it may be.
    Full {
        /// The bound.
        max_bytes: u64,
    },
    /// The replica has not all that it should have, or shall go.
    NotUp,
    /// It mirrors another one, which takes writes and copies.
    ReadOnly {
        /// That one.
        source: InstanceId,
    },
    /// Its wall clock differs too much from the others': what it writes would win or lose for no good reason.
    ClockSkew {
        /// By how much, in milliseconds; positive if it is ahead.
        offset_ms: i64,
    },
    /// Those who may have later what the client has seen did not answer: another replica may know more, or this one soon.
    NotYet,
    /// A write asks for more other members than there are.
    TooFewMembers {
        /// So many there are.
        others: u32,
        /// So many it asks for.
        wanted: u32,
    },
    /// Fewer others answered than a read needs.
    TooFewAnswers {
        /// How many did.
        answered: u32,
        /// How many it needs.
        needed: u32,
    },
}
