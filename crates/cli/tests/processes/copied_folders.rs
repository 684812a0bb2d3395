//! Data folders that were copied and put back: the other nodes refuse them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Cluster, NodeProcess, Request, pause, program, until};

const LIMIT: Duration = Duration::from_secs(20);

/// So long after a write everybody has heard that it is durable.
const SAID_MS: u64 = 1500;

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder can be read") {
        let path = entry.expect("a folder can be read").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).expect("a file can be copied");
        }
    }
}

fn stop(node: &mut NodeProcess) {
    node.signal(Signal::TERM);
    assert!(node.wait(LIMIT).success(), "{} stops in order", node.name);
}

/// The node is started with what `folder` holds, and ends by itself.
fn is_refused(cluster: &mut Cluster, folder: &Path, told: &str) -> PathBuf {
    let node = cluster.node_mut("n3");
    let own = node.data_dir.clone();
    fs::rename(&own, own.with_extension("kept")).expect("a folder can be renamed");
    copy(folder, &own);
    node.start(&[]);
    let ended = node.wait(LIMIT);
    assert_eq!(ended.code(), Some(1));
    let log = node.log_tail();
    assert!(log.contains(told) && log.contains("quorate cluster remove n3"), "{log}");
    own
}

#[test]
fn a_copy_of_a_folder_that_is_put_back_is_refused() {
    let mut cluster = Cluster::ready(3);
    cluster.must_call("n1", &["keyspace", "create", "cart", "--engine", "hash", "--mode", "push"]);
    cluster.must_call("n3", &["put", "-k", "cart", "key", "old"]);
    stop(cluster.node_mut("n3"));
    let older = cluster.folder().join("older");
    copy(&cluster.node("n3").data_dir, &older);

    cluster.restart("n3");
    cluster.until_ready();
    for round in 0..20 {
        cluster.must_call("n3", &["put", "-k", "cart", "other", &round.to_string()]);
    }
    cluster.must_call("n3", &["del", "-k", "cart", "key"]);
    pause(SAID_MS);
    stop(cluster.node_mut("n3"));

    // Of a node that was stopped: its next start is one that the others have seen of another process.
    let own = is_refused(&mut cluster, &older, "another process has been seen as incarnation 2 of node");
    // Noted in the folder, whether anybody is there or not.
    cluster.node_mut("n3").start(&[]);
    assert_eq!(cluster.node_mut("n3").wait(LIMIT).code(), Some(1));
    fs::remove_dir_all(&own).expect("a folder can be removed");
    fs::rename(own.with_extension("kept"), &own).expect("a folder can be renamed");

    // Of a node that ran, as a disk's snapshot is: it knows of all starts, but not of what came after.
    fs::copy(own.join("node.json"), older.join("node.json")).expect("a file can be copied");
    is_refused(&mut cluster, &older, " ends at batch");

    let readmit = || program().arg("readmit").arg(&own).output().expect("the program can be called");
    let readmitted = readmit();
    assert!(readmitted.status.success(), "{readmitted:?}");
    assert_eq!(String::from_utf8_lossy(&readmitted.stdout), "the other nodes will let n3 in at its next start\n");
    let again = readmit();
    let line = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.code() == Some(1) && line.contains("nothing to take back"), "{line}");
    cluster.restart("n3");
    cluster.until_ready();
    let mut connection = cluster.connection("n3");
    until("what the others have", LIMIT, || match connection.send(&Request::new("GET", "/v1/kv/cart/other")) {
        Ok(answer) if answer.body == b"19" => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    stop(cluster.node_mut("n3"));
    cluster.restart("n3");
    cluster.until_ready();
}

/// Two processes with one identity: the one that the others knew first stays.
#[test]
fn a_copy_beside_the_node_is_refused() {
    let mut cluster = Cluster::ready(3);
    stop(cluster.node_mut("n3"));
    let elsewhere = tempfile::tempdir().expect("a temporary folder can be made");
    let mut twin = NodeProcess::new("n3", elsewhere.path());
    copy(&cluster.node("n3").data_dir, &twin.data_dir);
    cluster.restart("n3");
    cluster.until_ready();
    twin.start(&[]);
    assert_eq!(twin.wait(LIMIT).code(), Some(1));
    assert!(twin.log_tail().contains("another process has been seen as incarnation 2 of node"), "{}", twin.log_tail());
    cluster.must_call("n3", &["put", "key", "value"]);
}
