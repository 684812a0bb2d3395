//! The bounded queue in front of a connection.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use quorate_api::peer::{Frame, Lane, MAX_FRAME_BYTES};
use tokio::sync::Notify;

use super::LOCK_HELD;

/// How many bytes of frames may wait on a lane of one peer; also the longest frame that the lane takes. What is being
/// written, at most one write's worth, is not counted any more.
pub const fn max_queued_bytes(lane: Lane) -> usize {
    match lane {
        // Heartbeats and votes of all groups: more than this means that nobody reads.
        Lane::Control => 1 << 20,
        // Above what raft may have in flight to one peer, so that raft's limit is the one that is met.
        Lane::Append => 64 << 20,
        Lane::Request => 16 << 20,
        // A few parts of snapshots: their sender waits for answers anyway.
        Lane::Bulk => 8 << 20,
    }
}

const _: () = assert!(max_queued_bytes(Lane::Append) >= MAX_FRAME_BYTES, "every append fits into an empty queue");

/// Frames that wait to be written. Many threads push, one task takes.
///
/// Invariant: `bytes` is the sum of the waiting frames' bytes, and at most `max_bytes`.
pub(super) struct SendQueue {
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<(Frame, usize)>,
    bytes: usize,
}

impl SendQueue {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, waiting: Mutex::default(), filled: Notify::new() }
    }

    /// Adds a frame of `bytes` bytes, unless there is no room.
    pub(super) fn try_push(&self, frame: Frame, bytes: usize) -> bool {
        let mut waiting = self.waiting();
        if waiting.bytes + bytes > self.max_bytes {
            return false;
        }
        waiting.bytes += bytes;
        waiting.frames.push_back((frame, bytes));
        let was_empty = waiting.frames.len() == 1;
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
        true
    }

    /// Takes the oldest frames, in order: as many as take at most `max_bytes` together, or one that is longer. Waits for the
    /// first one. Nothing is lost if the future is dropped.
    pub(super) async fn take(&self, max_bytes: usize) -> Vec<Frame> {
        loop {
            let frames = self.take_waiting(max_bytes);
            if !frames.is_empty() {
                return frames;
            }
            self.filled.notified().await;
        }
    }

    /// Drops what waits; returns how many frames.
    pub(super) fn clear(&self) -> usize {
        let dropped = std::mem::take(&mut *self.waiting());
        dropped.frames.len()
    }

    /// The frames that wait, and their bytes.
    pub(super) fn len(&self) -> (usize, usize) {
        let waiting = self.waiting();
        (waiting.frames.len(), waiting.bytes)
    }

    fn take_waiting(&self, max_bytes: usize) -> Vec<Frame> {
        let mut waiting = self.waiting();
        let mut taken = Vec::new();
        let mut taken_bytes = 0;
        while let Some((_, bytes)) = waiting.frames.front() {
            if !taken.is_empty() && taken_bytes + bytes > max_bytes {
                break;
            }
            let Some((frame, bytes)) = waiting.frames.pop_front() else { break };
            waiting.bytes -= bytes;
            taken_bytes += bytes;
            taken.push(frame);
        }
        taken
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect(LOCK_HELD)
    }
}

#[cfg(test)]
mod tests {
    use quorate_api::peer::RaftMessage;
    use tokio::time::{Duration, timeout};

    use super::*;

    fn numbered(index: u64) -> Frame {
        Frame::Raft(vec![RaftMessage { index, ..RaftMessage::default() }])
    }

    #[tokio::test]
    async fn frames_leave_in_order_and_in_batches_of_limited_size() {
        let queue = SendQueue::new(100);
        for (index, bytes) in [(1, 30), (2, 20), (3, 1), (4, 49)] {
            assert!(queue.try_push(numbered(index), bytes));
        }
        assert_eq!(queue.len(), (4, 100));
        assert!(!queue.try_push(numbered(5), 1), "the limit is met");
        assert_eq!(queue.take(50).await, [numbered(1), numbered(2)]);
        assert_eq!(queue.len(), (2, 50));
        assert!(queue.try_push(numbered(5), 50), "what was taken makes room");
        assert_eq!(queue.take(10).await, [numbered(3)]);
        assert_eq!(queue.take(10).await, [numbered(4)], "one that is longer goes alone");
        assert_eq!(queue.clear(), 1);
        assert_eq!(queue.len(), (0, 0));
    }

    #[tokio::test]
    async fn waiting_for_the_first_frame_may_be_given_up_and_taken_up_again() {
        let queue = SendQueue::new(100);
        assert!(timeout(Duration::from_millis(5), queue.take(50)).await.is_err());
        assert!(queue.try_push(numbered(1), 30));
        assert_eq!(queue.take(50).await, [numbered(1)]);
        let (taken, _) = tokio::join!(queue.take(50), async { queue.try_push(numbered(2), 30) });
        assert_eq!(taken, [numbered(2)]);
    }
}
