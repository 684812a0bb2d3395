//! Lines that were read and are not known to be in: in order, for results come in order too, and are kept to be sent again.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_api::batch::BatchOp;

/// Lines under way at the same time: enough for a node to have work while results travel.
const MAX_LINES: usize = 4096;

/// Bytes of lines under way; the line that goes beyond is the last one.
const MAX_BYTES: u64 = 32 << 20;

/// The lines, and what is known of those before them.
///
/// *Invariants*: the first line has an operation; of those that were sent, it is the one whose result is next.
#[derive(Debug)]
pub(super) struct UnderWay {
    lines: VecDeque<Waiting>,
    bytes: u64,
    /// So many of them, from the first, were sent on the stream that there is now.
    sent: usize,
    skipped: u64,
    skipped_bytes: u64,
    /// The lines up to this one are done, or were left out.
    done: u64,
    done_bytes: u64,
}

#[derive(Debug)]
struct Waiting {
    bytes: u64,
    /// None for a line of which nothing is to be sent.
    op: Option<BatchOp>,
}

impl UnderWay {
    pub(super) fn new() -> Self {
        Self { lines: VecDeque::new(), bytes: 0, sent: 0, skipped: 0, skipped_bytes: 0, done: 0, done_bytes: 0 }
    }

    /// Leaves out the next line. Only before the others.
    pub(super) fn skip(&mut self, bytes: u64) {
        debug_assert!(self.lines.is_empty() && self.skipped == self.done, "only the first lines are left out");
        self.skipped += 1;
        self.skipped_bytes += bytes;
        self.done += 1;
        self.done_bytes += bytes;
    }

    /// Takes in the next line.
    pub(super) fn insert(&mut self, bytes: u64, op: Option<BatchOp>) {
        self.bytes += bytes;
        self.lines.push_back(Waiting { bytes, op });
        self.settle();
    }

    /// The next operation that was not sent.
    pub(super) fn next_to_send(&mut self) -> Option<&BatchOp> {
        let (passed, op) = self.lines.iter().skip(self.sent).enumerate().find_map(|(at, line)| Some((at, line.op.as_ref()?)))?;
        self.sent += passed + 1;
        Some(op)
    }

    /// The first line is done.
    pub(super) fn on_done(&mut self) {
        self.pop();
        self.settle();
    }

    /// A new stream begins, on which nothing was sent.
    pub(super) fn on_new_stream(&mut self) {
        self.sent = 0;
    }

    /// Lines of which nothing is to be sent are done once those before them are.
    fn settle(&mut self) {
        while self.lines.front().is_some_and(|line| line.op.is_none()) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(line) = self.lines.pop_front() else { return };
        self.sent = self.sent.saturating_sub(1);
        self.bytes -= line.bytes;
        self.done += 1;
        self.done_bytes += line.bytes;
    }

    /// Whether another line may be read.
    pub(super) fn has_room(&self) -> bool {
        self.lines.len() < MAX_LINES && self.bytes < MAX_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether there is a result to wait for.
    pub(super) fn has_sent(&self) -> bool {
        self.sent > 0
    }

    /// The key of the first line.
    pub(super) fn first_key(&self) -> Option<&Bytes> {
        self.lines.front()?.op.as_ref().map(BatchOp::key)
    }

    /// The number of the first line, from 1; without one, of the next that is read.
    pub(super) fn first_number(&self) -> u64 {
        self.done + 1
    }

    /// So many lines from the first are in for certain, with those that were left out.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// How many lines are done, without those that were left out.
    pub(super) fn done_lines(&self) -> u64 {
        self.done - self.skipped
    }

    /// Bytes of all lines that are done or were left out.
    pub(super) fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    /// Bytes of the lines that were left out.
    pub(super) fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(key: &'static str) -> BatchOp {
        BatchOp::Get { key: key.into() }
    }

    fn sent(under_way: &mut UnderWay) -> Vec<Bytes> {
        std::iter::from_fn(|| under_way.next_to_send().map(|op| op.key().clone())).collect()
    }

    #[test]
    fn lines_are_done_in_their_order() {
        let mut lines = UnderWay::new();
        lines.skip(5);
        lines.insert(1, None);
        assert_eq!((lines.done(), lines.done_lines(), lines.is_empty()), (2, 1, true), "nothing is to be sent of it");
        for (bytes, op) in [(10, Some(op("a"))), (1, None), (1, None), (10, Some(op("b")))] {
            lines.insert(bytes, op);
        }
        assert_eq!((lines.done(), lines.has_sent(), lines.first_number()), (2, false, 3));
        assert_eq!(sent(&mut lines), ["a", "b"]);
        lines.on_done();
        assert_eq!((lines.done(), lines.done_bytes(), lines.has_sent()), (5, 18, true));
        assert_eq!(lines.first_key().unwrap(), "b");
        lines.on_done();
        assert_eq!((lines.done(), lines.done_lines(), lines.done_bytes(), lines.has_sent()), (6, 5, 28, false));
    }

    #[test]
    fn a_new_stream_begins_with_the_first_that_is_not_in() {
        let mut lines = UnderWay::new();
        for key in ["a", "b", "c"] {
            lines.insert(1, Some(op(key)));
        }
        assert_eq!(lines.next_to_send().unwrap().key(), "a");
        lines.on_done();
        assert_eq!(sent(&mut lines), ["b", "c"]);
        lines.on_new_stream();
        assert!(!lines.has_sent());
        assert_eq!(sent(&mut lines), ["b", "c"]);
    }

    #[test]
    fn there_is_room_for_so_many_and_so_much() {
        let mut lines = UnderWay::new();
        for _ in 0..MAX_LINES {
            assert!(lines.has_room());
            lines.insert(1, Some(op("a")));
        }
        assert!(!lines.has_room());
        lines.on_done();
        assert!(lines.has_room());
        lines.insert(MAX_BYTES, Some(op("a")));
        lines.on_done();
        assert!(!lines.has_room());
    }
}
