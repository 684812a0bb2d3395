//! Clients of eventual keyspaces that go from node to node in a session, on real processes.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use quorate_proxy::Link;

use crate::support::{Cluster, Linked, program, until};

fn call(endpoints: &str, keyspace: &str, session: Option<&Path>, arguments: &[&str]) -> Output {
    let mut command = program();
    command.args(["--endpoint", endpoints, "-k", keyspace]).args(arguments);
    session.iter().for_each(|file| _ = command.arg("--session").arg(file));
    command.output().expect("the program can be called")
}

fn text(output: &Output) -> (Option<i32>, String) {
    let told = if output.status.success() { &output.stdout } else { &output.stderr };
    (output.status.code(), String::from_utf8_lossy(told).trim().to_owned())
}

/// Nothing travels by itself here: only a session brings it.
#[test]
fn what_a_client_wrote_it_finds_at_every_node() {
    let cluster = Cluster::ready(3);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (file, other) = (folder.path().join("session"), folder.path().join("other"));
    for (keyspace, engine, mode) in [("notes", "trie", "manual"), ("copies", "hash", "schedule")] {
        let trigger = format!("trigger={mode}");
        let options = ["--mode", "full-copy", "--mode-option", &trigger, "--mode-option", "sync_interval=1h"];
        let every: &[&str] = if mode == "schedule" { &["--mode-option", "every=1h"] } else { &[] };
        let create = [&["keyspace", "create", keyspace, "--engine", engine], &options[..], every].concat();
        cluster.must_call("n1", &create);
        cluster.until_keyspace(keyspace);
        let at = |name: &str| format!("http://{}", cluster.node(name).client_address);
        let run = |name: &str, session, arguments: &[&str]| text(&call(&at(name), keyspace, session, arguments));
        assert_eq!(run("n1", Some(&file), &["put", "a", "1"]).0, Some(0));
        assert_eq!(run("n2", None, &["get", "a"]).0, Some(3), "nothing brought it there");
        assert_eq!(run("n2", Some(&file), &["get", "a"]), (Some(0), "1".to_owned()));
        // Another client sees it at this node now, and from then on everywhere.
        assert_eq!(run("n2", Some(&other), &["get", "a"]), (Some(0), "1".to_owned()));
        assert_eq!(run("n3", Some(&other), &["get", "a"]), (Some(0), "1".to_owned()));
        // A list, and a delete that a list and a read see.
        assert_eq!(run("n3", Some(&file), &["put", "b", "2"]).0, Some(0));
        assert!(run("n2", Some(&file), &["ls"]).1.contains('b'));
        assert_eq!(run("n3", Some(&file), &["del", "a"]).0, Some(0));
        assert_eq!(run("n1", None, &["get", "a"]).0, Some(0), "who is in no session is told what is there");
        assert_eq!(run("n1", Some(&file), &["get", "a"]).0, Some(3));
        let (code, listed) = run("n2", Some(&file), &["ls"]);
        assert!(code == Some(0) && !listed.contains('a'), "{listed}");
    }
    let (code, told) = text(&call("http://127.0.0.1:1", "notes", Some(folder.path()), &["get", "a"]));
    assert!(code == Some(1) && told.contains("cannot read the session"), "{code:?}: {told}");
    std::fs::write(&other, "what?").expect("it can be written");
    let (code, told) = text(&call("http://127.0.0.1:1", "notes", Some(&other), &["get", "a"]));
    assert!(code == Some(2) && told.contains("remove it to begin a new one"), "{code:?}: {told}");
}

/// A watch took no session along, and told what the node happened to have.
#[test]
fn a_watch_in_a_session_begins_with_what_the_session_has_seen() {
    let cluster = Cluster::ready(2);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("session");
    cluster.must_call("n1", &["keyspace", "create", "notes", "--mode", "full-copy", "--mode-option", "trigger=manual"]);
    cluster.until_read_everywhere("notes");
    let at = |name: &str| format!("http://{}", cluster.node(name).client_address);
    assert_eq!(text(&call(&at("n1"), "notes", Some(&file), &["put", "seen", "1"])).0, Some(0));
    for (session, sees_it) in [(None, false), (Some(&file), true)] {
        let mut watch = program();
        watch.args(["--endpoint", &at("n2"), "-k", "notes", "watch", "--initial", "--count", "1", "-o", "json"]);
        session.iter().for_each(|file| _ = watch.arg("--session").arg(file));
        let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program can be called");
        until("the watch was told of a change", Duration::from_secs(20), || {
            assert_eq!(text(&call(&at("n2"), "notes", None, &["put", "other", "2"])).0, Some(0));
            watch.try_wait().expect("it can be asked").ok_or_else(|| "it goes on".to_owned()).map(drop)
        });
        let told = watch.wait_with_output().expect("it has ended");
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains(r#""key":"other""#) && told.contains(r#""key":"seen""#) == sees_it, "{told}");
    }
}

#[test]
fn a_node_that_cannot_know_says_so_and_the_next_is_asked() {
    let linked = Linked::ready();
    let cluster = &linked.cluster;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("session");
    cluster.must_call("n1", &["keyspace", "create", "carts", "--mode", "push"]);
    cluster.until_read_everywhere("carts");
    let at = |name: &str| format!("http://{}", cluster.node(name).client_address);
    linked.set(1, Link::Cut);
    assert_eq!(text(&call(&at("n1"), "carts", Some(&file), &["put", "anna", "milk"])).0, Some(0));
    let (code, told) = text(&call(&at("n2"), "carts", Some(&file), &["get", "anna"]));
    assert!(code == Some(1) && told.contains("Not here yet"), "{code:?}: {told}");
    // Given both, the client goes on to the one who has it.
    let both = format!("{},{}", at("n2"), at("n1"));
    assert_eq!(text(&call(&both, "carts", Some(&file), &["get", "anna"])), (Some(0), "milk".to_owned()));
    // A write on the other side stands over what was seen, by whichever clock.
    assert_eq!(text(&call(&at("n3"), "carts", Some(&file), &["put", "anna", "bread"])).0, Some(0));
    linked.heal();
    until("all have it", Duration::from_secs(20), || {
        let found: Vec<_> = ["n1", "n2", "n3"].map(|name| text(&call(&at(name), "carts", Some(&file), &["get", "anna"]))).into();
        if found.iter().all(|found| *found == (Some(0), "bread".to_owned())) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}
