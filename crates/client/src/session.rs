//! Sessions: a client that goes from node to node sees nothing older than it has seen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, HeaderValue};
use quorate_api::header;
use quorate_api::session::{MAX_TOKENS, NEW};

use crate::error::Error;

/// Where keys are, and where they are watched; what else there is knows no sessions.
const PATHS: [&str; 2] = ["/v1/kv/", "/v1/watch/"];

/// What was seen through a client, so that no node shows less of it, and no write is stamped below it: see
/// [`crate::Client::in_session`]. Clones are the same session.
///
/// At most 64 requests of a session go beside each other in one keyspace; the next one is [`Error::InvalidRequest`].
#[derive(Clone, Debug, Default)]
pub struct Session {
    keyspaces: Arc<Mutex<BTreeMap<String, Tokens>>>,
}

/// What was seen of a keyspace.
#[derive(Debug, Default)]
struct Tokens {
    /// They say all of it together.
    told: Vec<String>,
    /// Requests under way: each may add one.
    under_way: usize,
}

/// A request's part of a session: under way until the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct InSession(Arc<Part>);

#[derive(Debug)]
struct Part {
    session: Session,
    keyspace: String,
    /// What went with it: the answer says that, too.
    sent: Vec<String>,
}

impl Session {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that goes on from what [`Session::tokens`] said, perhaps in another process.
    pub fn resume(tokens: BTreeMap<String, Vec<String>>) -> Self {
        let of = |(keyspace, told)| (keyspace, Tokens { told, under_way: 0 });
        Self { keyspaces: Arc::new(Mutex::new(tokens.into_iter().map(of).collect())) }
    }

    /// What has been seen, by keyspace; opaque.
    pub fn tokens(&self) -> BTreeMap<String, Vec<String>> {
        let told = self.lock().iter().map(|(keyspace, tokens)| (keyspace.clone(), tokens.told.clone())).collect::<Vec<_>>();
        told.into_iter().filter(|(_, told)| !told.is_empty()).collect()
    }

    /// A request to this path, if it is about keys: what goes with it, as the header's value.
    pub(crate) fn begin(&self, target: &str) -> Result<Option<(InSession, HeaderValue)>, Error> {
        let Some(rest) = PATHS.iter().find_map(|path| target.strip_prefix(path)) else { return Ok(None) };
        let keyspace = rest.split(['/', '?']).next().unwrap_or_default().to_owned();
        let mut keyspaces = self.lock();
        let tokens = keyspaces.entry(keyspace.clone()).or_default();
        // One alone takes all that there are along, and leaves one.
        if tokens.under_way > 0 && tokens.under_way + tokens.told.len() >= MAX_TOKENS {
            return Err(Error::InvalidRequest {
                reason: format!("{MAX_TOKENS} requests of a session go beside each other at most"),
            });
        }
        let sent = tokens.told.clone();
        let text = if sent.is_empty() { NEW.to_owned() } else { sent.join(",") };
        let value = HeaderValue::try_from(text).map_err(|error| Error::InvalidRequest { reason: format!("session: {error}") })?;
        tokens.under_way += 1;
        drop(keyspaces);
        Ok(Some((InSession(Arc::new(Part { session: self.clone(), keyspace, sent })), value)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Tokens>> {
        self.keyspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InSession {
    /// An answer is there, also one that refuses: that a key is not there has been seen, too.
    pub(crate) fn note(&self, headers: &HeaderMap) {
        let Some(told) = headers.get(header::SESSION).and_then(|value| value.to_str().ok()) else { return };
        let Part { session, keyspace, sent } = &*self.0;
        let mut keyspaces = session.lock();
        let tokens = &mut keyspaces.entry(keyspace.clone()).or_default().told;
        tokens.retain(|token| !sent.contains(token));
        if !tokens.iter().any(|token| token == told) {
            tokens.push(told.to_owned());
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(tokens) = self.session.lock().get_mut(&self.keyspace) {
            tokens.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(token: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(header::SESSION), HeaderValue::from_static(token))])
    }

    #[test]
    fn answers_follow_what_was_sent_and_stand_beside_what_was_not() {
        let session = Session::new();
        let begin = || session.begin("/v1/kv/carts/anna?timeout=1s").unwrap().unwrap();
        let (first, new) = begin();
        let (second, _) = begin();
        assert_eq!(new, "new");
        first.note(&answer("a"));
        let (third, sent) = begin();
        assert_eq!(sent, "a");
        second.note(&answer("b"));
        assert_eq!(begin().1, "a,b", "they went beside each other");
        third.note(&answer("c"));
        assert_eq!(begin().1, "b,c");
        begin().0.note(&answer("d"));
        assert_eq!(session.tokens(), BTreeMap::from([("carts".to_owned(), vec!["d".to_owned()])]));
        assert_eq!(Session::resume(session.tokens()).begin("/v1/kv/carts").unwrap().unwrap().1, "d");
        assert_eq!(session.begin("/v1/kv/other/anna").unwrap().unwrap().1, "new");
        assert_eq!(session.begin("/v1/watch/carts?timeout=1s").unwrap().unwrap().1, "d");
        assert!(session.begin("/v1/keyspaces/carts").unwrap().is_none());
    }

    #[test]
    fn as_many_as_can_be_taken_along_go_beside_each_other() {
        let session = Session::new();
        let begin = || session.begin("/v1/kv/many/k");
        let under_way: Vec<_> = (0..MAX_TOKENS).map(|_| begin().unwrap().unwrap().0).collect();
        assert!(begin().is_err());
        for (number, request) in under_way.iter().enumerate() {
            let value = HeaderValue::try_from(number.to_string()).unwrap();
            request.note(&HeaderMap::from_iter([(http::HeaderName::from_static(header::SESSION), value)]));
        }
        assert!(begin().is_err(), "they are still there");
        drop(under_way);
        let (alone, all) = begin().unwrap().unwrap();
        assert_eq!(all.to_str().unwrap().split(',').count(), MAX_TOKENS);
        alone.note(&answer("joined"));
        drop(alone);
        assert_eq!(begin().unwrap().unwrap().1, "joined");
    }
}
