//! What a client has seen of a keyspace, so that it sees no less at another replica.
//!
//! A session is a stamp per replica: nothing that the replica wrote and the client has seen is above it, be it that the client
//! wrote it there, or read it anywhere. A replica that has all own writes of another up to the stamp, by what that one reported,
//! or that asks it for the key, answers with nothing older than the client has seen (read-your-writes, monotonic reads). A write
//! of the session gets a stamp above all of them, so that it stands over what the client has seen (writes follow reads). The four
//! session guarantees are those of Terry et al., "Session Guarantees for Weakly Consistent Replicated Data" (1994).

use std::collections::BTreeMap;

use bytes::{BufMut as _, BytesMut};
use quorate_engine::codec::{DecodeError, Reader, Writer};

use crate::version::{Hlc, InstanceId, Version};

/// Stamps of at most so many replicas; those that were stamped first are kept under the id 0 beyond it. What all replicas have
/// is left out, so that a session rarely knows of more than the members.
pub const MAX_SESSION_STAMPS: usize = 64;

/// No replica: who has that is to be asked of all. The catalog begins to count at 1.
const ANYBODY: InstanceId = InstanceId(0);

/// A session; the empty one has seen nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// By who wrote it, as far as not all replicas have it.
    seen: BTreeMap<InstanceId, Hlc>,
    /// The greatest version of all: stays when everybody has it, for a clock that is behind must not stamp below it.
    latest: Version,
    /// All of it is, or was, at this one.
    at: Option<InstanceId>,
}

impl Session {
    /// The client has seen this.
    pub fn note(&mut self, version: Version) {
        self.latest = self.latest.max(version);
        self.note_stamp(version.instance, version.hlc);
        while self.seen.len() > MAX_SESSION_STAMPS {
            let others = self.seen.iter().filter(|(id, _)| **id != ANYBODY);
            let Some((id, hlc)) = others.min_by_key(|(_, hlc)| **hlc).map(|(id, hlc)| (*id, *hlc)) else { return };
            self.seen.remove(&id);
            self.note_stamp(ANYBODY, hlc);
        }
    }

    fn note_stamp(&mut self, instance: InstanceId, hlc: Hlc) {
        let seen = self.seen.entry(instance).or_default();
        *seen = (*seen).max(hlc);
    }

    /// The client has seen what another session has, too: requests that went beside each other come together.
    pub fn join(&mut self, other: &Self) {
        let at = if *self == Self::default() { other.at } else { self.at.filter(|at| other.at == Some(*at)) };
        other.seen.iter().for_each(|(instance, hlc)| self.note(Version { hlc: *hlc, instance: *instance }));
        self.latest = self.latest.max(other.latest);
        self.at = at;
    }

    /// The greatest version that it has seen of any key; before all others if it has seen nothing.
    pub fn latest(&self) -> Version {
        self.latest
    }

    /// Whether all of it is known to have been at a replica.
    pub(crate) fn was_at(&self, instance: InstanceId) -> bool {
        self.at == Some(instance)
    }

    /// All of it is at a replica, or it is not known of any.
    pub(crate) fn is_at(&mut self, instance: Option<InstanceId>) {
        self.at = instance;
    }

    /// The stamps, by replica.
    pub(crate) fn stamps(&self) -> impl Iterator<Item = (InstanceId, Hlc)> {
        self.seen.iter().map(|(instance, hlc)| (*instance, *hlc))
    }

    /// All replicas have everything up to this stamp.
    pub(crate) fn forget_upto(&mut self, stable: Hlc) {
        self.seen.retain(|_, hlc| *hlc > stable);
    }

    /// Appends the encoded form: the greatest version, at whom all of it was (0: nobody known), the number of stamps, then each
    /// with its replica; numbers as varints, stamps big endian.
    pub fn encode(&self, out: &mut BytesMut) {
        self.latest.encode(out);
        out.put_varint(self.at.map_or(0, |at| u64::from(at.0)));
        out.put_varint(self.seen.len() as u64);
        for (instance, hlc) in &self.seen {
            out.put_varint(u64::from(instance.0));
            out.put_u64(hlc.0);
        }
    }

    /// Reads what [`Session::encode`] wrote. More than [`MAX_SESSION_STAMPS`] are refused.
    pub fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let latest = Version::read(reader)?;
        let at = Some(InstanceId(reader.varint_u32()?)).filter(|at| *at != ANYBODY);
        let count = reader.varint()?;
        let mut session = Self { latest, at, ..Self::default() };
        for _ in 0..count {
            let instance = InstanceId(reader.varint_u32()?);
            let hlc = Hlc(reader.u64_be()?);
            session.note_stamp(instance, hlc);
            session.latest = session.latest.max(Version { hlc, instance });
            if session.seen.len() > MAX_SESSION_STAMPS {
                return Err(DecodeError::Malformed("more stamps than a session has"));
            }
        }
        Ok(session)
    }
}
