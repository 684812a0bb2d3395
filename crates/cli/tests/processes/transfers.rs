//! A keyspace's pairs out of one keyspace and into another, in lines of JSON.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Cluster, Request, program, tell, until};

const PAIRS: usize = 5000;

/// Any bytes, of any length that a page or a line may meet.
fn pair(number: usize) -> (Vec<u8>, Vec<u8>) {
    let key = match number % 3 {
        0 => format!("text/{number:06}").into_bytes(),
        1 => [b"\xff\x00/".as_slice(), &number.to_be_bytes()].concat(),
        _ => format!("quote \" \\ \n {number}").into_bytes(),
    };
    let value = (0..(number * 37) % 900).map(|index| (index * number) as u8).collect();
    (key, value)
}

/// What an export says of the pairs, without the revisions, which differ.
fn pairs_of(lines: &[u8]) -> Vec<Value> {
    let without_revisions = |line: &str| {
        let mut pair: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        let fields = pair.as_object_mut().expect("a line is an object");
        for field in ["create_revision", "mod_revision", "version"] {
            assert!(fields.remove(field).is_some(), "{field} in {line}");
        }
        pair
    };
    std::str::from_utf8(lines).expect("JSON is text").lines().map(without_revisions).collect()
}

#[test]
fn pairs_go_out_and_in_again_and_an_interrupted_import_goes_on() {
    let cluster = Cluster::ready(1);
    let mut connection = cluster.connection("n1");
    for number in 0..PAIRS {
        let (key, value) = pair(number);
        let put = Request::put(&key, value).with_header("content-type", format!("x/{}", number % 5));
        connection.expect(201, &put.with_header("quorate-meta-number", number.to_string()));
    }
    for keyspace in ["copy", "slow"] {
        connection.expect(201, &Request::json("PUT", &format!("/v1/keyspaces/{keyspace}"), r#"{"engine": {"type": "trie"}}"#));
    }
    let exported = cluster.must_call("n1", &["export"]);
    let pairs = pairs_of(&exported);
    assert_eq!(pairs.len(), PAIRS);

    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("out.ndjson");
    let file = path.to_str().expect("its name is text");
    cluster.must_call("n1", &["export", file]);
    assert!(std::fs::read(&path).expect("the export is there") == exported, "to a file as to a pipe");
    cluster.must_call("n1", &["import", file, "-k", "copy"]);
    assert!(pairs_of(&cluster.must_call("n1", &["export", "-k", "copy"])) == pairs, "the copy is the same");
    let some = pairs_of(&cluster.must_call("n1", &["export", "-k", "copy", "--prefix", "text/00"]));
    assert_eq!(some.len(), PAIRS.div_ceil(3));

    let in_already = interrupt_an_import(&cluster, file);
    tell(format_args!("interrupted after {in_already} of {PAIRS} lines"));
    assert!(in_already < PAIRS, "it was interrupted before its end");
    cluster.must_call("n1", &["import", file, "-k", "slow", "--skip", &in_already.to_string()]);
    assert!(pairs_of(&cluster.must_call("n1", &["export", "-k", "slow"])) == pairs, "the rest came in");
}

/// Interrupts an import once some of it is in; how many lines it says are.
fn interrupt_an_import(cluster: &Cluster, file: &str) -> usize {
    let endpoint = format!("http://{}", cluster.node("n1").client_address);
    let mut import: Command = program();
    import.args(["import", file, "-k", "slow", "--clients", "1", "-e", &endpoint]);
    let import = import.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be started");
    let mut connection = cluster.connection("n1");
    until("the first lines", Duration::from_secs(20), || {
        let list: Value = connection.expect(200, &Request::new("GET", "/v1/kv/slow?limit=10")).json();
        match list["items"].as_array().map(Vec::len) {
            Some(10) => Ok(()),
            count => Err(format!("{count:?}")),
        }
    });
    kill_process(Pid::from_child(&import), Signal::INT).expect("a child can be signalled");
    let output = import.wait_with_output().expect("a child can be waited for");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.starts_with("quorate: interrupted\n"), "{told}");
    let count = told.trim_end().rsplit_once("--skip ").and_then(|(_, count)| count.parse().ok());
    count.unwrap_or_else(|| panic!("no way on: {told}"))
}
