//! Backups and restores, as the bytes of a file.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use http_body_util::{BodyExt as _, Either};
use quorate_api::backup::{MEDIA_TYPE, RestoredKeyspace};
use quorate_api::cluster::Items;
use quorate_api::duration;
use quorate_api::problem::WriteOutcome;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::call::Client;
use crate::error::Error;
use crate::key_path::one_segment;
use crate::streams::Pieces;
use crate::transport::{Incoming, Request};

/// How long a node may say nothing while more is to come: it may wait for a leader between two keyspaces.
const PATIENCE: Duration = Duration::from_mins(2);

/// A backup on its way; [`quorate_api::backup::BackupReader`] says whether it is whole.
#[derive(Debug)]
pub struct BackupStream {
    endpoint: String,
    body: Incoming,
}

impl Client {
    /// Begins to read a backup of these keyspaces, or of all that can be backed up if none is named. Each is as of one revision,
    /// which is later than every write that was acknowledged before this was called. The node sends as fast as the pieces are
    /// taken; one that takes less than 64 KiB in a minute and a half is cut off.
    ///
    /// The client's time limit is for the beginning; then there is none.
    /// One keyspace can be read as it was at a `revision`, as far as its history goes.
    pub async fn backup(&self, keyspaces: &[String], revision: Option<u64>) -> Result<BackupStream, Error> {
        let named: Vec<String> = keyspaces.iter().map(|name| one_segment(name)).collect();
        let chosen = (!named.is_empty()).then(|| format!("ks={}", named.join(",")));
        let parameters: Vec<String> = chosen.into_iter().chain(revision.map(|at| format!("revision={at}"))).collect();
        let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
        let answer = self.open(Request::read(format!("/v1/snapshot{query}"))).await?;
        Ok(BackupStream { endpoint: answer.endpoint, body: answer.body })
    }
}

/// A restore that waits for the bytes of a backup.
#[derive(Debug)]
pub struct RestoreStream {
    pieces: mpsc::Sender<Bytes>,
    answered: JoinHandle<Result<Vec<RestoredKeyspace>, Error>>,
}

/// Pieces on their way to the node.
const MAX_WAITING_PIECES: usize = 4;

impl Client {
    /// Begins to restore a backup at the node that answered last: these keyspaces of it, or all if none is named. Its bytes go
    /// there with [`RestoreStream::send`], as fast as the node takes them; there is no time limit. Each keyspace is there for
    /// everybody once it is whole; one that is not filled to its end is not there. A keyspace that is there before, other than an
    /// empty `default`, is [`Error::Refused`] with the code `conflict`.
    pub fn restore(&self, keyspaces: &[String]) -> RestoreStream {
        let named: Vec<String> = keyspaces.iter().map(|name| one_segment(name)).collect();
        let query = if named.is_empty() { String::new() } else { format!("?ks={}", named.join(",")) };
        let mut request = Request::write(Method::PUT, format!("/v1/snapshot{query}"));
        request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let (sender, pieces) = mpsc::channel(MAX_WAITING_PIECES);
        let client = self.clone();
        let answered = tokio::spawn(async move {
            let answer = client.open_once(request, Either::Right(Pieces(pieces))).await?;
            let endpoint = answer.endpoint.clone();
            let unexpected =
                |reason: String| Error::Unexpected { endpoint: endpoint.clone(), reason, outcome: WriteOutcome::Applied };
            let body = answer.body.collect().await.map_err(&unexpected)?.to_bytes();
            let items: Items<RestoredKeyspace> = serde_json::from_slice(&body).map_err(|error| unexpected(error.to_string()))?;
            Ok(items.items)
        });
        RestoreStream { pieces: sender, answered }
    }
}

impl RestoreStream {
    /// Sends the next bytes; false if the node takes no more: then [`RestoreStream::finish`] says why.
    pub async fn send(&mut self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Says that these were all, and waits for what was restored.
    pub async fn finish(self) -> Result<Vec<RestoredKeyspace>, Error> {
        drop(self.pieces);
        match self.answered.await {
            Ok(answered) => answered,
            Err(error) => Err(Error::InvalidRequest { reason: error.to_string() }),
        }
    }
}

impl BackupStream {
    /// The next bytes; none at the end of the answer, which need not be that of the backup.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let broken =
            |reason: String| Error::NoAnswer { endpoint: self.endpoint.clone(), reason, outcome: WriteOutcome::NotApplied };
        loop {
            let frame = timeout(PATIENCE, self.body.frame()).await;
            match frame.map_err(|_| broken(format!("nothing more came within {}", duration::format(PATIENCE))))? {
                None => return Ok(None),
                Some(Err(reason)) => return Err(broken(reason)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}
