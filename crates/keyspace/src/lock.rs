//! Locks and elections: who holds a name, and who waits for it.
//!
//! A lock has no state of its own. Whoever wants it puts a key that hangs on a lease, its *claim*: the lock's name, a slash, the
//! lease's id in hexadecimal. The claim that was created first holds the lock, the others wait in the order in which they were
//! created, and each goes with its lease. The revision at which a claim was created is its *fencing token*: of two holders, the
//! later has the greater one. Claims that came to be at once, by hand, stand in the order of their keys.
//!
//! These are etcd's keys and rules (v3lockpb, v3electionpb), so that clients of both stand in one line. One thing is stricter: a
//! key counts only if it hangs on the lease that it names, so that names below a name, or other keys there, hold nobody up.

use bytes::{BufMut as _, Bytes, BytesMut};
use quorate_engine::{Direction, KeyRange, View};

use crate::Revision;
use crate::lease::LeaseId;
use crate::read::{get, pairs};
use crate::record::Record;
use crate::shard::ShardError;

/// Bytes that a claim's key has beside the lock's name, at most.
pub const CLAIM_KEY_BYTES: usize = 1 + 16;

/// Somebody's place in the line for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its key.
    pub key: Bytes,
    /// The lease that it hangs on.
    pub lease: LeaseId,
    /// What is stored there. Its value is its holder's: in an election, what the leader says of itself.
    pub record: Record,
}

impl Claim {
    /// The fencing token.
    pub fn token(&self) -> Revision {
        self.record.meta.create_revision
    }

    /// In the line, the least first.
    fn place(&self) -> (Revision, &Bytes) {
        (self.token(), &self.key)
    }
}

/// How a lock stands, in one view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Who holds it.
    pub holder: Option<Claim>,
    /// How many wait.
    pub waiting: u64,
    /// Of the lease that was asked for.
    pub own: Option<OwnClaim>,
    /// The key of the lease's claim is there, and hangs on no lease, or another: it is no claim, and there can be none.
    pub is_taken: bool,
}

/// Where a claim stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnClaim {
    /// The claim.
    pub claim: Claim,
    /// How many stand before it; 0: it holds the lock.
    pub ahead: u64,
    /// The key of the claim directly before it. While that is there it does not hold the lock.
    pub before: Option<Bytes>,
}

/// The key of a lease's claim to a lock.
pub fn claim_key(name: &[u8], lease: LeaseId) -> Bytes {
    let lease = format!("{:x}", lease.0);
    let mut key = BytesMut::with_capacity(name.len() + 1 + lease.len());
    key.put_slice(name);
    key.put_u8(b'/');
    key.put_slice(lease.as_bytes());
    key.freeze()
}

/// Where the claims to a lock are, and perhaps other keys.
pub fn claims(name: &[u8]) -> KeyRange {
    KeyRange::prefix(&[name, b"/"].concat())
}

/// How a lock stands, and where in the line a lease does. Costs what lists of the keys below the lock's name cost.
pub fn standing(view: &dyn View, name: &[u8], lease: Option<LeaseId>) -> Result<Standing, ShardError> {
    let mut own = None;
    let mut is_taken = false;
    if let Some(lease) = lease {
        let key = claim_key(name, lease);
        let found = get(view, &key)?;
        is_taken = found.as_ref().is_some_and(|record| record.lease != Some(lease));
        own = found.and_then(|record| claim_of(name, key, record)).map(|claim| OwnClaim { claim, ahead: 0, before: None });
    }
    let (mut holder, mut before, mut count): (Option<Claim>, Option<Claim>, u64) = (None, None, 0);
    for pair in pairs(view, &claims(name), Direction::Forward) {
        let (key, record) = pair?;
        let Some(claim) = claim_of(name, key, record) else { continue };
        count += 1;
        if holder.as_ref().is_none_or(|holder| claim.place() < holder.place()) {
            holder = Some(claim.clone());
        }
        if let Some(own) = own.as_mut().filter(|own| claim.place() < own.claim.place()) {
            own.ahead += 1;
            if before.as_ref().is_none_or(|before| claim.place() > before.place()) {
                before = Some(claim);
            }
        }
    }
    if let Some(own) = &mut own {
        own.before = before.map(|before| before.key);
    }
    Ok(Standing { waiting: count - u64::from(holder.is_some()), holder, own, is_taken })
}

/// Whether a pair that hangs on a lease is its claim to some lock.
pub fn is_claim(key: &[u8], lease: LeaseId) -> bool {
    let name = key.iter().rposition(|byte| *byte == b'/').map(|end| &key[..end]);
    name.is_some_and(|name| key == claim_key(name, lease))
}

