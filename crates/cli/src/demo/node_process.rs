//! One node of a demo, as a child process.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::ports::NodePorts;

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) name: String,
    pub(crate) client_address: String,
    pub(crate) peer_address: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) log: PathBuf,
    /// What starts it, without the program.
    arguments: Vec<OsString>,
    child: Child,
    status: Option<ExitStatus>,
}

/// How much of a log is shown when a node does not start.
const MAX_TAIL_LINES: usize = 15;
const MAX_TAIL_BYTES: u64 = 8192;

/// Settings of the demo's nodes that whoever starts it may choose; all others would be the same for all nodes, and wrong.
const INHERITED_SETTINGS: [&str; 2] = ["QUORATE_LOG", "QUORATE_LOG_FORMAT"];

impl NodeProcess {
    /// Starts node `n<number>` in `folder`; without a node to join, it starts a cluster.
    pub(crate) fn start(
        number: usize,
        ports: NodePorts,
        folder: &Path,
        (join, io_threads): (Option<&str>, usize),
    ) -> io::Result<Self> {
        let name = format!("n{number}");
        let client_address = format!("127.0.0.1:{}", ports.client);
        let peer_address = format!("127.0.0.1:{}", ports.peer);
        let (data_dir, log) = (folder.join(&name), folder.join(format!("{name}.log")));
        let mut arguments: Vec<OsString> = ["server", "--name", &name, "--data-dir"].map(OsString::from).to_vec();
        arguments.push(data_dir.clone().into());
        arguments.extend(["--listen", &client_address, "--peer-listen", &peer_address].map(OsString::from));
        arguments.extend(["--io-threads".into(), io_threads.to_string().into()]);
        arguments.extend(join.into_iter().flat_map(|address| ["--join".into(), address.into()]));
        let child = spawn(&arguments, &log)?;
        Ok(Self { name, client_address, peer_address, data_dir, log, arguments, child, status: None })
    }

    /// The command that starts this node, to be pasted into a shell.
    pub(crate) fn command_line(&self, program: &str) -> String {
        let words = self.arguments.iter().map(|word| shell_word(&word.to_string_lossy()));
        std::iter::once(program.to_owned()).chain(words).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Asks it to end.
    pub(crate) fn terminate(&mut self) {
        if self.exit_status().is_none()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            // It may be gone since; then there is nothing left to ask.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    pub(crate) fn kill(&mut self) {
        if self.exit_status().is_none() {
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let tail = read_tail(&self.log).unwrap_or_default();
        let lines: Vec<&str> = tail.lines().collect();
        lines[lines.len().saturating_sub(MAX_TAIL_LINES)..].join("\n")
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(arguments: &[OsString], log: &Path) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    for (setting, _) in std::env::vars_os() {
        let setting = setting.to_string_lossy();
        if setting.starts_with("QUORATE_") && !INHERITED_SETTINGS.contains(&setting.as_ref()) {
            command.env_remove(setting.as_ref());
        }
    }
    if std::env::var_os("QUORATE_LOG").is_none() {
        // Into a file that only somebody with a question reads.
        command.env("QUORATE_LOG", "info");
    }
    command
        .args(arguments)
        .arg("--exit-with-stdin")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C is for the demo, which then stops the nodes one way or the other.
        .process_group(0)
        .spawn()
}

fn read_tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

/// A word as a POSIX shell reads it.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:,=@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::shell_word;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        assert_eq!(shell_word("/tmp/quorate-demo-x/n1"), "/tmp/quorate-demo-x/n1");
        assert_eq!(shell_word("my data"), "'my data'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
