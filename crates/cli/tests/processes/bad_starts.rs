//! Starts that cannot work: one clear line, exit code 1, and nothing damaged.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Cluster, NodeProcess, Request, contents, tell, until};

/// How long a start may take to fail.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_port_in_use() {
    let folder = folder();
    for is_peer_port in [false, true] {
        let node = NodeProcess::new("n1", folder.path());
        let address = if is_peer_port { &node.peer_address } else { &node.client_address };
        let _taken = TcpListener::bind(address).expect("the port is free");
        let line = refused(node.command(), 1);
        assert!(line.contains(address.as_str()) && line.contains("in use"), "{line}");
        assert!(!node.data_dir.exists(), "nothing is made before it is needed");
    }
}

#[test]
fn a_folder_with_something_else_in_it() {
    let folder = folder();
    let node = NodeProcess::new("n1", folder.path());
    fs::create_dir_all(node.data_dir.join("photos")).expect("a folder can be made");
    fs::write(node.data_dir.join("photos/cat.jpg"), "meow").expect("a file can be written");
    let before = contents(folder.path());
    let line = refused(node.command(), 1);
    assert!(line.contains("is not empty and holds no Quorate node"), "{line}");
    assert!(contents(folder.path()) == before, "it was touched");
}

#[test]
fn a_file_for_a_folder() {
    let folder = folder();
    let node = NodeProcess::new("n1", folder.path());
    fs::write(&node.data_dir, "a file").expect("a file can be written");
    let before = contents(folder.path());
    let line = refused(node.command(), 1);
    assert!(line.contains(&*node.data_dir.to_string_lossy()), "{line}");
    assert!(contents(folder.path()) == before, "it was touched");
}

#[test]
fn a_folder_that_may_not_be_used() {
    if rustix::process::geteuid().is_root() {
        tell("skipped: root may use every folder");
        return;
    }
    let folder = folder();
    let node = NodeProcess::new("n1", folder.path());
    fs::create_dir(&node.data_dir).expect("a folder can be made");
    for mode in [0o000, 0o555] {
        fs::set_permissions(&node.data_dir, fs::Permissions::from_mode(mode)).expect("it is ours");
        let line = refused(node.command(), 1);
        assert!(line.contains("ermission denied"), "{line}");
    }
    fs::set_permissions(&node.data_dir, fs::Permissions::from_mode(0o755)).expect("it is ours");
    assert!(contents(&node.data_dir).is_empty(), "it was touched");
}

/// All of it with one folder that a node has used, and that must be as good as before in the end.
#[test]
fn a_used_folder_in_wrong_hands() {
    let mut cluster = Cluster::ready(1);
    cluster.connection("n1").expect(201, &Request::put(b"k", "v"));
    let data_dir = cluster.node("n1").data_dir.clone();

    let elsewhere = folder();
    let mut second = NodeProcess::new("n1", elsewhere.path());
    second.data_dir.clone_from(&data_dir);
    let line = refused(second.command(), 1);
    assert!(line.contains("in use by another process"), "{line}");
    cluster.connection("n1").expect(200, &Request::get(b"k"));
    cluster.node_mut("n1").kill();

    let before = contents(&data_dir);
    let mut other = NodeProcess::new("n2", elsewhere.path());
    other.data_dir.clone_from(&data_dir);
    let line = refused(other.command(), 1);
    assert!(line.contains("belongs to node n1"), "{line}");
    assert!(contents(&data_dir) == before, "another node touched it");

    let identity = data_dir.join("node.json");
    let ours = fs::read_to_string(&identity).expect("a node has one");
    let newer = ours.replacen("\"format\": 1", "\"format\": 2", 1);
    assert_ne!(ours, newer);
    for (text, told) in [(newer.as_str(), "newer Quorate"), ("{", "node.json cannot be read"), ("{\"format\": 1}", "node.json")] {
        fs::write(&identity, text).expect("a file can be written");
        let before = contents(&data_dir);
        let line = refused(cluster.node("n1").command(), 1);
        assert!(line.contains(told), "{line}");
        assert!(contents(&data_dir) == before, "it was touched");
    }
    fs::write(&identity, ours).expect("a file can be written");

    cluster.restart("n1");
    cluster.until_ready();
    assert_eq!(cluster.connection("n1").expect(200, &Request::get(b"k")).body, b"v");
}

/// A bit that flipped in what was durable: the node does not go on as if nothing had been written.
#[test]
fn a_damaged_log() {
    let mut cluster = Cluster::ready(1);
    let mut connection = cluster.connection("n1");
    for number in 0..20 {
        connection.expect(201, &Request::put(format!("k{number}").as_bytes(), format!("needle in the log {number:02}")));
    }
    cluster.node_mut("n1").kill();
    let log = cluster.node("n1").data_dir.join("log");
    let (path, mut bytes, at) = contents(&log)
        .into_iter()
        .find_map(|(path, bytes)| {
            let bytes = bytes?;
            let needle = b"needle in the log 03";
            let at = bytes.windows(needle.len()).position(|window| window == needle)?;
            Some((path, bytes, at))
        })
        .expect("what was acknowledged is in the log");
    bytes[at] ^= 1;
    fs::write(&path, &bytes).expect("a file can be written");
    let before = contents(&log);
    let line = refused(cluster.node("n1").command(), 1);
    assert!(line.contains(&*cluster.node("n1").data_dir.to_string_lossy()), "{line}");
    assert!(contents(&log) == before, "it was touched");

    bytes[at] ^= 1;
    fs::write(&path, &bytes).expect("a file can be written");
    cluster.restart("n1");
    cluster.until_ready();
    assert_eq!(cluster.connection("n1").expect(200, &Request::get(b"k3")).text(), "needle in the log 03");
}

/// A node that lost its folder must not come back as an empty cluster of its own.
#[test]
fn an_empty_folder_beyond_loopback() {
    let folder = folder();
    let mut node = NodeProcess::new("n1", folder.path());
    let loopback = node.client_address.clone();
    node.client_address = loopback.replace("127.0.0.1", "0.0.0.0");
    let mut command = node.command();
    command.args(["--advertise", &loopback]);
    let line = refused(command, 1);
    assert!(line.contains("--join") && line.contains("--new-cluster"), "{line}");
}

#[test]
fn wrong_usage() {
    let folder = folder();
    let node = NodeProcess::new("n1", folder.path());
    for flags in [["--join", "nowhere"], ["--heartbeat-ms", "0"], ["--max-value-bytes", "1GiB"], ["--colour", "blue"]] {
        let mut command = node.command();
        command.args(flags);
        let output = command.stdin(Stdio::null()).output().expect("the program can be called");
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{flags:?}: {output:?}");
    }
    assert!(contents(folder.path()).is_empty(), "something was made");
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// Starts, and holds that it ends with this exit code and one line on stderr, which is returned.
#[track_caller]
fn refused(mut command: Command, exit_code: i32) -> String {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = KilledOnDrop(Some(child.expect("the program can be called")));
    until("the end of a start that cannot work", LIMIT, || match child.0.as_mut().map(std::process::Child::try_wait) {
        Some(Ok(Some(_))) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let output = child.0.take().expect("it was not taken yet").wait_with_output().expect("a child can be waited for");
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit_code), "{line}");
    assert!(line.starts_with("quorate: ") && line.ends_with('\n') && line.lines().count() == 1, "one line, not: {line}");
    assert_eq!(output.stdout, b"");
    line
}

struct KilledOnDrop(Option<std::process::Child>);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
