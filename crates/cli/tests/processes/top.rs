//! `quorate top` over nodes that do something, and one that does nothing any more.

use std::process::{Child, Stdio};

use serde_json::Value;

use crate::support::{Cluster, Request, program};

fn top(cluster: &Cluster, arguments: &[&str]) -> Child {
    let mut command = program();
    command.args(["top", "--once", "-e", &cluster.node("n1").client_address]).args(arguments);
    command.stdout(Stdio::piped()).spawn().expect("the program can be started")
}

#[test]
fn what_nodes_and_keyspaces_do_is_shown() {
    let mut cluster = Cluster::ready(3);
    cluster.node_mut("n3").kill();
    let mut connection = cluster.connection("n1");
    connection.expect(201, &Request::put(b"k", "v"));
    let mut running = top(&cluster, &["-o", "json", "--seconds", "2"]);
    // It takes its first figures some time after it was started, and its last ones two seconds later.
    while running.try_wait().expect("a child can be asked").is_none() {
        connection.expect(204, &Request::put(b"k", "v"));
        connection.expect(200, &Request::get(b"k"));
    }
    let output = running.wait_with_output().expect("a child can be waited for");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("one object");
    let [n1, n2, n3] = shown["nodes"].as_array().expect("nodes").as_slice() else { panic!("three nodes: {shown}") };
    let figure = |of: &Value, name: &str| of[name].as_f64().unwrap_or_else(|| panic!("{name} in {of}"));
    assert!(figure(n1, "gets_per_s") > 0.0 && figure(n1, "writes_per_s") > 0.0, "{shown}");
    assert!(figure(n1, "connections") > 0.0 && figure(n2, "gets_per_s") < figure(n1, "gets_per_s"), "{shown}");
    assert_eq!((&n2["is_reached"], &n3["is_reached"]), (&Value::Bool(true), &Value::Bool(false)));
    assert!(figure(n1, "leads") + figure(n2, "leads") >= 1.0, "somebody leads the default keyspace: {shown}");
    let busiest = &shown["keyspaces"][0];
    assert_eq!(busiest["name"], "default");
    assert!(busiest["leader"].is_string() && figure(busiest, "commands_per_s") > 0.0, "{shown}");

    let table = top(&cluster, &[]).wait_with_output().expect("a child can be waited for").stdout;
    let table = String::from_utf8(table).expect("a table is text");
    for told in ["NODE", "n1 ", "voter, not reached", "KEYSPACE", "default ", "_system "] {
        assert!(table.contains(told), "{told} in\n{table}");
    }
    assert!(!table.contains('\u{1b}'), "no escapes where nobody looks on: {table:?}");
}
