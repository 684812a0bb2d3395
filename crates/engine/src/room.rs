//! Room on the disk under an engine. An engine that fails to write for want of it is closed and opened again, and read by nobody
//! meanwhile: so what needs room asks for it beforehand.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// What is left alone beside what the work itself will write: others write to the same disk at the same time. The log refuses
/// entries long before (`quorate-log`'s reserve), so that what is in it can still be applied.
const MARGIN_BYTES: u64 = 16 << 20;

/// How often who waits looks again.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The disk under a folder.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    folder: PathBuf,
}

impl Room {
    pub(crate) fn under(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Whether so much more can be written, and a margin is left.
    pub(crate) fn has(&self, bytes: u64) -> bool {
        has_room(self.available_bytes(), bytes)
    }

    /// Waits until so much more can be written, or until `is_over`. Blocks for as long as it takes somebody to make room.
    pub(crate) fn wait_for(&self, bytes: u64, is_over: impl Fn() -> bool) {
        while !is_over() && !self.has(bytes) {
            sleep(POLL_INTERVAL);
        }
    }

    /// Not known where the system does not tell.
    fn available_bytes(&self) -> Option<u64> {
        let statistics = rustix::fs::statvfs(&self.folder).ok()?;
        Some(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }
}

fn has_room(available_bytes: Option<u64>, wanted_bytes: u64) -> bool {
    available_bytes.is_none_or(|available| available >= wanted_bytes.saturating_add(MARGIN_BYTES))
}

/// Whether an error says that there was no room after all: somebody else was faster.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{MARGIN_BYTES, Room, has_room};

    #[test]
    fn a_margin_is_left_and_what_is_not_known_is_tried() {
        assert!(has_room(Some(MARGIN_BYTES + 5), 5) && !has_room(Some(MARGIN_BYTES + 4), 5));
        assert!(!has_room(Some(u64::MAX - 1), u64::MAX));
        assert!(has_room(None, u64::MAX));
    }

    #[test]
    fn nobody_waits_for_what_is_there_or_after_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::under(folder.path());
        room.wait_for(1, || false);
        let looks = Cell::new(0);
        room.wait_for(u64::MAX, || looks.replace(looks.get() + 1) == 1);
        assert_eq!(looks.get(), 2, "it looked, waited, and looked again");
        Room::under("/no/such/folder".as_ref()).wait_for(u64::MAX, || false);
    }
}
