//! The demo with real nodes: it says where they are, leaves nothing behind when it is stopped, and no process when it is killed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// Two demos that start at the same moment find the same ports free.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A demo that runs, and what it said once it was ready.
struct Demo {
    process: Child,
    stdout: BufReader<ChildStdout>,
    description: Value,
}

#[expect(clippy::unwrap_used, reason = "what goes wrong in a call of the program fails the test")]
impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["demo", "-o", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        Self { process, stdout, description: serde_json::from_str(&line).unwrap() }
    }

    fn nodes(&self) -> &[Value] {
        self.description["nodes"].as_array().unwrap()
    }

    fn folder(&self) -> &Path {
        Path::new(self.description["folder"].as_str().unwrap())
    }

    fn pids(&self) -> Vec<Pid> {
        self.nodes().iter().map(|node| Pid::from_raw(node["pid"].as_i64().unwrap() as i32).unwrap()).collect()
    }

    fn end_with(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
        self.process.wait().unwrap()
    }

    /// Calls the program with the demo's nodes as endpoints.
    fn call(&self, arguments: &[&str]) -> String {
        let endpoints: Vec<&str> = self.nodes().iter().map(|node| node["endpoint"].as_str().unwrap()).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        let output = command.args(arguments).args(["-e", &endpoints.join(",")]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether the process still runs; one that nobody waited for yet has ended all the same.
fn is_running(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let is_defunct = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
    test_kill_process(pid).is_ok() && !is_defunct
}

/// Waits up to 5 s until none of them runs.
fn all_end(pids: &[Pid]) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        pids.iter().all(|&pid| !is_running(pid))
    })
}

#[test]
fn a_demo_serves_and_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]);
    assert_eq!(demo.nodes().len(), 3);
    demo.call(&["put", "greeting", "hello"]);
    assert_eq!(demo.call(&["get", "greeting"]), "hello");
    let (pids, folder) = (demo.pids(), demo.folder().to_owned());
    assert!(folder.join("n3.log").exists() && pids.iter().all(|&pid| is_running(pid)));
    assert!(demo.end_with(Signal::TERM).success());
    assert!(!folder.exists(), "the temporary folder stays");
    assert!(pids.iter().all(|&pid| !is_running(pid)), "nodes outlive the demo");
    let mut rest = String::new();
    assert_eq!(demo.stdout.read_line(&mut rest).unwrap(), 0, "one line of JSON, not also {rest}");
}

#[test]
fn nodes_end_with_a_demo_that_is_killed() {
    let kept = tempfile::tempdir().unwrap();
    let mut demo = Demo::start(&["--nodes", "2", "--keep", kept.path().to_str().unwrap()]);
    let pids = demo.pids();
    demo.end_with(Signal::KILL);
    assert!(all_end(&pids), "nodes outlive the demo");
}

#[test]
fn a_kept_demo_goes_on_where_it_was() {
    let kept = tempfile::tempdir().unwrap();
    let arguments = ["--nodes", "1", "--keep", kept.path().to_str().unwrap()];
    let mut demo = Demo::start(&arguments);
    demo.call(&["put", "greeting", "hello"]);
    assert!(demo.end_with(Signal::INT).success());
    let demo = Demo::start(&arguments);
    assert_eq!(demo.call(&["get", "greeting"]), "hello");
}
