//! Room on the disk under an engine. An engine that fails to write for want of it is closed and opened again, and read by nobody
//! meanwhile: so what needs room asks for it beforehand.

use std::path::{Path, PathBuf};

/// What is left alone beside what the work itself will write: others write to the same disk at the same time.
const MARGIN_BYTES: u64 = 16 << 20;

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

    /// Not known where the system does not tell.
    fn available_bytes(&self) -> Option<u64> {
        let statistics = rustix::fs::statvfs(&self.folder).ok()?;
        Some(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }
}

fn has_room(available_bytes: Option<u64>, wanted_bytes: u64) -> bool {
    available_bytes.is_none_or(|available| available >= wanted_bytes.saturating_add(MARGIN_BYTES))
}

#[cfg(test)]
mod tests {
    use super::{MARGIN_BYTES, Room, has_room};

    #[test]
    fn a_margin_is_left_and_what_is_not_known_is_tried() {
        assert!(has_room(Some(MARGIN_BYTES + 5), 5) && !has_room(Some(MARGIN_BYTES + 4), 5));
        assert!(!has_room(Some(u64::MAX - 1), u64::MAX));
        assert!(has_room(None, u64::MAX));
        assert!(Room::under("/no/such/folder".as_ref()).has(u64::MAX));
        assert!(!Room::under(tempfile::tempdir().unwrap().path()).has(u64::MAX));
    }
}
