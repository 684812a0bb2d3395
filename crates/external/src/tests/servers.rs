//! Real servers, started on loopback in folders of their own.
//!
//! What is not installed makes its test say so and pass; with `QUORATE_REQUIRE_SERVERS=1` it fails.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// How long a server may take to begin.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server, ended with its folder when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Option<Child>,
    command: Command,
    pub(super) port: u16,
    pub(super) folder: TempDir,
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where a program is, by `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Says that something is not installed.
fn missing<T>(what: &str) -> Option<T> {
    assert!(std::env::var_os("QUORATE_REQUIRE_SERVERS").is_none(), "{what} is not installed");
    eprintln!("skipped: {what} is not installed");
    None
}

impl Server {
    fn start(folder: TempDir, port: u16, command: Command) -> Self {
        let mut server = Self { child: None, command, port, folder };
        server.begin();
        server
    }

    /// Starts it, or starts it again on the same port with what it had.
    pub(super) fn begin(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        self.command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.child = Some(self.command.spawn().unwrap());
        for _ in 0..PATIENCE.as_millis() / 50 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{:?} ended: {}", self.command, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{:?} does not begin: {}", self.command, self.log());
    }

    /// Ends it at once, and keeps what it has.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its whole group: some start others, and each was put into one of its own.
            let group = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
            child.wait().ok();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Redis, which keeps what it has over a kill.
pub(super) fn redis(password: &str) -> Option<Server> {
    let Some(program) = find("redis-server") else { return missing("redis-server") };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "yes"]);
    command.args(["--appendfsync", "always", "--requirepass", password, "--dir"]).arg(folder.path());
    Some(Server::start(folder, port, command))
}

/// PostgreSQL with a user `quorate`. It does not run as root, and is then run as its own user.
pub(super) fn postgres(password: &str) -> Option<Server> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let bin = versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").is_file());
    let Some(bin) = bin else { return missing("postgresql") };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let is_root = rustix::process::geteuid().is_root();
    let run_as_postgres = |program: &Path| {
        let mut command = if is_root { Command::new("setpriv") } else { Command::new(program) };
        if is_root {
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]).arg(program);
        }
        command.current_dir("/");
        command
    };
    let (data, secret) = (folder.path().join("data"), folder.path().join("password"));
    std::fs::write(&secret, password).unwrap();
    if is_root {
        let done = Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder.path()).status().unwrap();
        assert!(done.success());
    }
    let mut init = run_as_postgres(&bin.join("initdb"));
    init.args(["--username", "quorate", "--auth", "scram-sha-256", "--no-sync", "--encoding", "UTF8", "--locale", "C"]);
    let made = init.arg("--pwfile").arg(&secret).arg("--pgdata").arg(&data).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = run_as_postgres(&bin.join("postgres"));
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k"]).arg(folder.path());
    Some(Server::start(folder, port, command))
}

/// An S3 server in memory, with a bucket `bucket`.
pub(super) fn moto() -> Option<Server> {
    let Some(program) = find("moto_server") else { return missing("moto_server (PyPI moto[s3,server])") };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let server = Server::start(folder, port, command);
    request(port, "PUT /bucket HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    Some(server)
}

/// Azure's blobs, with a container `container`.
pub(super) fn azurite() -> Option<Server> {
    let Some(program) = find("azurite-blob") else { return missing("azurite-blob (npm azurite)") };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut command = Command::new(program);
    command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--skipApiVersionCheck", "--silent"]);
    command.args(["--disableProductStyleUrl", "--location"]).arg(folder.path());
    Some(Server::start(folder, port, command))
}

/// A WebDAV server with a user.
pub(super) fn webdav(user: &str, password: &str) -> Option<Server> {
    let Some(program) = find("wsgidav") else { return missing("wsgidav (PyPI wsgidav and cheroot)") };
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let files = folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let config = format!(
        "host: 127.0.0.1\nport: {port}\nserver: cheroot\nprovider_mapping:\n  \"/\": \"{}\"\nhttp_authenticator:\n  \
         accept_basic: true\n  accept_digest: false\n  default_to_digest: false\nsimple_dc:\n  user_mapping:\n    \"*\":\n      \
         \"{user}\":\n        password: \"{password}\"\n",
        files.display()
    );
    let path = folder.path().join("wsgidav.yaml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(program);
    command.arg("--config").arg(&path);
    Some(Server::start(folder, port, command))
}

/// Sends one request as it is, and gives back what is answered.
fn request(port: u16, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    std::io::read_to_string(stream).unwrap_or_default()
}