/// The claim that is stored under a key, if it is one.
fn claim_of(name: &[u8], key: Bytes, record: Record) -> Option<Claim> {
    let lease = record.lease?;
    (key == claim_key(name, lease)).then_some(Claim { key, lease, record })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_engine::{Engine as _, Trie};

    use super::*;
    use crate::{Command, EntryHeader, Limits, Op, Put, RequestId, Settings, Shard, ShardHeader, Write, encode_entry};

    struct Locks {
        engine: Arc<Trie>,
        shard: Shard,
        index: u64,
    }

    impl Locks {
        fn new() -> Self {
            let engine = Arc::new(Trie::new());
            let settings = Settings::of(Limits { max_bytes: u64::MAX, ..Limits::default() });
            let shard = Shard::found(engine.clone(), ShardHeader { settings, ..ShardHeader::default() }).unwrap();
            let mut locks = Self { engine, shard, index: 0 };
            for id in [1, 2, 0x1f] {
                locks.write(Op::LeaseGrant { id: LeaseId(id), ttl_ms: 1000 });
            }
            locks
        }

        fn write(&mut self, op: Op) {
            self.write_all(vec![op]);
        }

        fn write_all(&mut self, ops: Vec<Op>) {
            let command = Command { id: RequestId::default(), floor: 0, write: Write { ops, ..Write::default() } };
            self.index += 1;
            let entry = encode_entry(EntryHeader::default(), [command.to_bytes()].iter());
            let applied = self.shard.apply(&[(self.index, 1, entry)]).unwrap();
            assert!(matches!(applied.outcomes[0].1, crate::Outcome::Applied { .. }), "{:?}", applied.outcomes);
        }

        fn put(&mut self, key: impl Into<Bytes>, lease: Option<u64>) {
            self.write(Op::Put(Put { lease: lease.map(LeaseId), ..Put::new(key.into(), Bytes::from_static(b"me")) }));
        }

        fn claim(&mut self, lease: u64) {
            self.put(claim_key(b"jobs", LeaseId(lease)), Some(lease));
        }

        fn standing(&self, lease: u64) -> Standing {
            standing(&*self.engine.view(), b"jobs", Some(LeaseId(lease))).unwrap()
        }

        /// Who holds it, how many wait, and how many stand before a lease's claim.
        fn seen(&self, lease: u64) -> (Option<u64>, u64, Option<u64>) {
            let Standing { holder, waiting, own, .. } = self.standing(lease);
            (holder.map(|holder| holder.lease.0), waiting, own.map(|own| own.ahead))
        }
    }

    #[test]
    fn the_first_claim_holds_and_each_waits_for_the_one_before() {
        let mut locks = Locks::new();
        assert_eq!(locks.standing(1), Standing::default());
        // In an order that is not that of the keys.
        [0x1f, 1, 2].into_iter().for_each(|lease| locks.claim(lease));
        assert_eq!([0x1f, 1, 2].map(|lease| locks.seen(lease).2), [Some(0), Some(1), Some(2)]);
        assert_eq!(locks.seen(2), (Some(0x1f), 2, Some(2)));
        let own = locks.standing(2).own.unwrap();
        assert_eq!((own.claim.token(), own.before.as_deref()), (Revision(4), Some(&b"jobs/1"[..])));
        // Who puts its claim again, with another value, keeps its place.
        locks.claim(1);
        assert_eq!(locks.seen(1), (Some(0x1f), 2, Some(1)));
        locks.write(Op::LeaseRevoke { id: LeaseId(1) });
        assert_eq!(locks.seen(2), (Some(0x1f), 1, Some(1)));
        assert_eq!(locks.standing(2).own.unwrap().before.as_deref(), Some(&b"jobs/1f"[..]));
        locks.write(Op::Delete { key: claim_key(b"jobs", LeaseId(0x1f)) });
        assert_eq!(locks.seen(2), (Some(2), 0, Some(0)));
        assert_eq!(locks.standing(2).own.unwrap().claim, locks.standing(2).holder.unwrap());
        // A new claim of one that held it before has a new token.
        locks.claim(0x1f);
        assert_eq!((locks.seen(0x1f).2, locks.standing(0x1f).own.unwrap().claim.token()), (Some(1), Revision(8)));
    }

    #[test]
    fn of_claims_that_came_to_be_at_once_one_holds() {
        let mut locks = Locks::new();
        let claim =
            |lease| Op::Put(Put { lease: Some(LeaseId(lease)), ..Put::new(claim_key(b"jobs", LeaseId(lease)), Bytes::new()) });
        locks.write_all([2, 0x1f, 1].map(claim).to_vec());
        assert_eq!(
            [1, 0x1f, 2].map(|lease| locks.seen(lease)),
            [(Some(1), 2, Some(0)), (Some(1), 2, Some(1)), (Some(1), 2, Some(2))]
        );
        assert_eq!(locks.standing(2).own.unwrap().before.as_deref(), Some(&b"jobs/1f"[..]));
    }

    #[test]
    fn claims_are_known_by_their_keys() {
        let is = |key: &str, lease| is_claim(key.as_bytes(), LeaseId(lease));
        assert!(is("a/1f", 0x1f) && is("a/b/1f", 0x1f) && is("/1f", 0x1f));
        assert!(!is("1f", 0x1f) && !is("a/1F", 0x1f) && !is("a/01f", 0x1f) && !is("a/1f", 1) && !is("a/1f/", 0x1f));
    }

    #[test]
    fn what_is_no_claim_holds_nobody_up() {
        let mut locks = Locks::new();
        for (key, lease) in [
            ("jobs/1", None),
            ("jobs/2", Some(1)),
            ("jobs/01", Some(1)),
            ("jobs/1F", Some(0x1f)),
            ("jobs/night/1", Some(1)),
            ("jobs/", Some(1)),
            ("jobs", Some(1)),
            ("jobsx/1", Some(1)),
        ] {
            locks.put(key, lease);
        }
        assert_eq!(locks.standing(1), Standing { is_taken: true, ..Standing::default() });
        locks.claim(0x1f);
        assert_eq!(locks.seen(0x1f), (Some(0x1f), 0, Some(0)));
        assert_eq!(standing(&*locks.engine.view(), b"jobs/night", None).unwrap().holder.unwrap().lease, LeaseId(1));
    }
}
