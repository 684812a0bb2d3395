//! Wrong usage, help, configuration layers.

use std::io::Write as _;
use std::process::Command;

use crate::calls::{call, call_with};

#[test]
fn wrong_usage_is_exit_code_2() {
    for arguments in [
        ["get"].as_slice(),
        &["frobnicate"],
        &["get", "k", "--endpoint", "nowhere"],
        &["get", "--key64", "?"],
        &["put", "k", "v", "-o", "raw"],
        &["put", "k", "v", "--content-type", "a\nb"],
        &["keyspace", "create", "a", "--option", "max_bytes=1"],
        &["keyspace", "create", "a", "-o", "raw"],
        &["keyspace", "alter", "a"],
        &["keyspace", "alter", "a", "--no-wait"],
        &["keyspace", "delete", "a"],
        &["server"],
        &["server", "--name", "a/b", "--data-dir", "/tmp/x"],
        &["server", "--name", "n1", "--data-dir", "/tmp/x", "--election-ms", "1"],
        &["server", "--name", "n1", "--data-dir", "/tmp/x", "--max-value-bytes", "much"],
        &["server", "--name", "n1", "--data-dir", "/tmp/x", "--log", "quorate=loud"],
    ] {
        let called = call(arguments, b"");
        assert_eq!((called.exit, called.stdout.len()), (2, 0), "{arguments:?} {called:?}");
        assert!(!called.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn mistakes_in_a_configuration_are_one_line() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"name = \"n1\"\nlisen = \"a:1\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let called = call(&["server", "--config", path], b"");
    let expected = format!("quorate: {path}: unknown key `lisen`; the nearest known one is `listen`\n");
    assert_eq!((called.exit, called.stderr), (2, expected));
}

/// A value that is wrong in every layer, so that the error tells which one won.
#[test]
fn flags_go_before_the_environment_and_the_environment_before_the_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"name = \"of/file\"\ndata_dir = \"/tmp/x\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let winner = |flag: Option<&str>, environment: Option<&str>| {
        let mut command = Command::new("env");
        command.args(environment.map(|name| format!("QUORATE_NAME={name}")));
        command.args([env!("CARGO_BIN_EXE_quorate"), "server", "--config", path]);
        command.args(flag.into_iter().flat_map(|name| ["--name", name]));
        call_with(&mut command, b"").stderr
    };
    assert!(winner(None, None).contains("`of/file`"));
    assert!(winner(None, Some("of/environment")).contains("`of/environment`"));
    assert!(winner(Some("of/flag"), Some("of/environment")).contains("`of/flag`"));
}

#[test]
fn help_teaches_with_examples() {
    let commands = [
        "server",
        "demo",
        "get",
        "put",
        "ls",
        "keyspace",
        "engines",
        "cluster",
        "bench",
        "completions",
        "export",
        "import",
        "top",
    ];
    for command in commands {
        let called = call(&[command, "--help"], b"");
        assert_eq!(called.exit, 0);
        assert!(called.text().contains("Examples:") && called.text().contains(&format!("quorate {command}")), "{command}");
    }
    let called = call(&["--help"], b"");
    assert!(called.text().contains("4 condition failed") && called.text().contains("quorate demo"));
}

#[test]
fn completions_are_scripts_for_the_shell() {
    let bash = call(&["completions", "bash"], b"");
    assert!(bash.exit == 0 && bash.text().contains("complete -o bashdefault -F _quorate quorate"), "{bash:?}");
}

/// The data folder is a file, so the node ends as soon as it has said what it was configured to be.
#[test]
fn log_lines_are_filtered_and_formatted_as_configured() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = |settings: &[&str]| {
        let path = file.path().to_str().unwrap();
        let node = ["server", "--name", "n1", "--data-dir", path, "--listen", "127.0.0.1:1", "--peer-listen", "127.0.0.1:2"];
        call(&[&node, settings].concat(), b"").stderr
    };
    assert!(!lines(&[]).contains("starting"), "quiet by default");
    let text = lines(&["--log", "info"]);
    assert!(text.contains("INFO") && text.contains("starting") && !text.contains('\x1b'), "{text}");
    let json = lines(&["--log", "info", "--log-format", "json"]);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!((first["level"].as_str(), first["message"].as_str()), (Some("INFO"), Some("starting")));
}
