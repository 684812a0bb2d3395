//! A keyspace moves from engine to engine under load, and nodes are killed meanwhile.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Cluster, Load, Request, now, pause, since, tell, until};

/// How long a move may take, with a node that is killed and started again on its way.
const MOVE_LIMIT: Duration = Duration::from_mins(1);

const KEYSPACE: &str = "/v1/keyspaces/default";

/// Each engine is moved from and to.
const ENGINES: [&str; 4] = ["btree", "hash", "lsm", "trie"];

/// At which moment of a move a node is killed: a short one is over soon, so the first are early.
const KILLED_AFTER_MS: [u64; 4] = [0, 40, 120, 400];

fn get(cluster: &Cluster, name: &str, path: &str) -> Result<Value, String> {
    match cluster.connection(name).send(&Request::new("GET", path)) {
        Ok(answer) if answer.status == 200 => Ok(answer.json()),
        other => Err(format!("{other:?}")),
    }
}

/// Waits until the catalog and every node say that the move is over.
#[track_caller]
fn until_moved(cluster: &Cluster, engine: &str) {
    until(&format!("the move to {engine} is over"), MOVE_LIMIT, || {
        let job = get(cluster, "n1", "/v1/jobs")?["items"][0].clone();
        if job["state"] != json!("done") {
            return Err(job.to_string());
        }
        for name in cluster.running() {
            let stats = get(cluster, &name, &format!("{KEYSPACE}/stats"))?;
            if stats["engine"] != json!(engine) {
                return Err(stats.to_string());
            }
        }
        Ok(())
    });
}

#[test]
fn a_node_that_is_killed_while_it_moves_has_the_old_engine_or_the_new_whole() {
    let mut cluster = Cluster::ready(3);
    let load = Load::start(&cluster);
    for (round, engine) in ENGINES.iter().cycle().take(2 * ENGINES.len()).enumerate() {
        let settings = json!({"engine": {"type": engine}}).to_string();
        let asked = &cluster.running()[round % 3];
        let begun = now();
        cluster.connection(asked).expect(200, &Request::json("PATCH", KEYSPACE, settings));
        pause(KILLED_AFTER_MS[round % KILLED_AFTER_MS.len()]);
        let killed = cluster.running()[(round / 2) % 3].clone();
        cluster.node_mut(&killed).kill();
        cluster.restart(&killed);
        until_moved(&cluster, engine);
        tell(format_args!("moved to {engine} within {:?}, {killed} killed on the way", since(begun)));
    }
    cluster.until_ready();
    load.finish(&cluster);
}
