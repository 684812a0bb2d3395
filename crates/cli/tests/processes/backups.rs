//! Backups and restores of real clusters: while they are written to, and through kills.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use quorate_proxy::Link;
use serde_json::{Value, json};

use crate::support::{Cluster, Linked, Request, Work, pause, program, until};

fn quorate(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(arguments).env("QUORATE_ENDPOINTS", cluster.addresses().join(",")).stdin(Stdio::null());
    command
}

#[track_caller]
fn done(cluster: &Cluster, arguments: &[&str]) -> Value {
    let Output { status, stdout, stderr } = quorate(cluster, arguments).args(["-o", "json"]).output().expect("it can be started");
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    serde_json::from_slice(&stdout).expect("it prints JSON")
}

fn failed(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = quorate(cluster, arguments).output().expect("it can be started");
    assert!(!output.status.success(), "{arguments:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn create(cluster: &Cluster, name: &str, engine: &str) {
    let settings = format!("{{\"engine\": {{\"type\": \"{engine}\"}}}}");
    cluster.connection("n1").expect(201, &Request::json("PUT", &format!("/v1/keyspaces/{name}"), settings));
}

/// Writes so many pairs of about a kilobyte.
fn fill(cluster: &Cluster, name: &str, count: usize) {
    let mut connection = cluster.connection("n1");
    for first in (0..count).step_by(500) {
        let ops: Vec<Value> = (first..count.min(first + 500))
            .map(|number| json!({"op": "put", "key": format!("k{number:06}"), "value": format!("{number}").repeat(200)}))
            .collect();
        let batch = json!({ "ops": ops }).to_string();
        connection.expect(200, &Request::json("POST", &format!("/v1/batch/{name}?atomic=true"), batch));
    }
}

fn exported(cluster: &Cluster, name: &str) -> Vec<u8> {
    quorate(cluster, &["export", "-k", name]).output().expect("it can be started").stdout
}

#[test]
fn a_backup_is_of_one_moment_while_the_cluster_works_and_comes_back_in_another() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("backup.qbk");
    let file = path.to_str().expect("it is text");
    let (before, sum) = {
        let cluster = Cluster::ready(3);
        create(&cluster, "orders", "lsm");
        fill(&cluster, "orders", 2000);
        // Two counters that are always equal, in any one moment.
        let work = Work::default();
        let address = cluster.addresses()[1].clone();
        std::thread::scope(|scope| {
            let _end = work.end();
            scope.spawn(|| {
                let mut connection = crate::support::Connection::to(&address);
                let ops = ["a", "z"].map(|key| format!("{{\"op\": \"increment\", \"key\": \"{key}\"}}")).join(",");
                let both = Request::json("POST", "/v1/batch/default?atomic=true", format!("{{\"ops\": [{ops}]}}"));
                while work.goes_on() {
                    connection.expect(200, &both);
                }
            });
            pause(300);
            let told = done(&cluster, &["backup", file]);
            assert_eq!(told["keyspaces"].as_array().map(Vec::len), Some(2));
        });
        let count = cluster.connection("n1").expect(200, &Request::get(b"a")).text();
        (exported(&cluster, "orders"), count)
    };
    let shown = String::from_utf8(program().args(["backup", "verify", file]).output().expect("it can be started").stdout);
    assert!(shown.expect("it is text").contains("is whole: 2 keyspaces, 2002 pairs"));

    let other = Cluster::ready(3);
    let id = |cluster: &Cluster| {
        cluster.connection("n1").expect(200, &Request::new("GET", "/v1/cluster")).json::<Value>()["id"].clone()
    };
    let restored = done(&other, &["restore", file]);
    assert_eq!(restored["keyspaces"].as_array().map(Vec::len), Some(2), "{restored}");
    let head: Value = serde_json::from_slice(
        &program().args(["backup", "show", file, "-o", "json"]).output().expect("it can be started").stdout,
    )
    .expect("it prints JSON");
    assert_ne!(head["cluster"], id(&other));
    assert!(exported(&other, "orders") == before);
    for node in ["n1", "n2", "n3"] {
        let value = |key: &[u8]| other.connection(node).expect(200, &Request::get(key)).text();
        let (first, second) = (value(b"a"), value(b"z"));
        assert_eq!(first, second, "the two are of one moment");
        assert!(first.parse::<u64>().expect("a number") <= sum.parse().expect("a number"));
    }
    let engine = other.connection("n2").expect(200, &Request::new("GET", "/v1/keyspaces/orders")).json::<Value>();
    assert_eq!(engine["engine"]["type"], "lsm");
    assert!(failed(&other, &["restore", file]).contains("is there already"), "a keyspace that is there is not touched");
    refuse_damaged(&other, &path);
}

/// A file that is cut or altered is refused before anything is done, and the place named.
fn refuse_damaged(cluster: &Cluster, path: &Path) {
    let whole = std::fs::read(path).expect("it is there");
    let bad = path.with_extension("bad");
    let told = |bytes: &[u8]| {
        std::fs::write(&bad, bytes).expect("the folder can be written to");
        failed(cluster, &["restore", bad.to_str().expect("it is text"), "--only", "orders"])
    };
    let cut = told(&whole[..whole.len() / 2]);
    assert!(cut.contains(&format!("it ends at byte {}, in keyspace", whole.len() / 2)), "{cut}");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 4;
    let damaged = told(&damaged);
    assert!(damaged.contains("checksum of a block is wrong at byte") && damaged.contains("in keyspace orders"), "{damaged}");
}

