//! `Quorate-Session`: what a client has seen of a keyspace goes with it from node to node, and no node shows it less.
//!
//! In a keyspace with revisions that is the greatest revision it was told of; in an eventual one, the stamps of those who wrote
//! what it saw. The token names the keyspace's epoch: one of another keyspace is refused, rather than to promise nothing.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use quorate_api::header;
use quorate_api::keyspace::Capability;
use quorate_api::problem::Code;
use quorate_api::session::{MAX_TOKENS, NEW};
use quorate_api::text64;
use quorate_engine::codec::{DecodeError, Reader};
use quorate_node::eventual_replication::Session as Seen;
use quorate_node::keyspace::Revision;

use super::DEFAULT_TIMEOUT;
use super::deadline::Deadline;
use super::endpoint::App;
use super::keyspaces::require;
use super::refusal::Refusal;
use super::store::{Freshness, Store};
use crate::clock::Clock;

const SESSION: HeaderName = HeaderName::from_static(header::SESSION);

/// The first byte of each token.
const TOKEN_VERSION: u8 = 1;

/// Stamps that are further ahead of this node's wall clock were made by nobody. A write of the session would be stamped above
/// them, and so would everything after it, on all nodes.
const MAX_AHEAD_MS: u64 = 3_600_000;

/// What the client has seen, and what it sees by this request.
#[derive(Debug)]
pub(super) struct Session {
    epoch: u64,
    revision: Revision,
    seen: Seen,
    /// The keyspace counts revisions.
    has_revisions: bool,
}

/// Refuses a session where there is none.
pub(super) fn refuse(headers: &HeaderMap, why: &str) -> Result<(), Refusal> {
    if headers.contains_key(SESSION) {
        return Err(Refusal::new(Code::BadHeader, format!("{}: {why}", header::SESSION)));
    }
    Ok(())
}

impl Session {
    /// That of a request, if it is in one.
    pub(super) async fn of<S: Store>(app: &App<S>, keyspace: &str, headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        if !headers.contains_key(SESSION) {
            return Ok(None);
        }
        require(app, keyspace, Capability::Sessions)?;
        let bad = |why: &str| Refusal::new(Code::BadHeader, format!("{}: {why}; `{NEW}` begins a session", header::SESSION));
        let here = app.store.read(keyspace, Freshness::LOCAL, DEFAULT_TIMEOUT).await.map_err(Refusal::of_read)?;
        let has_revisions = app.store.can(keyspace, Capability::Revisions);
        let mut session = Self { epoch: here.epoch, revision: Revision(0), seen: Seen::default(), has_revisions };
        let lines = headers.get_all(SESSION).iter();
        let texts = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        for (count, text) in texts.filter(|text| *text != NEW.as_bytes()).enumerate() {
            if count >= MAX_TOKENS {
                return Err(bad(&format!("at most {MAX_TOKENS} tokens are taken together")));
            }
            let told = Self::parse(text).map_err(|_| bad("this is no token that a node gave out"))?;
            if told.epoch != session.epoch {
                return Err(bad("it is of another keyspace, or of one that was deleted"));
            }
            session.revision = session.revision.max(told.revision);
            session.seen.join(&told.seen);
        }
        if session.seen.latest().hlc.ms() > Clock::calendar_ms().saturating_add(MAX_AHEAD_MS) {
            let detail = format!("{}: it has stamps that are more than an hour ahead of this node's clock", header::SESSION);
            return Err(Refusal::new(Code::ClockSkew, detail));
        }
        Ok(Some(session))
    }

    /// Waits until this node has all that it has seen; how fresh this node's own state must be for that. It has seen then what
    /// is here.
    pub(super) async fn level<S: Store>(
        app: &App<S>,
        keyspace: &str,
        session: &mut Option<Self>,
        (freshness, deadline): (Freshness, Deadline),
    ) -> Result<Freshness, Refusal> {
        let Some(session) = session else { return Ok(freshness) };
        if let Some(seen) = session.seen() {
            let left = deadline.left().unwrap_or_default();
            let seen = app.store.level(keyspace, seen, left).await.map_err(Refusal::of_read)?;
            session.note(Revision(0), Some(&seen));
        }
        Ok(session.freshness(freshness))
    }

