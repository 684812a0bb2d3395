//! What is said to ZooKeeper, and what it says: its "jute" encoding, of the six requests that registering takes.
//!
//! ```text
//! packet    length (4 bytes), content
//! request   number (4), operation (4), its fields
//! answer    number (4), transaction (8), error (4), its fields; number -1 is a notice that a watched node has changed
//! ```
//!
//! All numbers are big-endian; text and bytes have their length (4) before them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Answers are larger only if thousands of nodes are registered; ZooKeeper itself takes and sends 1 MiB.
pub(super) const MAX_PACKET_BYTES: usize = 4 << 20;

/// The number of notices.
pub(super) const NOTICE: i32 = -1;

/// What bytes that are no answer are told to be.
pub(super) const MALFORMED: &str = "what answers is no ZooKeeper";

/// A session, as its server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    /// 0: none yet.
    pub(super) id: i64,
    pub(super) password: Bytes,
    /// Without a word for this long, it ends, and with it what was registered.
    pub(super) timeout_ms: i32,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request<'a> {
    /// A node that everybody may see and change; with `is_ephemeral`, it goes with the session.
    Create {
        path: &'a str,
        data: &'a [u8],
        is_ephemeral: bool,
    },
    /// In whatever version it is.
    Delete {
        path: &'a str,
    },
    Data {
        path: &'a str,
    },
    /// The names below it, and a notice when they change.
    Children {
        path: &'a str,
    },
    /// Ends the session.
    Close,
}

/// A node's content, and the session that it goes with; 0 if it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) bytes: Bytes,
    pub(super) owner: i64,
}

/// Everything, for everybody.
const ALL_PERMISSIONS: i32 = 31;
const EPHEMERAL: i32 = 1;

/// The first packet of a connection, which begins a session or takes one up again.
pub(super) fn greeting(session: &Session) -> BytesMut {
    let mut out = BytesMut::new();
    // The version of the protocol, and the last transaction seen: none, or a server that is behind would turn us away.
    out.put_i32(0);
    out.put_i64(0);
    out.put_i32(session.timeout_ms);
    out.put_i64(session.id);
    let nothing = Bytes::from_static(&[0; 16]);
    put_bytes(if session.id == 0 { &nothing } else { &session.password }, &mut out);
    // Never served by one that is cut off from its quorum.
    out.put_u8(0);
    out
}

/// The answer to a [`greeting`]. None: the session has ended.
pub(super) fn take_greeting(mut bytes: Bytes) -> Result<Option<Session>, &'static str> {
    let _version = bytes.try_get_i32().map_err(|_| MALFORMED)?;
    let timeout_ms = bytes.try_get_i32().map_err(|_| MALFORMED)?;
    let id = bytes.try_get_i64().map_err(|_| MALFORMED)?;
    let password = take_bytes(&mut bytes).ok_or(MALFORMED)?;
    Ok((timeout_ms > 0 && id != 0).then_some(Session { id, password, timeout_ms }))
}

impl Request<'_> {
    pub(super) fn encode(self, number: i32) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_i32(number);
        match self {
            Self::Create { path, data, is_ephemeral } => {
                out.put_i32(1);
                put_bytes(path.as_bytes(), &mut out);
                put_bytes(data, &mut out);
                out.put_i32(1);
                out.put_i32(ALL_PERMISSIONS);
                put_bytes(b"world", &mut out);
                put_bytes(b"anyone", &mut out);
                out.put_i32(if is_ephemeral { EPHEMERAL } else { 0 });
            }
            Self::Delete { path } => {
                out.put_i32(2);
                put_bytes(path.as_bytes(), &mut out);
                out.put_i32(-1);
            }
            Self::Data { path } => {
                out.put_i32(4);
                put_bytes(path.as_bytes(), &mut out);
                out.put_u8(0);
            }
            Self::Children { path } => {
                out.put_i32(8);
                put_bytes(path.as_bytes(), &mut out);
                out.put_u8(1);
            }
            Self::Close => out.put_i32(-11),
        }
        out
    }
}

