//! Backups, as the bytes of a file.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use quorate_api::duration;
use quorate_api::problem::WriteOutcome;
use tokio::time::timeout;

use crate::call::Client;
use crate::error::Error;
use crate::key_path::one_segment;
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
    pub async fn backup(&self, keyspaces: &[String]) -> Result<BackupStream, Error> {
        let named: Vec<String> = keyspaces.iter().map(|name| one_segment(name).to_string()).collect();
        let query = if named.is_empty() { String::new() } else { format!("?ks={}", named.join(",")) };
        let answer = self.open(Request::read(format!("/v1/snapshot{query}"))).await?;
        Ok(BackupStream { endpoint: answer.endpoint, body: answer.body })
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
