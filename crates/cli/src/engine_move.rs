//! Waiting for a keyspace's move to another engine, with a bar for whoever watches.

use std::time::Duration;

use quorate_api::keyspace::{JobBody, JobState, MoveBody, MoveState, ReplicaMove};
use quorate_client::Client;

use crate::exit::Failure;
use crate::progress::Progress;

/// Between two looks at the job.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Returns once all replicas have moved. The move goes on whether anybody waits for it or not.
pub(crate) async fn wait(client: &Client, keyspace: &str, running: &MoveBody) -> Result<(), Failure> {
    let progress = Progress::of_steps(running.replicas, "replicas");
    loop {
        let job = client.job(running.job).await.map_err(|error| {
            let doing = format!("follow job {}, by which keyspace {keyspace} moves and goes on moving", running.job);
            Failure::of_request(doing, &error)
        })?;
        let done = job.replicas.iter().filter(|replica| replica.state == MoveState::Done).count();
        progress.set_count(done as u64, &format!(": {}", shown_replicas(&job)));
        if job.state == JobState::Done {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn shown_replicas(job: &JobBody) -> String {
    let shown = |replica: &ReplicaMove| {
        let phase = replica.phase.as_deref();
        let state = match (replica.state, phase) {
            (MoveState::Waiting, _) => "waiting".to_owned(),
            (MoveState::Moving, Some("building")) => format!("building {:.0} %", 100.0 * replica.copied.unwrap_or(0.0)),
            (MoveState::Moving, phase) => phase.unwrap_or("moving").to_owned(),
            (MoveState::Done, _) => "done".to_owned(),
        };
        match (&replica.last_error, phase) {
            (None, _) => format!("{} {state}", replica.node),
            (Some(error), Some("pausing")) => format!("{} {state} after: {error}", replica.node),
            (Some(error), _) => format!("{} {state} again after: {error}", replica.node),
        }
    };
    job.replicas.iter().map(shown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_shown_with_how_far_they_are() {
        let replica = |node: &str, state, phase: Option<&str>, copied, last_error: Option<&str>| ReplicaMove {
            node: node.to_owned(),
            state,
            phase: phase.map(str::to_owned),
            copied,
            last_error: last_error.map(str::to_owned),
        };
        let engine = || quorate_api::keyspace::EngineBody { kind: "lsm".to_owned(), ..Default::default() };
        let job = JobBody {
            id: 1,
            kind: "move".to_owned(),
            keyspace: "orders".to_owned(),
            state: JobState::Running,
            progress: 0.5,
            from: engine(),
            to: engine(),
            started_at: None,
            replicas: vec![
                replica("n1", MoveState::Done, None, None, None),
                replica("n2", MoveState::Moving, Some("building"), Some(0.504), Some("no room")),
                replica("n3", MoveState::Moving, Some("pausing"), Some(0.0), Some("no room")),
                replica("n4", MoveState::Moving, None, None, None),
                replica("n5", MoveState::Waiting, None, None, None),
            ],
        };
        let shown = "n1 done, n2 building 50 % again after: no room, n3 pausing after: no room, n4 moving, n5 waiting";
        assert_eq!(shown_replicas(&job), shown);
    }
}
