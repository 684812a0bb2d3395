//! What the store could not do, and what the client is told.

use quorate_api::problem::WriteOutcome;
use quorate_node::SettingsError;
use quorate_node::keyspace::Revision;
use quorate_server::rest::StoreError;

use crate::server::Server;

#[tokio::test]
async fn store_errors_tell_whether_a_write_happened() {
    let reached = StoreError::NotReached { wanted: Revision(9), reached: Revision(2) };
    let cases = [
        (StoreError::KeyspaceNotFound("x".to_owned()), 404, "keyspace_not_found", WriteOutcome::NotApplied),
        (StoreError::ReadOnly("x".to_owned()), 403, "keyspace_read_only", WriteOutcome::NotApplied),
        (StoreError::NodeNotFound("x".to_owned()), 404, "node_not_found", WriteOutcome::NotApplied),
        (StoreError::Conflict("x".to_owned()), 409, "conflict", WriteOutcome::NotApplied),
        (StoreError::Settings(SettingsError::Invalid("x".to_owned())), 422, "invalid_settings", WriteOutcome::NotApplied),
        (StoreError::Settings(SettingsError::Unsupported("x".to_owned())), 422, "unsupported_settings", WriteOutcome::NotApplied),
        (StoreError::NoLeader, 503, "no_leader", WriteOutcome::NotApplied),
        (StoreError::Unknown, 504, "outcome_unknown", WriteOutcome::Unknown),
        (reached, 503, "revision_not_reached", WriteOutcome::NotApplied),
        (StoreError::Overloaded, 503, "overloaded", WriteOutcome::NotApplied),
        (StoreError::Busy("n1 is leaving".to_owned()), 503, "busy", WriteOutcome::NotApplied),
        (StoreError::DiskFull, 507, "disk_full", WriteOutcome::NotApplied),
        (StoreError::TooLarge { max_bytes: 5 }, 413, "body_too_large", WriteOutcome::NotApplied),
        (StoreError::ShuttingDown, 503, "shutting_down", WriteOutcome::NotApplied),
        (StoreError::Internal("x".to_owned()), 500, "internal", WriteOutcome::Unknown),
    ];
    let server = Server::start().await;
    for (error, status, code, outcome) in cases {
        server.store.fail_with(error.clone());
        for (method, target) in [("PUT", "/v1/kv/default/k"), ("DELETE", "/v1/kv/default/k"), ("DELETE", "/v1/cluster/nodes/n1")]
        {
            let reply = server.send(method, target, &[], b"").await;
            assert_eq!(
                (reply.refusal(), reply.problem().outcome),
                ((status, code.to_owned()), Some(outcome)),
                "{method}: {error}"
            );
        }
        let read = server.get("/v1/kv/default/k").await;
        let code = if error == StoreError::Unknown { "timed_out" } else { code };
        assert_eq!((read.refusal(), read.problem().outcome), ((status, code.to_owned()), None), "GET: {error}");
        assert_eq!(server.get("/v1/kv/default").await.refusal(), (status, code.to_owned()), "list: {error}");
        let compat = server.get("/key/k").await;
        assert_eq!((compat.status, compat.json().as_object().unwrap().len()), (status, 1), "compat: {error}");
        assert!(compat.json()["message"].is_string(), "compat: {error}");
    }
}

#[tokio::test]
async fn the_leader_is_named_where_it_helps() {
    let server = Server::start().await;
    let cases = [
        (StoreError::Unknown, "/v1/kv/default/k", Some("n2")),
        (StoreError::NoLeader, "/v1/kv/default?key64=YQ", Some("n2")),
        (StoreError::NoLeader, "/v1/cluster/nodes/n1", Some("n3")),
        (StoreError::Overloaded, "/v1/kv/default/k", None),
    ];
    for (error, target, leader) in cases {
        server.store.fail_with(error.clone());
        assert_eq!(server.delete(target).await.problem().leader.as_deref(), leader, "{error} at {target}");
    }
}
