//! The state machine: committed entries in, an engine batch and outcomes out.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::{Batch, Change, Engine, EngineError};

use crate::Revision;
use crate::command::{Command, RequestId, decode_entry};
use crate::event::Changes;
use crate::execute::{Lifetime, Step};
use crate::expiry::first_expiry_ms;
use crate::history::HistoryHeader;
use crate::lease::{LeaseChange, leases};
use crate::limits::{Limits, Settings};
use crate::once::first_end_ms;
use crate::outcome::{Detail, OpResult, Outcome, Removed};
use crate::session::Sessions;
use crate::stored_state::{SessionChange, StoredState};
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// One replica's state machine: an engine and the few numbers beside it.
///
/// *Life cycle*: made empty by [`Shard::found`], from a snapshot by [`Shard::restore`], or from a durable engine by
/// [`Shard::open`]; changed by [`Shard::apply`] and
/// [`Shard::set_membership`] alone; read through the engine's views, by anybody, at any time.
///
/// *Invariants*: two shards that applied the same entries have equal [`Shard::state_bytes`], equal `Current`
/// tables and equal rows that [`Shard::is_snapshot_row`] names. The applied index grows by every call of `apply`.
///
/// *Durability*: none of its own; a durable engine gets the state with each batch, others are restored from a snapshot.
#[derive(Debug)]
pub struct Shard {
    engine: Arc<dyn Engine>,
    header: ShardHeader,
    sessions: Sessions,
    /// The state beside the pairs, in a durable engine.
    stored: Option<StoredState>,
    lifetime: Lifetime,
    /// No pair goes before this log time, and none at all without it.
    next_expiry_ms: Option<u64>,
    /// Nothing that is remembered for repetitions goes before this log time, and nothing at all without it.
    next_forget_ms: Option<u64>,
    /// There is a lease, or there was one since it was made.
    may_have_leases: bool,
}

/// The numbers of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardHeader {
    /// Index of the last entry applied.
    pub applied_index: u64,
    /// Its term.
    pub applied_term: u64,
    /// The revision.
    pub revision: Revision,
    /// The group's time, in milliseconds since it was founded. Advances by entries alone.
    pub log_time_ms: u64,
    /// Keys and records in `Current`, and the rows beside them, in bytes, exactly; in an engine that evicts, those that went by
    /// themselves are still counted.
    pub data_bytes: u64,
    /// What the keyspace sets.
    pub settings: Settings,
    /// How far its history reaches.
    pub history: HistoryHeader,
    /// The group's membership at the applied index; opaque here.
    pub membership: Bytes,
}

/// What became of the entries.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// One per command, in order.
    pub outcomes: Vec<(RequestId, Outcome)>,
    /// What changed, by revision.
    pub changes: Vec<Changes>,
    /// What became of leases, in order.
    pub leases: Vec<LeaseChange>,
}

/// Why a shard cannot go on. Never an outcome: the replica stops.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An entry or a record cannot be read.
    #[error("entry or record: {0}")]
    Decode(#[from] DecodeError),
}

/// Of the header, and of the whole state that begins with it. Version 1 had one limit, `max_bytes`, and version 2
/// limits only.
const STATE_VERSION: u8 = 3;

impl Shard {
    /// A new, empty shard over an empty engine, standing at a log position with a membership.
    pub fn found(engine: Arc<dyn Engine>, header: ShardHeader) -> Result<Self, ShardError> {
        let history = HistoryHeader::found(header.settings.retention);
        let header = ShardHeader { revision: Revision::FIRST, history, ..header };
        let stored = engine.capabilities().durable.then(StoredState::default);
        let sessions = Sessions::default();
        let lifetime = Lifetime::default();
        let mut shard = Self {
            engine,
            header,
            sessions,
            stored,
            lifetime,
            next_expiry_ms: None,
            next_forget_ms: None,
            may_have_leases: false,
        };
        shard.commit(history.told_anew(&HistoryHeader::default()).into_iter().collect(), &[])?;
        Ok(shard)
    }

    /// A shard over an engine that was filled with the pairs and, if it is durable, the [`Shard::state_rows`] which go with
    /// `state`.
    pub fn restore(engine: Arc<dyn Engine>, state: Bytes) -> Result<Self, ShardError> {
        if engine.capabilities().durable {
            return Self::open(engine)?.ok_or(ShardError::Decode(DecodeError::Malformed("the engine holds no state")));
        }
        let (header, sessions) = decode_state(state)?;
        Self::over(engine, header, sessions, None)
    }

