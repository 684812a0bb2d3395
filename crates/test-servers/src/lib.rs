//! Stores that others wrote, started on loopback in folders of their own, for the tests of stores outside: those of one store
//! alone, and those of whole nodes. Beside them an HTTP service in the test's own process ([`Items`]).
//!
//! What is not installed is `None`, with the reason printed, so that its test passes; with `QUORATE_REQUIRE_SERVERS=1` it fails.
//! What goes wrong beyond that is a panic: whoever starts servers is a test.
//!
//! What it must not know: what a store is to Quorate.

mod certificates;
mod items;
mod ports;

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

pub use certificates::Certificates;
pub use items::{Http, ItemMap, Items, answer};
pub use ports::free_ports;

/// How long a server may take to begin.
const PATIENCE: Duration = Duration::from_mins(1);

/// The key that every Azurite has.
pub const AZURITE_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A token for every Azurite, made once with that key and good until 2099: to make a container with.
const AZURITE_TOKEN: &str =
    "sv=2019-02-02&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00%3A00%3A00Z&sig=rozzYs%2Bf1%2Fw%2FnIBXj2YYuCjiGm7I%2B3P9hBpamTwq9as%3D";

/// A server, ended with its folder when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    command: Command,
    /// A request that is sent when it has begun, to make a bucket with.
    first_request: Option<String>,
    /// Where it answers, on loopback.
    pub port: u16,
    /// What it keeps, and its log.
    pub folder: TempDir,
}

/// Where a program is, by `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[expect(clippy::print_stderr, reason = "what a test prints is caught by its harness")]
fn tell(what: &str) {
    eprintln!("skipped: {what} is not installed");
}

/// Says that something is not installed.
fn missing<T>(what: &str) -> Option<T> {
    assert!(std::env::var_os("QUORATE_REQUIRE_SERVERS").is_none(), "{what} is not installed");
    tell(what);
    None
}

impl Server {
    fn start(folder: TempDir, port: u16, command: Command, first_request: Option<&str>) -> Self {
        let first_request = first_request
            .map(|line| format!("{line} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
        let mut server = Self { child: None, command, first_request, port, folder };
        server.begin();
        server
    }

    /// Starts it, or starts it again on the same port: with what it had, but for an S3 server in memory. Blocks until it
    /// answers.
    pub fn begin(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("a log can be written");
        let also_log = log.try_clone().expect("a file can be shared");
        self.command.stdin(Stdio::null()).stdout(also_log).stderr(log).process_group(0);
        self.child = Some(self.command.spawn().expect("the server can be started"));
        for _ in 0..PATIENCE.as_millis() / 50 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                if let Some(first) = &self.first_request {
                    request(self.port, first);
                }
                return;
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child can be asked"));
            assert!(ended.is_none(), "{:?} ended: {}", self.command, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{:?} does not begin: {}", self.command, self.log());
    }

    /// Ends it at once, and keeps what is on its disk.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its whole group: some start others, and each was put into one of its own.
            kill_process_group(Pid::from_child(&child), Signal::KILL).ok();
            child.wait().ok();
        }
    }

    /// Stops it where it is: connections are made, and nobody answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    /// It, and all that it started, in whatever group that is: PostgreSQL has one for each connection.
    fn signal_all(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        let parents = parents();
        let mut family = vec![child.id()];
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            family.extend(parents.iter().filter(|(_, known)| *known == parent).map(|(process, _)| *process));
            at += 1;
        }
        for process in family.iter().filter_map(|process| Pid::from_raw(process.cast_signed())) {
            kill_process(process, signal).ok();
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

/// A folder and a port.
fn place() -> (TempDir, u16) {
    (tempfile::tempdir().expect("a temporary folder can be made"), free_ports(1)[0])
}

/// Every process of the machine, and who started it.
fn parents() -> Vec<(u32, u32)> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let parent = |process: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // Behind the program's name, which may hold anything: the state, and the parent.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes.filter_map(|process| Some((process, parent(process)?))).collect()
}

/// Redis, which keeps what it has over a kill.
pub fn redis(password: &str) -> Option<Server> {
    redis_with(password, |port| vec!["--port".to_owned(), port.to_string()])
}

/// The same, which speaks TLS alone.
pub fn redis_encrypted(password: &str, certificates: &Certificates) -> Option<Server> {
    let (certificate, key) = (certificates.certificate().display().to_string(), certificates.key().display().to_string());
    let authority = certificates.authority().display().to_string();
    redis_with(password, |port| {
        let port = port.to_string();
        let arguments = ["--port", "0", "--tls-port", &port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
        let more = ["--tls-ca-cert-file", &authority, "--tls-auth-clients", "no"];
        arguments.into_iter().chain(more).map(str::to_owned).collect()
    })
}

fn redis_with(password: &str, listens: impl Fn(u16) -> Vec<String>) -> Option<Server> {
    let Some(program) = find("redis-server") else { return missing("redis-server") };
    let (folder, port) = place();
    let mut command = Command::new(program);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]).args(listens(port));
    command.args(["--appendfsync", "always", "--requirepass", password, "--dir"]).arg(folder.path());
    Some(Server::start(folder, port, command, None))
}

/// PostgreSQL with a user `quorate`. It does not run as root, and is then run as its own user.
pub fn postgres(password: &str) -> Option<Server> {
    postgres_with(password, None)
}

/// The same, which lets nobody in without TLS.
pub fn postgres_encrypted(password: &str, certificates: &Certificates) -> Option<Server> {
    postgres_with(password, Some(certificates))
}

fn postgres_with(password: &str, certificates: Option<&Certificates>) -> Option<Server> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let bin = versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").is_file());
    let Some(bin) = bin else { return missing("postgresql") };
    let (folder, port) = place();
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
    std::fs::write(&secret, password).expect("a file can be written");
    let (certificate, key) = (folder.path().join("server.pem"), folder.path().join("server.key"));
    if let Some(made) = certificates {
        // It wants a key of its own, which it alone can read.
        std::fs::copy(made.certificate(), &certificate).expect("a file can be copied");
        std::fs::copy(made.key(), &key).expect("a file can be copied");
    }
    if is_root {
        let done = Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder.path()).status();
        assert!(done.expect("chown can be called").success());
    }
    let mut init = run_as_postgres(&bin.join("initdb"));
    init.args(["--username", "quorate", "--auth", "scram-sha-256", "--no-sync", "--encoding", "UTF8", "--locale", "C"]);
    let made = init.arg("--pwfile").arg(&secret).arg("--pgdata").arg(&data).output().expect("initdb can be called");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut command = run_as_postgres(&bin.join("postgres"));
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k"]).arg(folder.path());
    if certificates.is_some() {
        let rules = data.join("pg_hba.conf");
        let plain = std::fs::read_to_string(&rules).expect("it was made");
        std::fs::write(&rules, plain.replace("\nhost ", "\nhostssl ")).expect("a file can be written");
        let setting = |name: &str, path: &Path| format!("{name}={}", path.display());
        command.args(["-c", "ssl=on", "-c", &setting("ssl_cert_file", &certificate), "-c", &setting("ssl_key_file", &key)]);
    }
    Some(Server::start(folder, port, command, None))
}

