//! Completion in shells, against a node that runs.

use std::process::Command;

use crate::support::{Cluster, Request, program};

/// Keys with what shells treat in ways of their own.
const KEYS: [&str; 5] = ["users/ann", "users/bob", "time:12:30", "a b$c", "other"];

/// What fish shows for the words of a line; fish sends them as they are.
fn completed(words: &[&str], setting: (&str, &str)) -> Vec<String> {
    let output = program().args(["--", "quorate"]).args(words).env("COMPLETE", "fish").env(setting.0, setting.1).output();
    let output = output.expect("the program can be called");
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    let lines = String::from_utf8(output.stdout).expect("fish is sent text");
    lines.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn keyspaces_keys_and_nodes_come_from_the_cluster() {
    let cluster = Cluster::ready(1);
    let mut connection = cluster.connection("n1");
    for key in KEYS {
        connection.expect(201, &Request::put(key.as_bytes(), "x"));
    }
    let url = format!("http://{}", cluster.node("n1").client_address);
    let complete = |words: &[&str]| completed(words, ("QUORATE_ENDPOINTS", &url));
    assert_eq!(complete(&["get", "us"]), ["users/ann", "users/bob"]);
    assert_eq!(complete(&["del", "-k", "default", "time:"]), ["time:12:30"]);
    assert_eq!(complete(&["ls", "--start", "o"]), ["other"]);
    assert_eq!(complete(&["get", "-k", "d"]), ["default"]);
    assert_eq!(complete(&["cluster", "remove", "n"]), ["n1"]);
    assert_eq!(complete(&["get", "-k", "elsewhere", "us"]), [""; 0], "another keyspace");
    assert_eq!(complete(&["cluster", "re"]), ["remove"]);

    // The line goes before the environment, and nobody there is no failure.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let silent = silent.local_addr().expect("it listens").to_string();
    assert_eq!(complete(&["-e", &silent, "get", "us"]), [""; 0]);
    assert_eq!(completed(&["get", "-e", &url, "us"], ("QUORATE_ENDPOINTS", &silent)), ["users/ann", "users/bob"]);
    in_bash(&url);
}

/// What bash has to replace the end of a line with.
fn in_bash(url: &str) {
    // `$2` is the end of the word behind the last colon or equals sign, without a quote that is open.
    let cases = [
        (format!("quorate -e {url} get us"), "us", vec!["users/ann", "users/bob"]),
        (format!("quorate get -e {url} time:1"), "1", vec!["12:30"]),
        (format!("quorate --endpoint={url} get a"), "a", vec![r"a\ b\$c"]),
        (format!("quorate -e {url} get 'a "), "a ", vec!["a b$c"]),
        (format!("quorate -e {url} get --keyspace=d"), "d", vec!["default"]),
        ("quorate cluster re".to_owned(), "re", vec!["remove"]),
    ];
    for (line, replaced, expected) in cases {
        let script = r#"source <("$QUORATE" completions bash); _quorate quorate "$REPLACED"; printf '%s\n' "${COMPREPLY[@]}""#;
        let point = line.chars().count().to_string();
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", script]).env("QUORATE", program().get_program());
        bash.env("COMP_LINE", &line).env("COMP_POINT", &point).env("REPLACED", replaced);
        let output = bash.output().expect("bash can be called");
        assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), expected, "{line}");
    }
}
