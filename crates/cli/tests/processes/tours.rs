//! The tours of the pages in `docs/`, as they stand there: an indented line that begins with `$ ` is a command, and what follows
//! it, up to the next one, is what it prints. A block that begins with a method is a request: its first line, its body, the
//! status of the answer alone in a line, and the answer's JSON.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Cluster, Request, program};

/// The indented blocks of a page, without the indentation.
fn blocks(page: &str) -> Vec<Vec<&str>> {
    let mut blocks = vec![Vec::new()];
    for line in page.lines() {
        match line.strip_prefix("    ") {
            Some(line) => blocks.last_mut().expect("there is one").push(line),
            None => blocks.push(Vec::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

fn run_commands(block: &[&str], cluster: &Cluster, folder: &Path) -> usize {
    let mut commands = 0;
    let mut rest = block;
    while let Some((command, after)) = rest.split_first() {
        let command = command.strip_prefix("$ ").expect("a block of commands begins with one");
        let (printed, next) = after.split_at(after.iter().position(|line| line.starts_with("$ ")).unwrap_or(after.len()));
        assert_eq!(output_of(command, cluster, folder), printed, "{command}");
        commands += 1;
        rest = next;
    }
    commands
}

/// What a command prints, on both streams, by line; in a shell that knows the program.
fn output_of(command: &str, cluster: &Cluster, folder: &Path) -> Vec<String> {
    let own_program = program();
    let programs = Path::new(own_program.get_program()).parent().expect("it lies in a folder");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1; {command}")]).current_dir(folder);
    for (name, value) in own_program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("PATH", path).env("QUORATE_ENDPOINTS", cluster.addresses().join(","));
    let output = shell.output().expect("a shell can be started");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn send_request(block: &[&str], cluster: &Cluster, node: &str) {
    let (first, rest) = block.split_first().expect("it is not empty");
    let target = first.strip_prefix("POST ").expect("requests of tours are posts");
    let at = rest.iter().position(|line| line.parse::<u16>().is_ok()).expect("the status stands in a line of its own");
    let (body, status) = (rest[..at].join("\n"), rest[at].parse().expect("it was parsed a moment ago"));
    let answer = cluster.connection(node).expect(status, &Request::json("POST", target, body));
    if at + 1 < rest.len() {
        let told: Value = serde_json::from_str(&rest[at + 1..].join("\n")).expect("the answer is JSON");
        assert_eq!(answer.json::<Value>(), told, "{first}");
    }
}

/// Takes the tour of a page, on a cluster of its own. How many commands and requests it has, so that none is overlooked.
#[track_caller]
fn tour(page: &str) -> (usize, usize) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let page = std::fs::read_to_string(page).expect("the page is there");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let cluster = Cluster::ready_with(3, &["--fs-root", folder.path().to_str().expect("temporary folders have plain names")]);
    let (mut commands, mut requests) = (0, 0);
    for block in blocks(&page) {
        if block[0].starts_with("$ ") {
            commands += run_commands(&block, &cluster, folder.path());
        } else if block[0].starts_with("POST ") {
            send_request(&block, &cluster, ["n1", "n2", "n3"][requests % 3]);
            requests += 1;
        }
    }
    (commands, requests)
}

#[test]
fn the_tour_of_transactions_is_as_it_says() {
    assert_eq!(tour("transactions.md"), (8, 3));
}

#[test]
fn the_tour_of_watches_is_as_it_says() {
    assert_eq!(tour("watches.md"), (6, 0));
}

#[test]
fn the_tour_of_leases_is_as_it_says() {
    assert_eq!(tour("leases.md"), (9, 2));
}

#[test]
fn the_tour_of_changes_is_as_it_says() {
    assert_eq!(tour("patch.md"), (13, 1));
}

#[test]
fn the_tour_of_history_is_as_it_says() {
    assert_eq!(tour("history.md"), (13, 0));
}

#[test]
fn the_tour_of_stores_outside_is_as_it_says() {
    assert_eq!(tour("engines.md"), (7, 0));
}

#[test]
fn the_tour_of_locks_is_as_it_says() {
    assert_eq!(tour("locks.md"), (7, 3));
}

#[test]
fn the_tour_of_replication_is_as_it_says() {
    assert_eq!(tour("replication.md"), (17, 0));
}