/// What is in a backup was let in by settings of then; those that it is restored with let in what comes later.
#[test]
fn settings_hold_for_what_is_written_after_the_restore() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("backup.qbk");
    let file = path.to_str().expect("it is text");
    let path_of = |key: &str| format!("/v1/kv/orders/{key}");
    {
        let cluster = Cluster::ready(1);
        let mut connection = cluster.connection("n1");
        connection.expect(201, &Request::json("PUT", "/v1/keyspaces/orders", "{}"));
        connection.expect(201, &Request::new("PUT", path_of("old")).with_body(vec![b'v'; 5_000]));
        connection.expect(201, &Request::json("POST", "/v1/leases/orders", r#"{"id": "7", "ttl": "60s"}"#));
        connection.expect(201, &Request::new("PUT", path_of("leased?lease=7")).with_body("v"));
        let settings = r#"{"ttl": "1h", "limits": {"max_value_bytes": "1KiB", "max_bytes": "4KiB"}}"#;
        connection.expect(200, &Request::json("PATCH", "/v1/keyspaces/orders", settings));
        done(&cluster, &["backup", file]);
    }
    let cluster = Cluster::ready(3);
    done(&cluster, &["restore", file]);
    let mut connection = cluster.connection("n2");
    connection.expect(200, &Request::new("GET", path_of("leased")));
    let old = connection.expect(200, &Request::new("GET", path_of("old?format=json"))).json::<Value>();
    assert!(old.get("ttl").is_none(), "it had no end: {old}");
    connection.expect(413, &Request::new("PUT", path_of("large")).with_body(vec![b'v'; 2_000]));
    connection.expect(507, &Request::new("PUT", path_of("more")).with_body("v"));
    connection.expect(204, &Request::new("DELETE", path_of("old")));
    connection.expect(201, &Request::new("PUT", path_of("new")).with_body("v"));
    let new = connection.expect(200, &Request::new("GET", path_of("new?format=json"))).json::<Value>();
    assert!(new["ttl"].as_f64().is_some_and(|ttl| ttl > 3_000.0), "it has the time to live of its keyspace: {new}");
}

/// A node that has not heard of the end yet does not say that the restore goes on; and it reads, however long an answer takes.
#[test]
fn a_restore_that_has_ended_is_seen_through_a_node_that_hears_late() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("backup.qbk");
    let file = path.to_str().expect("it is text");
    {
        let cluster = Cluster::ready(1);
        create(&cluster, "orders", "hash");
        fill(&cluster, "orders", 50);
        done(&cluster, &["backup", file]);
    }
    let linked = Linked::ready();
    linked.set(3, Link::Slow(200));
    let first = linked.cluster.node("n1").client_address.clone();
    done(&linked.cluster, &["restore", file, "--endpoint", &first]);
    let mut late = linked.cluster.connection("n3");
    late.expect(200, &Request::new("GET", "/v1/kv/orders/k000049"));
    late.expect(201, &Request::new("PUT", "/v1/kv/orders/new").with_body("v"));
}

#[test]
fn a_restore_that_is_killed_leaves_nothing_to_be_seen_and_can_be_repeated() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("backup.qbk");
    let file = path.to_str().expect("it is text");
    let expected = {
        let cluster = Cluster::ready(1);
        create(&cluster, "orders", "btree");
        fill(&cluster, "orders", 20_000);
        fill(&cluster, "default", 10);
        done(&cluster, &["backup", file]);
        exported(&cluster, "orders")
    };
    let mut cluster = Cluster::ready(3);
    for round in 0..3 {
        let mut restore = quorate(&cluster, &["restore", file, "--timeout", "10s"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be started");
        // Into the middle, wherever that is.
        pause(150 + 250 * round);
        let victims = if round == 2 { vec!["n1", "n2", "n3"] } else { vec![["n1", "n2"][round as usize]] };
        for victim in &victims {
            cluster.node_mut(victim).kill();
        }
        let _ = restore.kill();
        let _ = restore.wait();
        for victim in &victims {
            cluster.restart(victim);
        }
        cluster.until_ready();
        let mut connection = cluster.connection("n3");
        let seen = connection.send(&Request::new("GET", "/v1/kv/orders?count_only")).expect("it is ready");
        let is_whole = seen.status == 200 && seen.json::<Value>()["count"] == 20_000;
        assert!(is_whole || [404, 503].contains(&seen.status), "{}: {}", seen.status, seen.text());
        if is_whole {
            break;
        }
    }
    // What was whole before the kill is there, and is not touched.
    let mut missing = Vec::new();
    for name in ["default", "orders"] {
        until("it is known what is there", Duration::from_secs(30), || {
            let seen = cluster.connection("n2").send(&Request::new("GET", format!("/v1/kv/{name}?count_only")));
            match seen {
                Ok(seen) if seen.status == 200 && seen.json::<Value>()["count"] != 0 => Ok(()),
                Ok(seen) if [200, 404].contains(&seen.status) || seen.text().contains("being restored") => {
                    missing.push(name);
                    Ok(())
                }
                seen => Err(format!("{seen:?}")),
            }
        });
    }
    if !missing.is_empty() {
        done(&cluster, &["restore", file, "--only", &missing.join(",")]);
    }
    assert!(exported(&cluster, "orders") == expected);
    assert_eq!(exported(&cluster, "default").split(|byte| *byte == b'\n').count(), 11);
    cluster.assert_same_everywhere();
}
