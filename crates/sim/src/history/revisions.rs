//! Do the revisions in the answers agree with the order in which clients asked?
//!
//! An operation that began after another had ended must not be ordered before it: reads of a revision at least as great,
//! writes with a greater one. This needs one number per operation.

/// What had been answered when an operation was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The greatest revision in any answer so far.
    floor: u64,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The shard was read at this revision.
    Read(u64),
    /// The shard was changed by this revision.
    Changed(u64),
}

/// The revisions in all answers of one shard so far.
#[derive(Clone, Debug, Default)]
pub struct RevisionOrder {
    greatest: u64,
}

impl RevisionOrder {
    /// A client sends an operation.
    pub fn on_sent(&self) -> Sent {
        Sent { floor: self.greatest }
    }

    /// A client has an answer; says what is wrong with it.
    pub fn on_answer(&mut self, sent: Sent, seen: Seen) -> Result<(), String> {
        let (revision, is_in_order) = match seen {
            Seen::Read(revision) => (revision, revision >= sent.floor),
            Seen::Changed(revision) => (revision, revision > sent.floor),
        };
        self.greatest = self.greatest.max(revision);
        if is_in_order {
            Ok(())
        } else {
            Err(format!("{seen:?}, but revision {} was in an answer before this was sent", sent.floor))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_at_the_same_time_may_come_in_any_order() {
        let mut order = RevisionOrder::default();
        let (one, other, third) = (order.on_sent(), order.on_sent(), order.on_sent());
        assert_eq!(order.on_answer(one, Seen::Changed(9)), Ok(()));
        assert_eq!(order.on_answer(other, Seen::Changed(8)), Ok(()));
        assert_eq!(order.on_answer(third, Seen::Read(1)), Ok(()));
    }

    #[test]
    fn what_was_sent_after_an_answer_is_ordered_after_it() {
        let mut order = RevisionOrder::default();
        let first = order.on_sent();
        order.on_answer(first, Seen::Changed(5)).unwrap();
        let (stale, fresh) = (order.on_sent(), order.on_sent());
        assert!(order.on_answer(stale, Seen::Read(4)).is_err());
        assert_eq!(order.on_answer(fresh, Seen::Read(5)), Ok(()));
        let (repeated, next) = (order.on_sent(), order.on_sent());
        assert!(order.on_answer(repeated, Seen::Changed(5)).is_err());
        assert_eq!(order.on_answer(next, Seen::Changed(6)), Ok(()));
    }
}
