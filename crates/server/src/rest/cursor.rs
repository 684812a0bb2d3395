//! Where a list goes on: opaque to clients, the same on every node.

use bytes::{Buf, BufMut, Bytes};
use quorate_api::key::MAX_KEY_BYTES;
use quorate_api::text64;
use quorate_node::keyspace::Place;

/// A place in a list. It is bound to the list's selection, and carries the first page's revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Checksum of keyspace, selection and order.
    pub(super) selection: u32,
    /// The revision of the first page.
    pub(super) revision: u64,
    /// Where the page before ended.
    pub(super) place: Place,
}

const BEHIND_KEY: u8 = 1;
const BEHIND_FOLDER: u8 = 2;
const HEADER_BYTES: usize = 1 + 4 + 8;

impl Cursor {
    pub(super) fn to_text(&self) -> String {
        let (form, key) = match &self.place {
            Place::Key(key) => (BEHIND_KEY, key),
            Place::Folder(folder) => (BEHIND_FOLDER, folder),
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + key.len());
        out.put_u8(form);
        out.put_u32_le(self.selection);
        out.put_u64_le(self.revision);
        out.put_slice(key);
        text64::encode(&out)
    }

    /// The cursor with this text, if it was made for this selection.
    pub(super) fn parse(text: &[u8], selection: u32) -> Option<Self> {
        let mut bytes = Bytes::from(text64::decode(text).ok()?);
        if !(HEADER_BYTES + 1..=HEADER_BYTES + MAX_KEY_BYTES).contains(&bytes.len()) {
            return None;
        }
        let form = bytes.get_u8();
        let (told_selection, revision) = (bytes.get_u32_le(), bytes.get_u64_le());
        let place = match form {
            BEHIND_KEY => Place::Key(bytes),
            BEHIND_FOLDER => Place::Folder(bytes),
            _ => return None,
        };
        (told_selection == selection).then_some(Self { selection, revision, place })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_round_trip_within_their_selection(
            selection: u32,
            revision: u64,
            key in proptest::collection::vec(any::<u8>(), 1..60),
            is_folder: bool,
        ) {
            let place = if is_folder { Place::Folder(key.into()) } else { Place::Key(key.into()) };
            let cursor = Cursor { selection, revision, place };
            let text = cursor.to_text();
            prop_assert_eq!(Cursor::parse(text.as_bytes(), selection), Some(cursor));
            prop_assert_eq!(Cursor::parse(text.as_bytes(), selection.wrapping_add(1)), None);
        }

        #[test]
        fn other_text_is_no_cursor(text: Vec<u8>) {
            prop_assert_eq!(Cursor::parse(&text, 7), None);
        }
    }
}
