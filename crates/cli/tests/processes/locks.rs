//! Locks, held by real processes, while nodes and holders are killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Cluster, Request, Work, now, program, since, tell, until};

/// Takes the lock, and does this in a shell meanwhile.
fn locked(cluster: &Cluster, options: &[&str], script: &str) -> Command {
    let mut command = program();
    command.env("QUORATE_ENDPOINTS", cluster.addresses().join(",")).args(["lock", "jobs"]).args(options);
    command.args(["--", "sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(mut command: Command) -> Child {
    command.spawn().expect("it can be started")
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("it is not zero");
    kill_process(pid, signal).expect("it runs");
}

/// How many wait, once somebody holds the lock.
fn until_held(cluster: &Cluster, waiting: u64) -> Value {
    until(&format!("somebody holds the lock, and {waiting} wait"), Duration::from_secs(20), || {
        let shown = cluster.call("n1", &["lock", "jobs", "--show", "-o", "json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).map_err(|_| "nobody holds it".to_owned())?;
        if shown["waiting"] == waiting { Ok(shown) } else { Err(shown.to_string()) }
    })
}

fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("it can be waited for");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Each adds to a number in a file, in a way that loses what another adds at the same time.
#[test]
fn one_at_a_time_while_leaders_are_killed() {
    const WORKERS: usize = 4;
    let mut cluster = Cluster::ready(3);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (count, tokens) = (folder.path().join("count"), folder.path().join("tokens"));
    std::fs::write(&count, "0").expect("the folder can be written to");
    let quoted = |path: &Path| path.to_str().expect("it is text").to_owned();
    let script = format!(
        "echo $QUORATE_LOCK_TOKEN >> '{tokens}'; n=$(cat '{count}'); sleep 0.02; echo $((n + 1)) > '{count}'",
        count = quoted(&count),
        tokens = quoted(&tokens)
    );
    let work = Work::default();
    let began = now();
    let endpoints = cluster.addresses().join(",");
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (script, work, endpoints) = (&script, &work, &endpoints);
            scope.spawn(move || {
                while work.goes_on() {
                    let mut command = program();
                    command.env("QUORATE_ENDPOINTS", endpoints).args(["lock", "jobs", "--", "sh", "-c", script]);
                    let output = command.output().expect("it can be started");
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                    work.step();
                }
            });
        }
        cluster.kill_leaders(3, &work, 10);
    });
    let total = work.steps();
    tell(format_args!("{total} times in {:?}, 3 leaders killed", since(began)));
    let count: u64 = std::fs::read_to_string(&count).expect("it is there").trim().parse().expect("a number");
    assert_eq!(count, total, "two were in there at once");
    let tokens = std::fs::read_to_string(&tokens).expect("it is there");
    let tokens: Vec<u64> = tokens.lines().map(|token| token.parse().expect("a number")).collect();
    assert_eq!(tokens.len() as u64, total);
    assert!(tokens.is_sorted_by(|one, next| one < next), "tokens grow from holder to holder: {tokens:?}");
    assert_eq!(cluster.list("n1"), [] as [Value; 0], "nothing is left");
}

#[test]
fn a_holder_that_dies_is_followed_by_who_waits() {
    let cluster = Cluster::ready(3);
    let mut first = start(locked(&cluster, &["--ttl", "2s"], "exec sleep 600"));
    until_held(&cluster, 0);
    let second = start(locked(&cluster, &["--value", "second"], "exec sleep 600"));
    until_held(&cluster, 1);
    let third = start(locked(&cluster, &[], "true"));
    until_held(&cluster, 2);
    // Who is asked to end while it waits gives up its place at once.
    signal(&third, Signal::TERM);
    let (code, told) = ended(third);
    assert!(code == Some(1) && told.contains("interrupted while waiting"), "{code:?}: {told}");
    until_held(&cluster, 1);
    first.kill().expect("it runs");
    first.wait().expect("it can be waited for");
    let began = now();
    let shown = until_held(&cluster, 0);
    tell(format_args!("the next one held it after {:?}", since(began)));
    assert_eq!(shown["holder"]["value"], "second");
    // Its command ends with it, and the lock with that.
    signal(&second, Signal::TERM);
    assert_eq!(ended(second).0, Some(128 + 15));
    assert_eq!(cluster.list("n1"), [] as [Value; 0]);
}

#[test]
fn a_command_is_ended_when_the_lock_is_lost() {
    let mut cluster = Cluster::ready(3);
    let script = "trap 'exit 0' TERM; echo $$ >&2; while :; do sleep 0.1; done";
    let is_lost = |child| {
        let (code, told) = ended(child);
        assert!(code == Some(1) && told.contains("lock `jobs` is lost, and sh was ended"), "{code:?}: {told}");
    };
    let lease_of = |shown: &Value| shown["holder"]["lease"].as_str().expect("it is text").to_owned();
    let revoked = start(locked(&cluster, &[], script));
    cluster.must_call("n2", &["lease", "revoke", &lease_of(&until_held(&cluster, 0))]);
    is_lost(revoked);
    // The lease lives on: only who looks at the lock itself can know.
    let taken_away = start(locked(&cluster, &["--ttl", "10m"], script));
    let target = format!("/v1/locks/default/jobs?lease={}", lease_of(&until_held(&cluster, 0)));
    cluster.connection("n3").expect(204, &Request::new("DELETE", target));
    is_lost(taken_away);
    let put_over = start(locked(&cluster, &["--ttl", "10m"], script));
    let key = until_held(&cluster, 0)["holder"]["key"].as_str().expect("it is text").to_owned();
    cluster.must_call("n1", &["put", &key, "no claim any more"]);
    is_lost(put_over);
    cluster.must_call("n1", &["del", &key]);

    let alone = start(locked(&cluster, &["--ttl", "2s"], script));
    until_held(&cluster, 0);
    for name in ["n1", "n2"] {
        cluster.node_mut(name).kill();
    }
    let began = now();
    let (code, told) = ended(alone);
    tell(format_args!("without a majority it was ended after {:?}", since(began)));
    assert!(code == Some(1) && told.contains("is lost"), "{code:?}: {told}");
}

#[test]
fn leaders_are_observed_as_they_come_and_go() {
    let cluster = Cluster::ready(3);
    let mut observer = program();
    observer.env("QUORATE_ENDPOINTS", cluster.addresses().join(",")).args(["elect", "web", "--observe", "-o", "raw"]);
    let mut observer = start({
        observer.stdout(Stdio::piped()).stderr(Stdio::null());
        observer
    });
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(observer.stdout.take().expect("it is piped")));
    let mut line = || lines.next().expect("there is one more").expect("it can be read");
    assert_eq!(line(), "", "nobody leads");
    for leader in ["a", "b"] {
        let mut elected = program();
        elected.env("QUORATE_ENDPOINTS", cluster.addresses().join(",")).args(["elect", "web", leader, "--", "sleep", "1"]);
        assert!(elected.status().expect("it can be started").success());
        // That nobody leads for a moment between two may be left out.
        let next = line();
        assert_eq!(if next.is_empty() && leader == "b" { line() } else { next }, leader);
    }
    assert_eq!(line(), "", "the last change is told");
    observer.kill().expect("it runs");
    observer.wait().expect("it can be waited for");
}
