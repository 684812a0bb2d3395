//! The operations on keyspaces, and on what they can be made of.

use quorate_api::cluster::Items;
use quorate_api::keyspace::{CompactBody, CompactedBody, EngineInfo, JobBody, KeyspaceBody, KeyspaceStats, SettingsBody};
use quorate_api::problem::Code::*;
use quorate_api::replication::{ModeInfo, SyncBody};
use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::document::of;
use super::operations::{BODY, Content, IN_KEYSPACE, JSON, MERGE_PATCH, OUTSIDE, Operation, QUERY, READ, SETTINGS, WRITE};
use super::parameters::{CATALOG, FLUSH, TIMEOUT};

pub(super) fn keyspaces() -> Vec<Operation> {
    let now = |name, summary| {
        let path = if name == "flush" { "/v1/keyspaces/{keyspace}/flush" } else { "/v1/keyspaces/{keyspace}/sync" };
        Operation::new("post", path, name, "keyspaces", summary)
            .takes(&["keyspace"])
            .takes(if name == "flush" { &FLUSH } else { &TIMEOUT })
            .answers(
                200,
                Content::Json(of::<SyncBody>),
                "How many nodes that reached until the time limit, and how many there are.",
            )
            .refuses(&[QUERY, READ, IN_KEYSPACE, OUTSIDE])
    };
    let one = |method, id, summary| {
        Operation::new(method, "/v1/keyspaces/{keyspace}", id, "keyspaces", summary).takes(&["keyspace"]).refuses(&[QUERY, BODY])
    };
    vec![
        Operation::new("get", "/v1/keyspaces", "list_keyspaces", "keyspaces", "Every keyspace")
            .takes(&CATALOG)
            .answers(200, Content::Json(of::<Items<KeyspaceBody>>), "By name.")
            .refuses(&[QUERY, BODY, READ]),
        one("get", "get_keyspace", "A keyspace")
            .takes(&CATALOG)
            .answers(200, Content::Json(of::<KeyspaceBody>), "Its settings, and what it can do.")
            .refuses(&[READ, IN_KEYSPACE]),
        one("put", "create_keyspace", "Makes a keyspace")
            .takes(&TIMEOUT)
            .sends(JSON, of::<SettingsBody>, false)
            .answers(200, Content::Json(of::<KeyspaceBody>), "It was there already, with the same settings.")
            .answers(201, Content::Json(of::<KeyspaceBody>), "It is there, and can be used through this node.")
            .refuses(&[WRITE, SETTINGS, OUTSIDE]),
        one("patch", "alter_keyspace", "Gives a keyspace other settings, by merge patch (RFC 7396)")
            .takes(&TIMEOUT)
            .sends(MERGE_PATCH, patch, true)
            .answers(200, Content::Json(of::<KeyspaceBody>), "The settings hold; a move to another engine has begun.")
            .refuses(&[WRITE, SETTINGS, OUTSIDE, &[KeyspaceNotFound]]),
        one("delete", "delete_keyspace", "Deletes a keyspace with all its pairs")
            .takes(&TIMEOUT)
            .answers(204, Content::None, "It is gone.")
            .refuses(&[WRITE, IN_KEYSPACE, &[KeyspaceReadOnly, Conflict, Busy]]),
        Operation::new(
            "get",
            "/v1/keyspaces/{keyspace}/stats",
            "keyspace_stats",
            "keyspaces",
            "What this node has of a keyspace",
        )
        .takes(&["keyspace"])
        .takes(&TIMEOUT)
        .answers(200, Content::Json(of::<KeyspaceStats>), "Its figures.")
        .refuses(&[QUERY, BODY, READ, IN_KEYSPACE]),
        Operation::new(
            "post",
            "/v1/keyspaces/{keyspace}/compact",
            "compact",
            "keyspaces",
            "Makes a revision the oldest that can be read",
        )
        .takes(&["keyspace"])
        .takes(&TIMEOUT)
        .sends(JSON, of::<CompactBody>, true)
        .answers(200, Content::Json(of::<CompactedBody>), "What can be read now.")
        .refuses(&[QUERY, BODY, WRITE, IN_KEYSPACE])
        .refuses(&[&[KeyspaceReadOnly, BadBody, UnsupportedMediaType, UnsupportedCapability, FutureRevision, Compacted]]),
        now("flush", "Sends the other nodes what an eventual keyspace has collected at this one, or copies what it has to them"),
        now("sync", "Compares what this node has of an eventual keyspace with all others, both ways"),
    ]
}

pub(super) fn jobs_engines_and_modes() -> Vec<Operation> {
    vec![
        Operation::new(
            "get",
            "/v1/replication-modes",
            "list_replication_modes",
            "keyspaces",
            "How the replicas of a keyspace can agree, and what can be set for that",
        )
        .answers(200, Content::Json(of::<Items<ModeInfo>>), "The modes.")
        .refuses(&[&[UnknownParameter]]),
        Operation::new(
            "get",
            "/v1/engines",
            "list_engines",
            "keyspaces",
            "The engines, with what they can do and how they are set",
        )
        .answers(200, Content::Json(of::<Items<EngineInfo>>), "The default engine is marked.")
        .refuses(&[QUERY, BODY]),
        Operation::new("get", "/v1/jobs", "list_jobs", "jobs", "The jobs that go on, and the last one of each keyspace")
            .takes(&CATALOG)
            .answers(200, Content::Json(of::<Items<JobBody>>), "By number.")
            .refuses(&[QUERY, BODY, READ]),
        Operation::new("get", "/v1/jobs/{id}", "get_job", "jobs", "A job")
            .takes(&["job"])
            .takes(&CATALOG)
            .answers(200, Content::Json(of::<JobBody>), "How far it is.")
            .refuses(&[QUERY, BODY, READ, &[JobNotFound]]),
    ]
}

/// Fields that are named are changed, fields that are null are taken away, the others stay as they are.
fn patch(generator: &mut SchemaGenerator) -> Value {
    of::<SettingsBody>(generator);
    let mut patch = generator.definitions()["SettingsBody"].clone();
    patch["description"] = json!("What is named is changed, what is null is taken away, the rest stays as it is.");
    patch["properties"]["replication"] =
        json!({"type": "object", "description": "Options of its mode are changed; the mode itself stays."});
    patch["properties"]["engine"] = json!({"type": "object", "description": "Another `type` begins a move to that engine."});
    patch
}