    /// The shard that a durable engine came back with; none if it is empty.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Option<Self>, ShardError> {
        let view = engine.view();
        let Some((stored, header, sessions)) = StoredState::read(view.as_ref())? else {
            return Ok(None);
        };
        if (header.applied_index, header.revision.0) != (view.applied(), view.revision()) {
            return Err(ShardError::Decode(DecodeError::Malformed("the engine's numbers are not those of its state")));
        }
        drop(view);
        Self::over(engine, header, sessions, Some(stored)).map(Some)
    }

    fn over(
        engine: Arc<dyn Engine>,
        header: ShardHeader,
        sessions: Sessions,
        stored: Option<StoredState>,
    ) -> Result<Self, ShardError> {
        let view = engine.view();
        let next_expiry_ms = first_expiry_ms(view.as_ref())?;
        let next_forget_ms = first_end_ms(view.as_ref())?;
        let may_have_leases = !leases(view.as_ref(), None, 1)?.is_empty();
        let lifetime = Lifetime::default();
        Ok(Self { engine, header, sessions, stored, lifetime, next_expiry_ms, next_forget_ms, may_have_leases })
    }

    /// Whether a row of the `Meta` table stands beside the pairs, and goes with them into snapshots. The others are made from
    /// the encoded state.
    pub fn is_snapshot_row(row: &[u8]) -> bool {
        !StoredState::is_row(row)
    }

    /// Pairs of the `Meta` table that go with an encoded state into a durable engine.
    pub fn state_rows(state: Bytes) -> Result<Vec<(Bytes, Bytes)>, DecodeError> {
        let (header, sessions) = decode_state(state)?;
        Ok(StoredState::rows(&header, &sessions).into())
    }

    /// From now on pairs that are written go by themselves when their time is up, if the engine evicts: so many milliseconds of
    /// log time later, those that say nothing about it. Not for replicas, which would answer conditions differently.
    pub fn expire_after(&mut self, ttl_ms: Option<u64>) {
        self.lifetime = if self.engine.capabilities().evicts { Lifetime::ByEngine { ttl_ms } } else { Lifetime::Never };
    }

    /// Removes every pair, as a command would, at a cost that hardly depends on how many there are. Those whose time is up but
    /// which are not freed yet are counted too. Not for replicas: nothing in a log says that it was done.
    pub(crate) fn clear(&mut self) -> Result<Outcome, ShardError> {
        let keys = self.engine.stats().keys;
        self.header.applied_index += 1;
        self.header.data_bytes = 0;
        if keys > 0 {
            self.header.revision = self.header.revision.next();
        }
        self.engine.rebuild()?.commit(self.header.applied_index, self.header.revision.0)?;
        let results = vec![OpResult::of(Detail::Removed(Removed { keys, next: None }))];
        Ok(Outcome::Applied { revision: self.header.revision, results })
    }

    /// Applies committed entries in one batch. Entries are (index, term, payload), consecutive, the first right after the
    /// applied index.
    pub fn apply(&mut self, entries: &[(u64, u64, Bytes)]) -> Result<Applied, ShardError> {
        let history_before = self.header.history;
        let mut step = Step::new(self.engine.view(), self.lifetime, self.next_expiry_ms);
        step.next_forget_ms = self.next_forget_ms;
        let mut session_changes = Vec::new();
        for (index, term, payload) in entries {
            assert_eq!(*index, self.header.applied_index + 1, "entries are applied in order, without gaps");
            let (entry, commands) = decode_entry(payload.clone())?;
            self.header.log_time_ms = self.header.log_time_ms.max(entry.log_time_ms);
            if self.sessions.sweep(self.header.log_time_ms) {
                session_changes.push(SessionChange::Swept(self.header.log_time_ms));
            }
            step.expire(&mut self.header)?;
            step.forget(&self.header)?;
            for command in commands {
                self.apply_command(&command, &mut step, &mut session_changes)?;
            }
            step.end_entry(&mut self.header)?;
            self.header.applied_index = *index;
            self.header.applied_term = *term;
        }
        self.next_expiry_ms = step.next_expiry_ms;
        self.next_forget_ms = step.next_forget_ms;
        // The step's view ends here: the engine need not keep what the batch replaces.
        let (mut changes, applied) = step.finish();
        changes.extend(self.header.history.told_anew(&history_before));
        self.commit(changes, &session_changes)?;
        self.may_have_leases |= !applied.leases.is_empty();
        Ok(applied)
    }

    /// Takes note of a membership change that stands in the log at this position.
    pub fn set_membership(&mut self, index: u64, term: u64, membership: Bytes) -> Result<(), ShardError> {
        assert_eq!(index, self.header.applied_index + 1, "entries are applied in order, without gaps");
        self.header.applied_index = index;
        self.header.applied_term = term;
        self.header.membership = membership;
        self.commit(Vec::new(), &[])
    }

    /// The log time from which on there may be something that an entry does by itself, whatever it holds: an entry without
    /// commands is enough. None: nothing will be due, unless a command changes that. Who leads sees to it that there is one.
    pub fn due_at_ms(&self) -> Option<u64> {
        let ShardHeader { settings, revision, log_time_ms, history, .. } = &self.header;
        let of_history = history.due_at_ms(settings.retention, *revision, *log_time_ms);
        [of_history, self.next_expiry_ms].into_iter().flatten().min()
    }

    /// Whether there may be leases. False: there are none.
    pub fn may_have_leases(&self) -> bool {
        self.may_have_leases
    }

    /// The numbers.
    pub fn header(&self) -> &ShardHeader {
        &self.header
    }

    /// Where the pairs are.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The numbers and sessions, encoded: with the `Current` and `History` tables of the engine's present view, all there
    /// is to know about the shard.
    pub fn state_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        write_header(&self.header, &mut out);
        self.sessions.encode(&mut out);
        out.freeze()
    }

    /// The numbers within an encoded state.
    pub fn decode_header(state: Bytes) -> Result<ShardHeader, DecodeError> {
        decode_state(state).map(|(header, _)| header)
    }

    /// Hands the engine what changed, with the state that goes with it.
    fn commit(&mut self, mut changes: Vec<Change>, session_changes: &[SessionChange]) -> Result<(), ShardError> {
        if let Some(stored) = &mut self.stored {
            stored.add_to(&mut changes, &self.header, &self.sessions, session_changes);
        }
        let batch = Batch { applied: self.header.applied_index, revision: self.header.revision.0, changes };
        Ok(self.engine.apply(batch)?)
    }

    fn apply_command(
        &mut self,
        command: &Command,
        step: &mut Step,
        session_changes: &mut Vec<SessionChange>,
    ) -> Result<(), ShardError> {
        let outcome = match self.sessions.seen(command.id) {
            Some(outcome) => outcome,
            None => {
                let outcome = step.execute(&command.write, &mut self.header)?;
                let remembered = self.sessions.remember(command, &outcome, self.header.log_time_ms);
                if self.stored.is_some() {
                    session_changes.extend(remembered.map(SessionChange::Remembered));
                }
                outcome
            }
        };
        step.applied.outcomes.push((command.id, outcome));
        Ok(())
    }
}

