//! One node as a child process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::http::Connection;
use super::time::until;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_quorate");

/// How much of a log is shown when a test fails.
const MAX_TAIL_BYTES: u64 = 12 << 10;

/// Ports of nodes: below those that systems hand out for outgoing connections, or one of these might take a dead node's port
/// before it is back.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// The program, with nothing in its environment that would change its settings.
pub(crate) fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for (setting, _) in std::env::vars_os() {
        if setting.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(setting);
        }
    }
    command
}

/// Ports on loopback that nobody listens on and that no other test of this process was given.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().expect("nobody panics with it");
    let span = u32::from(PORTS.end - PORTS.start);
    // Two runs on one machine begin at different places.
    let first = std::process::id().wrapping_mul(211) % span;
    let in_order = (0..span).map(|step| PORTS.start + ((first + step) % span) as u16);
    let is_free = |port: &u16| !given.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let ports: Vec<u16> = in_order.filter(is_free).take(count).collect();
    given.extend(&ports);
    assert_eq!(ports.len(), count, "free ports on loopback");
    ports
}

/// A node's folder, addresses and, while it runs, its process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) name: String,
    pub(crate) client_address: String,
    pub(crate) peer_address: String,
    pub(crate) data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    /// A node that does not run yet, with its data and its log in `folder`.
    pub(crate) fn new(name: &str, folder: &Path) -> Self {
        let ports = free_ports(2);
        Self::at(name, folder, [0, 1].map(|place| format!("127.0.0.1:{}", ports[place])))
    }

    /// The same, with these addresses for clients and peers.
    pub(crate) fn at(name: &str, folder: &Path, [client_address, peer_address]: [String; 2]) -> Self {
        Self {
            name: name.to_owned(),
            client_address,
            peer_address,
            data_dir: folder.join(name),
            log: folder.join(format!("{name}.log")),
            child: None,
        }
    }

    /// What starts this node, without joining anybody.
    pub(crate) fn command(&self) -> Command {
        let mut command = program();
        command.args(["server", "--name", &self.name, "--listen", &self.client_address, "--peer-listen", &self.peer_address]);
        command.arg("--data-dir").arg(&self.data_dir);
        command
    }

    /// Starts the process.
    pub(crate) fn start(&mut self, join: &[&str]) {
        let joined = join.join(",");
        let arguments = if join.is_empty() { [].as_slice() } else { &["--join", &joined] };
        self.start_with(arguments);
    }

    /// Starts the process with further arguments.
    pub(crate) fn start_with(&mut self, arguments: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).expect("the log can be opened");
        let mut command = self.command();
        command.args(arguments);
        command.arg("--exit-with-stdin").env("QUORATE_LOG", "info").stdin(Stdio::piped());
        command.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        self.child = Some(command.spawn().expect("the program can be started"));
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    pub(crate) fn connection(&self) -> Connection {
        Connection::to(&self.client_address)
    }

    /// SIGKILL, which no process can catch.
    pub(crate) fn kill(&mut self) {
        self.begin_kill();
        self.end_kill();
    }

    /// The signal alone, so that several nodes die at once.
    pub(crate) fn begin_kill(&mut self) {
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name));
        child.kill().expect("a child can be killed");
    }

    /// Waits for what [`Self::begin_kill`] began.
    pub(crate) fn end_kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.wait().expect("a child can be waited for");
        }
    }

    /// Any other signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a child has an id");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Waits until the process ends by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let child = self.child.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name));
        let status = until(&format!("the end of {}", self.name), limit, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        self.child = None;
        status
    }

    /// How it ended, if it did without being asked.
    pub(crate) fn unexpected_end(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL_BYTES)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(tail)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