    /// It has read whatever is here now. Nothing is waited for.
    pub(super) async fn sees_all<S: Store>(
        app: &App<S>,
        keyspace: &str,
        session: &mut Option<Self>,
        deadline: Deadline,
    ) -> Result<(), Refusal> {
        let Some(session) = session.as_mut().filter(|session| !session.has_revisions) else { return Ok(()) };
        let left = deadline.left().unwrap_or_default();
        let sees = app.store.level(keyspace, Seen::default(), left).await.map_err(Refusal::of_read)?;
        session.seen.join(&sees);
        Ok(())
    }

    /// How fresh this node's own state must be for it.
    pub(super) fn freshness(&self, asked: Freshness) -> Freshness {
        let is_needed = self.has_revisions && self.revision > Revision(0);
        Freshness { min_revision: asked.min_revision.max(Some(self.revision).filter(|_| is_needed)), ..asked }
    }

    /// What it has seen of an eventual keyspace.
    pub(super) fn seen(&self) -> Option<Seen> {
        (!self.has_revisions).then(|| self.seen.clone())
    }

    /// It sees this now.
    pub(super) fn note(&mut self, revision: Revision, seen: Option<&Seen>) {
        self.revision = self.revision.max(revision);
        if let Some(seen) = seen {
            // Not joined: what all nodes have by now is left out of it.
            self.seen.clone_from(seen);
        }
    }

    fn parse(text: &[u8]) -> Result<Self, DecodeError> {
        let malformed = |_| DecodeError::Malformed("no base64url");
        let mut bytes = Bytes::from(text64::decode(text).map_err(malformed)?);
        if bytes.len() < 1 + 8 + 8 {
            return Err(DecodeError::Truncated);
        }
        let version = bytes.get_u8();
        if version != TOKEN_VERSION {
            return Err(DecodeError::UnknownTag { what: "token", tag: version });
        }
        let (epoch, revision) = (bytes.get_u64(), Revision(bytes.get_u64()));
        let mut reader = Reader::new(bytes);
        let seen = Seen::read(&mut reader)?;
        reader.finish()?;
        Ok(Self { epoch, revision, seen, has_revisions: false })
    }

    /// The token: version, epoch and revision big endian, then the stamps.
    fn to_text(&self) -> String {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(TOKEN_VERSION);
        out.put_u64(self.epoch);
        out.put_u64(self.revision.0);
        self.seen.encode(&mut out);
        text64::encode(&out)
    }

    fn value(&self) -> HeaderValue {
        HeaderValue::try_from(self.to_text()).expect("base64url is visible ASCII")
    }

    /// Tells the client what it has seen now, also if its request was refused: that there is no such key is something seen, too.
    pub(super) fn told<B>(
        session: Option<Self>,
        answer: Result<http::Response<B>, Refusal>,
    ) -> Result<http::Response<B>, Refusal> {
        let Some(session) = session else { return answer };
        match answer {
            Ok(mut answer) => {
                answer.headers_mut().insert(SESSION, session.value());
                Ok(answer)
            }
            Err(refusal) => Err(refusal.with_header(SESSION, session.value())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_node::eventual_replication::{Hlc, InstanceId, Version};

    use super::*;

    proptest! {
        #[test]
        fn tokens_round_trip(epoch: u64, revision: u64, stamps in proptest::collection::vec((any::<u64>(), 1..9_u32), 0..9)) {
            let mut seen = Seen::default();
            stamps.iter().for_each(|(hlc, id)| seen.note(Version { hlc: Hlc(*hlc), instance: InstanceId(*id) }));
            let session = Session { epoch, revision: Revision(revision), seen, has_revisions: false };
            let text = session.to_text();
            let back = Session::parse(text.as_bytes()).unwrap();
            prop_assert_eq!((back.epoch, back.revision, back.seen), (epoch, Revision(revision), session.seen));
            prop_assert!(Session::parse(&text.as_bytes()[..text.len() - 2]).is_err());
        }

        #[test]
        fn other_text_is_no_token(text: Vec<u8>) {
            prop_assert!(Session::parse(&text).is_err());
        }
    }
}
