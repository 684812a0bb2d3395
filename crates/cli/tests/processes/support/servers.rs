//! Servers that others wrote, as tests need them: Debian's ZooKeeper, and dnsmasq. Each is `None`, with the reason printed, where
//! it is not installed, unless `QUORATE_REQUIRE_SERVERS` is set.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use quorate_test_servers::free_ports;
use rustix::process::{Pid, Signal, kill_process};

use super::time::{pause, tell, until};

/// How long a server may take to start; Java takes a while on a machine that does other things too.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Where Debian's package puts it, with what it needs named inside.
const ZOOKEEPER_JAR: &str = "/usr/share/java/zookeeper.jar";

/// A ZooKeeper server. Dropping it kills it.
pub(crate) struct ZooKeeper {
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl ZooKeeper {
    /// A running server with its data in `folder`.
    pub(crate) fn start(folder: &Path) -> Option<Self> {
        if !Path::new(ZOOKEEPER_JAR).exists() {
            return missing("ZooKeeper", "zookeeper");
        }
        let folder = folder.join("zookeeper");
        let port = free_ports(1)[0];
        fs::create_dir_all(folder.join("data")).expect("a folder can be made");
        // Sessions of 1 to 10 s are granted.
        let settings = [
            "tickTime=500".to_owned(),
            format!("dataDir={}", folder.join("data").display()),
            format!("clientPort={port}"),
            "clientPortAddress=127.0.0.1".to_owned(),
            "admin.enableServer=false".to_owned(),
            "4lw.commands.whitelist=srvr".to_owned(),
        ];
        fs::write(folder.join("zoo.cfg"), settings.join("\n")).expect("a file can be written");
        let mut server = Self { folder, port, child: None };
        server.begin();
        Some(server)
    }

    /// Kills the server.
    pub(crate) fn stop(&mut self) {
        end(self.child.take());
    }

    /// Starts it again, with the data that it has.
    pub(crate) fn begin(&mut self) {
        let mut command = Command::new("java");
        command.args(["-Xmx96m", "-cp", ZOOKEEPER_JAR, "org.apache.zookeeper.server.quorum.QuorumPeerMain"]);
        command.arg(self.folder.join("zoo.cfg"));
        self.child = Some(spawn(command, &self.folder.join("log")));
        until("ZooKeeper answers", START_LIMIT, || match self.state() {
            Ok(answer) if answer.contains("Mode: standalone") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// What it says of itself: a server that has begun to listen may not serve yet.
    fn state(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"srvr")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The specification for a path in it.
    pub(crate) fn spec(&self, path: &str) -> String {
        format!("zk://127.0.0.1:{}{path}", self.port)
    }

    /// Calls ZooKeeper's own client, and returns what it prints.
    pub(crate) fn call(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("java");
        command.args(["-Xmx64m", "-cp", ZOOKEEPER_JAR, "org.apache.zookeeper.ZooKeeperMain", "-server"]);
        command.arg(format!("127.0.0.1:{}", self.port)).args(arguments).stdin(Stdio::null());
        let Output { stdout, stderr, .. } = command.output().expect("java can be called");
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A dnsmasq that knows the domain `test` and nothing else. Dropping it kills it.
pub(crate) struct DnsServer {
    hosts: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl DnsServer {
    /// A running server with its files in `folder`, which answers with these hosts, one `IP NAME` a line, and these SRV records,
    /// as `NAME,TARGET,PORT`.
    pub(crate) fn start(folder: &Path, hosts: &str, services: &[String]) -> Option<Self> {
        if Command::new("dnsmasq").arg("--version").output().is_err() {
            return missing("dnsmasq", "dnsmasq-base");
        }
        let (file, port) = (folder.join("hosts"), free_ports(1)[0]);
        fs::write(&file, hosts).expect("a file can be written");
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--local=/test/"]);
        command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--user=", "--group=", "--pid-file="]);
        command.args([format!("--port={port}"), format!("--addn-hosts={}", file.display())]);
        command.args(services.iter().map(|service| format!("--srv-host={service}")));
        let child = Some(spawn(command, &folder.join("dnsmasq.log")));
        let server = Self { hosts: file, port, child };
        until("dnsmasq answers", START_LIMIT, || TcpStream::connect(server.address()).map(drop).map_err(|e| e.to_string()));
        Some(server)
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Answers with these hosts from soon on.
    pub(crate) fn set_hosts(&self, hosts: &str) {
        fs::write(&self.hosts, hosts).expect("a file can be written");
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a child has an id");
        kill_process(pid, Signal::HUP).expect("a child can be signalled");
        pause(200);
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        end(self.child.take());
    }
}

fn missing<T>(what: &str, package: &str) -> Option<T> {
    assert!(std::env::var_os("QUORATE_REQUIRE_SERVERS").is_none(), "{what} is not installed: apt-get install {package}");
    tell(format_args!("skipped: {what} is not installed (apt-get install {package})"));
    None
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("the log can be opened");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
    command.spawn().expect("the server can be started")
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}
