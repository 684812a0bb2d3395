//! A keyspace's pairs out of one keyspace and into another, in lines of JSON.

use std::io::{Read as _, Write as _};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Cluster, Request, program, until};

const PAIRS: usize = 5000;

/// Any bytes, of any length that a piece or a line may meet.
fn pair(number: usize) -> (Vec<u8>, Vec<u8>) {
    let key = match number % 3 {
        0 => format!("text/{number:06}").into_bytes(),
        1 => [b"\xff\x00/".as_slice(), &number.to_be_bytes()].concat(),
        _ => format!("quote \" \\ \n {number}").into_bytes(),
    };
    let value = (0..(number * 37) % 900).map(|index| (index * number) as u8).collect();
    (key, value)
}

/// The lines of these pairs that `import` reads.
fn lines(numbers: std::ops::Range<usize>) -> Vec<u8> {
    let line = |number: usize| json!({ "key": format!("k{number:06}"), "value": number.to_string() }).to_string() + "\n";
    numbers.map(line).collect::<String>().into_bytes()
}

fn make_keyspaces(cluster: &Cluster, names: &[&str]) {
    let mut connection = cluster.connection("n1");
    for name in names {
        connection.expect(201, &Request::json("PUT", &format!("/v1/keyspaces/{name}"), r#"{"engine": {"type": "trie"}}"#));
    }
}

#[test]
fn pairs_go_out_and_in_again_byte_for_byte() {
    let cluster = Cluster::ready(1);
    let mut connection = cluster.connection("n1");
    for number in 0..PAIRS {
        let (key, value) = pair(number);
        let put = Request::put(&key, value).with_header("content-type", format!("x/{}", number % 5));
        connection.expect(201, &put.with_header("quorate-meta-number", number.to_string()));
    }
    make_keyspaces(&cluster, &["copy"]);
    let exported = cluster.must_call("n1", &["export"]);
    assert_eq!(exported.split(|byte| *byte == b'\n').count(), PAIRS + 1);

    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("out.ndjson");
    let file = path.to_str().expect("its name is text");
    cluster.must_call("n1", &["export", file]);
    assert!(std::fs::read(&path).expect("the export is there") == exported, "to a file as to a pipe");
    for _ in 0..2 {
        cluster.must_call("n1", &["import", file, "-k", "copy"]);
        assert!(cluster.must_call("n1", &["export", "-k", "copy"]) == exported, "the copy is the same, once more too");
    }
    let (key, value) = pair(PAIRS - 1);
    let answer = connection.expect(200, &Request::on_key("GET", &key));
    assert_eq!(answer.header("quorate-meta-number"), Some(&*(PAIRS - 1).to_string()));
    assert_eq!(answer.body, value);
    let some = cluster.must_call("n1", &["export", "-k", "copy", "--prefix", "text/00"]);
    assert_eq!(some.split(|byte| *byte == b'\n').count(), PAIRS.div_ceil(3) + 1);
}

/// An import that reads what the test gives it.
fn begin_import(endpoints: &str, keyspace: &str) -> Child {
    let mut import = program();
    import.args(["import", "-k", keyspace, "-e", endpoints]);
    let import = import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    import.spawn().expect("the program can be started")
}

fn give(import: &mut Child, lines: &[u8]) {
    import.stdin.as_mut().expect("it is open").write_all(lines).expect("the import reads on");
}

/// Waits until a keyspace holds so many keys.
fn until_there(cluster: &Cluster, node: &str, keyspace: &str, count: usize) {
    let mut connection = cluster.connection(node);
    until("the lines that were given", Duration::from_secs(20), || {
        let list: Value = connection.expect(200, &Request::new("GET", format!("/v1/kv/{keyspace}?count_only"))).json();
        if list["count"] == json!(count) { Ok(()) } else { Err(list.to_string()) }
    });
}

fn ended(child: Child) -> (Output, String) {
    let output = child.wait_with_output().expect("a child can be waited for");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, told)
}

#[test]
fn an_interrupted_import_says_how_far_it_came() {
    let cluster = Cluster::ready(1);
    make_keyspaces(&cluster, &["slow"]);
    let endpoint = format!("http://{}", cluster.node("n1").client_address);
    let mut import = begin_import(&endpoint, "slow");
    give(&mut import, &lines(0..1000));
    // Lines are written although more may come.
    until_there(&cluster, "n1", "slow", 1000);
    // Open until it has ended: waiting closes it, and it would take that for the end of the lines.
    let input = import.stdin.take();
    kill_process(Pid::from_child(&import), Signal::TERM).expect("a child can be signalled");
    let (output, told) = ended(import);
    drop(input);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let way_on = "quorate: the first 1000 lines are in; go on with the same lines and --skip 1000\n";
    assert_eq!(told, format!("quorate: interrupted\n{way_on}"));
}

#[test]
fn an_import_goes_on_at_another_node_when_its_own_dies() {
    let mut cluster = Cluster::ready(3);
    make_keyspaces(&cluster, &["copy"]);
    let endpoints = cluster.addresses().join(",");
    let mut import = begin_import(&endpoints, "copy");
    give(&mut import, &lines(0..PAIRS));
    until_there(&cluster, "n2", "copy", PAIRS);
    // The first endpoint is the one that is asked.
    cluster.node_mut("n1").kill();
    give(&mut import, &lines(PAIRS..2 * PAIRS));
    drop(import.stdin.take());
    let (output, told) = ended(import);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.lines().all(|line| line.ends_with("; trying again from there")), "{told}");
    until_there(&cluster, "n2", "copy", 2 * PAIRS);
}

#[test]
fn an_export_whose_node_dies_is_never_taken_for_whole() {
    let mut cluster = Cluster::ready(1);
    let mut connection = cluster.connection("n1");
    // Much more than what is on its way while nobody reads.
    for number in 0..60 {
        connection.expect(201, &Request::put(format!("large/{number}").as_bytes(), vec![b'x'; 1 << 20]));
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("out.ndjson");
    let file = path.to_str().expect("its name is text");
    let endpoint = format!("http://{}", cluster.node("n1").client_address);
    let begin = |target: &str| {
        let mut export = program();
        export.args(["export", target, "-e", &endpoint]).stdout(Stdio::piped()).stderr(Stdio::piped());
        export.spawn().expect("the program can be started")
    };
    cluster.must_call("n1", &["export", file]);
    let whole = std::fs::read(&path).expect("the export is there");
    // Into a pipe that is not read, so that it is under way when the node dies.
    let mut piped = begin("-");
    let mut beginning = vec![0; 1 << 20];
    piped.stdout.as_mut().expect("it is piped").read_exact(&mut beginning).expect("it begins");
    assert!(whole.starts_with(&beginning));
    cluster.node_mut("n1").kill();
    let (output, told) = ended(piped);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(beginning.len() + output.stdout.len() < whole.len());
    assert!(told.starts_with("quorate: cannot export keyspace default: no answer from "), "{told}");
    assert!(told.ends_with("quorate: what went to standard output is not whole\n"), "{told}");
    let (output, told) = ended(begin(file));
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.ends_with("out.ndjson is as it was\n"), "{told}");
    assert!(std::fs::read(&path).expect("the export is there") == whole);
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder can be read").count(), 1);
}
