//! The tours of the pages in `docs/`, as they stand there: an indented line that begins with `$ ` is a command, and what follows
//! it, up to the next one, is what it prints; lines that begin with `> ` go on with it. `$N1` to `$N3` are where the nodes
//! answer; blocks that name another server, as `$S3`, are left out where there is none. A block that begins with a method is a
//! request: its first line, its body, the status of the answer alone in a line, and the answer's JSON.

use std::path::Path;
use std::process::Command;

use quorate_test_servers::moto;
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

fn run_commands(block: &[&str], cluster: &Cluster, place: &Place<'_>) -> usize {
    let mut commands = 0;
    let mut rest = block;
    while let Some((command, after)) = rest.split_first() {
        let mut command = command.strip_prefix("$ ").expect("a block of commands begins with one").to_owned();
        let (more, after) = after.split_at(after.iter().take_while(|line| line.starts_with("> ")).count());
        for line in more {
            command = format!("{command}\n{}", &line[2..]);
        }
        let (printed, next) = after.split_at(after.iter().position(|line| line.starts_with("$ ")).unwrap_or(after.len()));
        assert_eq!(output_of(&command, cluster, place), printed, "{command}");
        commands += 1;
        rest = next;
    }
    commands
}

/// Where commands run: a folder, and a server that was started for them, by the variable that holds where it answers.
struct Place<'a> {
    folder: &'a Path,
    server: Option<(&'a str, String)>,
}

/// What a command prints, on both streams, by line; in a shell that knows the program.
fn output_of(command: &str, cluster: &Cluster, place: &Place<'_>) -> Vec<String> {
    let own_program = program();
    let programs = Path::new(own_program.get_program()).parent().expect("it lies in a folder");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 2>&1; {command}")]).current_dir(place.folder);
    for (name, value) in own_program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("PATH", path).env("QUORATE_ENDPOINTS", cluster.addresses().join(","));
    let nodes = (1..).zip(cluster.addresses()).map(|(number, address)| (format!("N{number}"), format!("http://{address}")));
    shell.envs(nodes).envs(place.server.clone());
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
    tour_with(page, None)
}

/// The same, beside a server: the variable that says where it answers, and that.
#[track_caller]
fn tour_with(page: &str, server: Option<(&str, String)>) -> (usize, usize) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
    let page = std::fs::read_to_string(page).expect("the page is there");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let plain = folder.path().to_str().expect("temporary folders have plain names");
    let cluster = Cluster::ready_with(3, &["--fs-root", plain, "--credentials-dir", plain]);
    let place = Place { folder: folder.path(), server };
    let (mut commands, mut requests) = (0, 0);
    for block in blocks(&page) {
        if place.server.is_none() && block.iter().any(|line| line.contains("$S3")) {
            continue;
        }
        if block[0].starts_with("$ ") {
            commands += run_commands(&block, &cluster, &place);
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
    let bucket = moto();
    let server = bucket.as_ref().map(|bucket| ("S3", format!("http://127.0.0.1:{}", bucket.port)));
    let commands = if server.is_some() { 19 } else { 8 };
    assert_eq!(tour_with("engines.md", server), (commands, 0));
}

#[test]
fn the_tour_of_locks_is_as_it_says() {
    assert_eq!(tour("locks.md"), (7, 3));
}

#[test]
fn the_tour_of_keyspaces_is_as_it_says() {
    assert_eq!(tour("keyspaces.md"), (17, 0));
}

#[test]
fn the_tour_of_replication_is_as_it_says() {
    assert_eq!(tour("replication.md"), (20, 0));
}
