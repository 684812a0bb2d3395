//! What can be set, and what is reported.

use crate::error::LogError;
use crate::format::SECTOR_BYTES;

/// How large things may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The size of a segment: 4 KiB to 1 GiB, a multiple of 512. A batch that does not fit gets a larger one of its own.
    pub segment_bytes: u64,
    /// How much disk the log should take. The log reports when it takes more, and it is on the node to purge; no write is
    /// refused for it.
    pub max_log_bytes: u64,
    /// How much of the disk new entries and states must leave free. The other records may use it, so that a full node can
    /// still vote, and purge.
    pub reserve_bytes: u64,
    /// How many segments without content are kept for use again; more are deleted.
    pub max_spare_segments: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 32 << 20, max_log_bytes: 1 << 30, reserve_bytes: 64 << 20, max_spare_segments: 4 }
    }
}

impl Options {
    pub(crate) fn validate(&self) -> Result<(), LogError> {
        if !(4 << 10..=1 << 30).contains(&self.segment_bytes) {
            return Err(LogError::Options("segment_bytes must be between 4 KiB and 1 GiB"));
        }
        if !self.segment_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(LogError::Options("segment_bytes must be a multiple of 512"));
        }
        Ok(())
    }
}

/// What the log takes and holds, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all segments on disk, spare ones and what is made of the next included.
    pub log_bytes: u64,
    /// Bytes of what is not purged, of all groups.
    pub live_bytes: u64,
    /// Number of segments with content.
    pub segment_count: usize,
    /// Number of segments kept for use again.
    pub spare_count: usize,
    /// [`Options::max_log_bytes`].
    pub cap_bytes: u64,
    /// Free bytes on the disk; `None` if the disk does not tell.
    pub available_bytes: Option<u64>,
    /// Whether the next segment would have to be taken from the reserve: new entries should be refused before they are
    /// proposed. It turns true while there is still room in the segment in use, at most one segment ahead.
    pub is_below_reserve: bool,
}

impl Usage {
    /// Whether the log takes more than its cap: durable points are due.
    pub fn is_above_cap(&self) -> bool {
        self.log_bytes > self.cap_bytes
    }
}