pub(crate) fn write_header(header: &ShardHeader, out: &mut BytesMut) {
    out.put_u8(STATE_VERSION);
    out.put_varint(header.applied_index);
    out.put_varint(header.applied_term);
    out.put_varint(header.revision.0);
    out.put_varint(header.log_time_ms);
    out.put_varint(header.data_bytes);
    header.settings.encode(out);
    header.history.encode(out);
    out.put_bytes_with_len(&header.membership);
}

pub(crate) fn read_header(reader: &mut Reader) -> Result<ShardHeader, DecodeError> {
    let version = reader.u8()?;
    if !(1..=STATE_VERSION).contains(&version) {
        return Err(DecodeError::UnknownTag { what: "shard state version", tag: version });
    }
    Ok(ShardHeader {
        applied_index: reader.varint()?,
        applied_term: reader.varint()?,
        revision: Revision(reader.varint()?),
        log_time_ms: reader.varint()?,
        data_bytes: reader.varint()?,
        settings: match version {
            1 => Settings::of(Limits { max_bytes: reader.varint()?, ..Limits::default() }),
            2 => Settings::of(Limits::read(reader)?),
            _ => Settings::read(reader)?,
        },
        history: if version < 3 { HistoryHeader::default() } else { HistoryHeader::read(reader)? },
        membership: reader.bytes()?,
    })
}

fn decode_state(state: Bytes) -> Result<(ShardHeader, Sessions), DecodeError> {
    let mut reader = Reader::new(state);
    let header = read_header(&mut reader)?;
    let sessions = Sessions::read(&mut reader)?;
    reader.finish()?;
    Ok((header, sessions))
}
