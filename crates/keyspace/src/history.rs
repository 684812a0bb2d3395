//! What was before, beside what is: for as long as a keyspace retains it.
//!
//! `Current` has the latest record of each key, and reads of now look at nothing else. A record that is replaced or removed goes
//! to `History`, where its key and revision find it, and each revision says there what it changed. Rows of `History`:
//!
//! ```text
//! reach   := 00 -> version u8 | compact revision | revision at which recording began | revision swept up to
//!            (only while history is recorded)
//! changes := 01 | revision, big-endian u64 -> version u8 | log time, ms | number of changes | change*
//! change  := cause u8 | length | key | revision of the version before, or 0 | length of its record, or 0
//! version := 02 | key, escaped | 00 01 | revision, big-endian u64 -> record | removal
//! removal := 00 | cause u8
//! ```
//!
//! Numbers are varints unless it says otherwise. A version's row holds the record of that revision, which was replaced or removed
//! since; or tells that the key was removed at that revision. Escaped, each byte 0 of a key is followed by `ff`, so that rows lie
//! in the order of keys, and those of a key in the order of revisions.
//!
//! A *compaction* to a revision makes it the oldest one that can be read: the **compact revision**. What only older revisions
//! need is *swept* afterwards, a bounded number of changes with each entry: since each row of changes names the versions before,
//! exactly those go, and the row itself, as soon as the next one was swept. So the compact revision's own row stays, for who
//! follows changes from there. Between entries only whole revisions are swept.
//!
//! The module: `keeping` records, compacts and sweeps, `reading` needs a view and no shard, `rows` has the byte forms.

mod keeping;
mod reading;
mod rows;

pub use self::keeping::HistoryHeader;
pub(crate) use self::keeping::Recorder;
pub use self::reading::{
    ChangesAfter, Extent, PastError, Version, changes_after, check_revision, compacted, extent, get_at, history_of, keys_at,
    list_at, log_time_of, pairs_at,
};
