//! Keyspaces: made, altered, deleted, shown; the engines that there are; jobs.

use http::{Method, StatusCode};
use quorate_api::cluster::Items;
use quorate_api::keyspace::{EngineInfo, JobBody, KeyspaceBody, KeyspaceStats, SettingsBody};
use quorate_api::problem::WriteOutcome;
use quorate_api::replication::{ModeInfo, SyncBody};
use serde_json::{Map, Value};

use crate::call::Client;
use crate::error::Error;
use crate::key_path::one_segment;
use crate::transport::Request;

/// What a flush has done to the store behind the answering node's replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushOptions {
    /// Everything is written again: it may have lost what it had.
    pub rewrite: bool,
    /// Whatever is in the node's part of it, and not in the replica, is removed.
    pub prune: bool,
}

impl Client {
    /// Every keyspace, by name.
    pub async fn keyspaces(&self) -> Result<Vec<KeyspaceBody>, Error> {
        self.items("/v1/keyspaces").await
    }

    /// One keyspace. One that is not there is [`Error::Refused`] with the code `keyspace_not_found`.
    pub async fn keyspace(&self, name: &str) -> Result<KeyspaceBody, Error> {
        self.call(Request::read(path_of(name))).await?.json(WriteOutcome::NotApplied)
    }

    /// Makes a keyspace, and answers once it can be written to. Whether it is new: one that is there with the same settings is
    /// no error; with others, that is [`Error::Refused`] with the code `conflict`.
    pub async fn create_keyspace(&self, name: &str, settings: &SettingsBody) -> Result<(bool, KeyspaceBody), Error> {
        let answer = self.call(Request::write(Method::PUT, path_of(name)).with_json(settings)).await?;
        Ok((answer.status == StatusCode::CREATED, answer.json(WriteOutcome::Applied)?))
    }

    /// Changes the settings that the merge patch (RFC 7396) names. A move to another engine begins, and is not waited for:
    /// [`KeyspaceBody::running_move`] names its job.
    pub async fn alter_keyspace(&self, name: &str, patch: &Map<String, Value>) -> Result<KeyspaceBody, Error> {
        self.call(Request::write(Method::PATCH, path_of(name)).with_json(patch)).await?.json(WriteOutcome::Applied)
    }

    /// Deletes a keyspace with all its pairs.
    pub async fn delete_keyspace(&self, name: &str) -> Result<(), Error> {
        self.call(Request::write(Method::DELETE, path_of(name))).await.map(drop)
    }

    /// What the answering node has of a keyspace.
    pub async fn keyspace_stats(&self, name: &str) -> Result<KeyspaceStats, Error> {
        self.call(Request::read(format!("{}/stats", path_of(name)))).await?.json(WriteOutcome::NotApplied)
    }

    /// Sends the other nodes what the answering one has collected of an eventual keyspace, or copies what it has to them; how
    /// many that reached within the time limit. Of other keyspaces that is [`Error::Refused`].
    pub async fn flush_keyspace(&self, name: &str) -> Result<SyncBody, Error> {
        self.call(Request::write(Method::POST, format!("{}/flush", path_of(name)))).await?.json(WriteOutcome::Applied)
    }

    /// The same, after what is said was done to the store behind the answering node's replica. [`Error::Refused`] where there is
    /// none, and of `prune` where it cannot be listed.
    pub async fn flush_keyspace_with(&self, name: &str, options: FlushOptions) -> Result<SyncBody, Error> {
        let FlushOptions { rewrite, prune } = options;
        self.call(Request::write(Method::POST, format!("{}/flush?rewrite={rewrite}&prune={prune}", path_of(name))))
            .await?
            .json(WriteOutcome::Applied)
    }

    /// Compares what the answering node has of an eventual keyspace with all others, both ways; how many that reached within the
    /// time limit. Of other keyspaces that is [`Error::Refused`].
    pub async fn sync_keyspace(&self, name: &str) -> Result<SyncBody, Error> {
        self.call(Request::write(Method::POST, format!("{}/sync", path_of(name)))).await?.json(WriteOutcome::Applied)
    }

    /// The replication modes that there are.
    pub async fn replication_modes(&self) -> Result<Vec<ModeInfo>, Error> {
        self.items("/v1/replication-modes").await
    }

    /// The engines that there are.
    pub async fn engines(&self) -> Result<Vec<EngineInfo>, Error> {
        self.items("/v1/engines").await
    }

    /// The jobs that go on, and the last one of each keyspace.
    pub async fn jobs(&self) -> Result<Vec<JobBody>, Error> {
        self.items("/v1/jobs").await
    }

    /// One job. One that is not there any more is [`Error::Refused`] with the code `job_not_found`.
    pub async fn job(&self, id: u64) -> Result<JobBody, Error> {
        self.call(Request::read(format!("/v1/jobs/{id}"))).await?.json(WriteOutcome::NotApplied)
    }

    async fn items<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Error> {
        let answer = self.call(Request::read(path.to_owned())).await?;
        Ok(answer.json::<Items<T>>(WriteOutcome::NotApplied)?.items)
    }
}

fn path_of(name: &str) -> String {
    format!("/v1/keyspaces/{}", one_segment(name))
}
