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
        let state = match replica.state {
            MoveState::Waiting => "waiting",
            MoveState::Moving => replica.phase.as_deref().unwrap_or("moving"),
            MoveState::Done => "done",
        };
        match &replica.last_error {
            None => format!("{} {state}", replica.node),
            Some(error) => format!("{} {state} again after: {error}", replica.node),
        }
    };
    job.replicas.iter().map(shown).collect::<Vec<_>>().join(", ")
}
