//! One node as a child process.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use quorate_test_servers::free_ports;
use rustix::process::{Pid, Signal, kill_process};

use super::http::Connection;
use super::time::until;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_quorate");

/// How much of a log is shown when a test fails.
const MAX_TAIL_BYTES: u64 = 12 << 10;

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

/// A node's folder, addresses and, while it runs, its process. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) name: String,
    pub(crate) client_address: String,
    pub(crate) peer_address: String,
    pub(crate) data_dir: PathBuf,
    log: PathBuf,
    /// What its environment has beside what all have.
    variables: Vec<(&'static str, PathBuf)>,
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
            variables: Vec::new(),
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

    /// Sets a variable in its environment from its next start on.
    pub(crate) fn set_variable(&mut self, name: &'static str, value: PathBuf) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value));
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
        command.args(arguments).envs(self.variables.iter().cloned());
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