/// The number that an answer is to, its error (0 if there is none), and its fields.
pub(super) fn take_answer(mut bytes: Bytes) -> Result<(i32, i32, Bytes), &'static str> {
    let number = bytes.try_get_i32().map_err(|_| MALFORMED)?;
    let _transaction = bytes.try_get_i64().map_err(|_| MALFORMED)?;
    let error = bytes.try_get_i32().map_err(|_| MALFORMED)?;
    Ok((number, error, bytes))
}

/// Before a node's owner: by which transactions it was created and changed, and when; versions of data, children, permissions.
const BEFORE_OWNER: usize = 8 * 4 + 4 * 3;

/// The fields of an answer to [`Request::Data`].
pub(super) fn take_data(mut fields: Bytes) -> Result<Data, &'static str> {
    let bytes = take_bytes(&mut fields).ok_or(MALFORMED)?;
    if fields.len() < BEFORE_OWNER {
        return Err(MALFORMED);
    }
    fields.advance(BEFORE_OWNER);
    let owner = fields.try_get_i64().map_err(|_| MALFORMED)?;
    Ok(Data { bytes, owner })
}

/// The fields of an answer to [`Request::Children`].
pub(super) fn take_names(mut fields: Bytes) -> Result<Vec<String>, &'static str> {
    let count = fields.try_get_i32().map_err(|_| MALFORMED)?;
    let mut names = Vec::new();
    for _ in 0..count.max(0) {
        let name = take_bytes(&mut fields).ok_or(MALFORMED)?;
        names.push(String::from_utf8(name.into()).map_err(|_| MALFORMED)?);
    }
    Ok(names)
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    out.put_i32(i32::try_from(bytes.len()).expect("what is registered is short"));
    out.put_slice(bytes);
}

/// Nothing is written as the length -1.
fn take_bytes(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_i32().ok()?.max(0)).ok()?;
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the documents of the protocol have it: request 7, create, `/a` with `x`, for everybody, ephemeral.
    #[test]
    fn a_request_is_laid_out_as_documented() {
        let request = Request::Create { path: "/a", data: b"x", is_ephemeral: true }.encode(7);
        let mut expected = vec![0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2];
        expected.extend(b"/a\0\0\0\x01x\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone\0\0\0\x01");
        assert_eq!(request, expected);
        assert_eq!(Request::Close.encode(1), &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xf5][..]);
    }

    #[test]
    fn a_session_is_begun_and_taken_up_again() {
        let fresh = Session { timeout_ms: 6000, ..Session::default() };
        assert_eq!(greeting(&fresh).len(), 4 + 8 + 4 + 8 + 4 + 16 + 1);
        let mut answer = BytesMut::new();
        answer.put_i32(0);
        answer.put_i32(4000);
        answer.put_i64(9);
        put_bytes(b"secret", &mut answer);
        let session = Session { id: 9, password: Bytes::from_static(b"secret"), timeout_ms: 4000 };
        assert_eq!(take_greeting(answer.clone().freeze()), Ok(Some(session.clone())));
        assert!(greeting(&session).windows(6).any(|window| window == b"secret"));
        answer[4..8].fill(0);
        assert_eq!(take_greeting(answer.freeze()), Ok(None));
    }

    #[test]
    fn answers_are_read() {
        let mut names = BytesMut::new();
        names.put_i32(2);
        put_bytes(b"n1", &mut names);
        put_bytes(b"n2", &mut names);
        assert_eq!(take_names(names.freeze()).unwrap(), ["n1", "n2"]);
        let mut data = BytesMut::new();
        put_bytes(b"a:1", &mut data);
        data.put_bytes(0, 44);
        data.put_i64(5);
        data.put_bytes(0, 16);
        assert_eq!(take_data(data.freeze()), Ok(Data { bytes: Bytes::from_static(b"a:1"), owner: 5 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = take_greeting(bytes.clone());
            let _ = take_data(bytes.clone());
            let _ = take_names(bytes.clone());
            if let Ok((_, _, fields)) = take_answer(bytes) {
                let _ = take_names(fields);
            }
        }
    }
}