/// An S3 server in memory, with a bucket `bucket`. It takes requests of anybody, see [`moto_asks_who`].
pub fn moto() -> Option<Server> {
    let Some(program) = find("moto_server") else { return missing("moto_server (PyPI moto[s3,server])") };
    let (folder, port) = place();
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    Some(Server::start(folder, port, command, Some("PUT /bucket")))
}

/// Whether this moto looks at who asks. Those that it knows are none; and it checks signatures in a way of its own, so that
/// only whether strangers are turned away can be tested with it.
pub fn moto_asks_who(server: &Server, asks: bool) {
    let count = if asks { "0" } else { "inf" };
    let body = format!("Content-Length: {}\r\n\r\n{count}", count.len());
    let head = "POST /moto-api/reset-auth HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    let answered = request(server.port, &format!("{head}{body}"));
    assert!(answered.contains("\"ok\""), "{answered}");
}

/// Azure's blobs, with a container `container`.
pub fn azurite() -> Option<Server> {
    let Some(program) = find("azurite-blob") else { return missing("azurite-blob (npm azurite)") };
    let (folder, port) = place();
    let mut command = Command::new(program);
    command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--skipApiVersionCheck", "--silent"]);
    command.args(["--disableProductStyleUrl", "--location"]).arg(folder.path());
    let container = format!("PUT /devstoreaccount1/container?restype=container&{AZURITE_TOKEN}");
    Some(Server::start(folder, port, command, Some(&container)))
}

/// A WebDAV server with a user.
pub fn webdav(user: &str, password: &str) -> Option<Server> {
    let Some(program) = find("wsgidav") else { return missing("wsgidav (PyPI wsgidav and cheroot)") };
    let (folder, port) = place();
    let files = folder.path().join("files");
    std::fs::create_dir(&files).expect("a folder can be made");
    let config = format!(
        "host: 127.0.0.1\nport: {port}\nserver: cheroot\nprovider_mapping:\n  \"/\": \"{}\"\nhttp_authenticator:\n  \
         accept_basic: true\n  accept_digest: false\n  default_to_digest: false\nsimple_dc:\n  user_mapping:\n    \"*\":\n      \
         \"{user}\":\n        password: \"{password}\"\n",
        files.display()
    );
    let path = folder.path().join("wsgidav.yaml");
    std::fs::write(&path, config).expect("a file can be written");
    let mut command = Command::new(program);
    command.arg("--config").arg(&path);
    Some(Server::start(folder, port, command, None))
}

/// Sends one request as it is, and gives back what is answered.
fn request(port: u16, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server answers");
    stream.write_all(text.as_bytes()).expect("the server listens");
    std::io::read_to_string(stream).unwrap_or_default()
}
