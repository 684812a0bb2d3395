//! Waiting for a keyspace's move to another engine, with a bar for whoever watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use quorate_api::keyspace::{JobBody, JobState, MoveState, ReplicaMove};
use quorate_client::Client;

use crate::exit::Failure;

/// Between two looks at the job.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Returns once all replicas have moved. The bar goes to stderr, and nowhere if that is no terminal. The move goes on whether
/// anybody waits for it or not.
pub(crate) async fn wait(client: &Client, keyspace: &str, job: u64) -> Result<(), Failure> {
    let bar = ProgressBar::new(0).with_style(style());
    let ended = follow(client, keyspace, job, &bar).await;
    bar.finish_and_clear();
    ended
}

async fn follow(client: &Client, keyspace: &str, job: u64, bar: &ProgressBar) -> Result<(), Failure> {
    loop {
        let found = client.job(job).await;
        let found = found.map_err(|error| {
            Failure::of_request(format!("follow job {job}, by which keyspace {keyspace} moves and goes on moving"), &error)
        })?;
        let done = found.replicas.iter().filter(|replica| replica.state == MoveState::Done).count();
        bar.set_length(found.replicas.len() as u64);
        bar.set_position(done as u64);
        bar.set_message(shown_replicas(&found));
        if found.state == JobState::Done {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A line such as `moving [====>    ] 1/3 replicas: n1 done, n2 building, n3 waiting`.
fn style() -> ProgressStyle {
    let style =
        ProgressStyle::with_template("moving [{bar:30}] {pos}/{len} replicas: {msg}").expect("the template is well-formed");
    style.progress_chars("=> ")
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
