//! What can be set on a node: one typed struct, its defaults, its limits.
//!
//! Values come in layers (flag, environment, file, default), each a [`ConfigLayer`]; what wins is folded into a [`ServerConfig`].
//! Nothing here opens a socket or a data folder, so a valid configuration may still fail to start.

mod layer;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use quorate_api::key::{MAX_NAME_BYTES, is_node_name};
use quorate_api::quantity::format_bytes;
use quorate_discovery::{Spec, split_address};
use quorate_external::AllowedCredentials;
use serde::{Deserialize, Serialize};

pub use layer::{CompatLayer, ConfigLayer};

pub use crate::rest::CompatPostKey;

/// The settings of one node.
///
/// *Life cycle*: made once by [`ConfigLayer::into_config`], checked by [`ServerConfig::validate`], then never changed.
/// Heartbeat and election times, and the limits of values and keyspaces, are to be the same on all nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The node's unique name: 1 to 63 of `A-Z a-z 0-9 . _ -`, the first a letter or digit. Required.
    pub name: String,
    /// The folder of everything that this node keeps; made if it is not there. Required.
    pub data_dir: PathBuf,
    /// Where clients are listened for, `host:port`.
    pub listen: String,
    /// Where peers are listened for, `host:port`.
    pub peer_listen: String,
    /// Where clients find this node, `host:port`; the same as `listen` unless set.
    pub advertise: Option<String>,
    /// Where peers find this node, `host:port`; the same as `peer_listen` unless set.
    pub peer_advertise: Option<String>,
    /// Where to look for other nodes, as [`Spec`]s, whose cluster an empty data folder joins; without any, it starts a new one.
    pub join: Vec<String>,
    /// With how many nodes, this one among them, an empty data folder begins a new cluster together where `join` finds no
    /// cluster; the same number on all of them.
    pub expect: Option<u32>,
    /// The DNS servers that `join` asks, `ip:port`; without any, those of the system.
    pub dns_servers: Vec<String>,
    /// Says that an empty data folder shall start a new cluster although the node listens beyond loopback.
    pub new_cluster: bool,
    /// Names of this node that the `Host` header may carry, beside its own addresses and `localhost`.
    pub allow_hosts: Vec<String>,
    /// Folders, as absolute paths, below which keyspaces may keep pairs in files (engines `fs` and `sqlite`); without any
    /// there are no such keyspaces.
    pub fs_roots: Vec<PathBuf>,
    /// Environment variables that keyspaces may have handed to stores outside as credentials: names, or beginnings of names with
    /// `*` behind; none by default.
    pub credentials_env: Vec<String>,
    /// Folders, as absolute paths, below which files with such credentials lie; none by default.
    pub credentials_dirs: Vec<PathBuf>,
    /// The largest value, in bytes.
    pub max_value_bytes: u64,
    /// Threads that serve connections; without it, one for each processor. One more carries out what is asked, another writes the
    /// log.
    pub io_threads: Option<usize>,
    /// Client connections at once; further ones are closed when they are accepted.
    pub max_connections: usize,
    /// How much disk the log should take, in bytes; beyond it, durable points are forced and the log is purged.
    pub max_log_bytes: u64,
    /// Keys and values of one keyspace, in bytes, unless it has a limit of its own; beyond it, writes are answered 507.
    pub max_keyspace_bytes: u64,
    /// What `POST /key` does with a key that is there already.
    pub compat_post_key: CompatPostKey,
    /// Which log lines are printed: a level, or a list such as `info,quorate_node=debug`.
    pub log_filter: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Milliseconds between a leader's heartbeats.
    pub heartbeat_ms: u64,
    /// Milliseconds that a follower waits for its leader before it stands for election; it waits up to twice as long.
    pub election_ms: u64,
    /// Milliseconds that a stop may take, from SIGTERM to the end; what is not done by then is left.
    pub stop_timeout_ms: u64,
    /// Milliseconds of these that a node goes on serving after it has said that it is not ready, for load balancers that ask it.
    pub stop_delay_ms: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            data_dir: PathBuf::new(),
            listen: "127.0.0.1:2379".to_owned(),
            peer_listen: "127.0.0.1:2380".to_owned(),
            advertise: None,
            peer_advertise: None,
            join: Vec::new(),
            expect: None,
            dns_servers: Vec::new(),
            new_cluster: false,
            allow_hosts: Vec::new(),
            fs_roots: Vec::new(),
            credentials_env: Vec::new(),
            credentials_dirs: Vec::new(),
            max_value_bytes: 3 << 19,
            io_threads: None,
            max_connections: 20_000,
            max_log_bytes: 1 << 30,
            max_keyspace_bytes: 1 << 30,
            compat_post_key: CompatPostKey::Create,
            log_filter: "warn".to_owned(),
            log_format: LogFormat::Text,
            heartbeat_ms: 100,
            election_ms: 1000,
            stop_timeout_ms: 30_000,
            stop_delay_ms: 0,
        }
    }
}

impl ServerConfig {
    /// Checks everything that can be checked without touching disk or network; the error is one line for people.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_identity()?;
        self.validate_addresses()?;
        self.validate_start()?;
        self.validate_limits()
    }

    /// Where clients find this node, `host:port`.
    pub fn client_address(&self) -> &str {
        self.advertise.as_deref().unwrap_or(&self.listen)
    }

    /// Where peers find this node, `host:port`.
    pub fn peer_address(&self) -> &str {
        self.peer_advertise.as_deref().unwrap_or(&self.peer_listen)
    }

    /// Whether neither clients nor peers can come from another machine.
    pub fn is_loopback_only(&self) -> bool {
        let is_loopback = |address: &str| {
            split_address(address).is_ok_and(|(host, _)| {
                host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
            })
        };
        is_loopback(&self.listen) && is_loopback(&self.peer_listen)
    }

    /// Where to look for other nodes.
    pub fn join_specs(&self) -> Result<Vec<Spec>, ConfigError> {
        let read = |text: &String| text.parse().or_else(|error| invalid("join", format!("holds {error}")));
        self.join.iter().map(read).collect()
    }

    /// The DNS servers to ask.
    pub fn dns_addresses(&self) -> Result<Vec<SocketAddr>, ConfigError> {
        let wrong = |text: &String| format!("holds `{text}`: a DNS server is IP:PORT, as in 127.0.0.1:53");
        let read = |text: &String| text.parse().or_else(|_| invalid("dns_servers", wrong(text)));
        self.dns_servers.iter().map(read).collect()
    }

    fn validate_identity(&self) -> Result<(), ConfigError> {
        if self.name.is_empty() {
            return invalid("name", "is missing: give this node a unique name, as in --name n1");
        }
        if !is_node_name(&self.name) {
            let allowed = format!("is `{}`: 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ -, the first a letter or digit", self.name);
            return invalid("name", allowed);
        }
        if self.data_dir.as_os_str().is_empty() {
            return invalid("data_dir", "is missing: name the folder of this node's data, as in --data-dir /var/lib/quorate");
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        let set = [
            ("listen", Some(&self.listen)),
            ("peer_listen", Some(&self.peer_listen)),
            ("advertise", self.advertise.as_ref()),
            ("peer_advertise", self.peer_advertise.as_ref()),
        ];
        for (key, address) in set.into_iter().filter_map(|(key, address)| Some((key, address?))) {
            split_address(address).or_else(|reason| invalid(key, reason))?;
        }
        self.join_specs()?;
        self.dns_addresses()?;
        if self.listen == self.peer_listen {
            return invalid("peer_listen", format!("is the same as listen, {}: clients and peers need a port each", self.listen));
        }
        let found_at = [("advertise", self.client_address()), ("peer_advertise", self.peer_address())];
        match found_at.into_iter().find(|(_, address)| is_unspecified(address)) {
            Some((key, address)) => invalid(key, format!("would be {address}, where nobody finds this node: name host and port")),
            None => Ok(()),
        }
    }

    fn validate_start(&self) -> Result<(), ConfigError> {
        if self.new_cluster && !self.join.is_empty() {
            return invalid("new_cluster", "contradicts join: a node starts a cluster or joins one");
        }
        if let Some(expect) = self.expect {
            within("expect", u64::from(expect), 1, MAX_EXPECT)?;
            if self.new_cluster {
                return invalid("expect", "contradicts new_cluster: a node starts a cluster alone or with others");
            }
            if expect > 1 && self.join.is_empty() {
                return invalid("expect", "needs join, which says where the other nodes are to be found");
            }
        }
        let is_host = |host: &String| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if let Some(host) = self.allow_hosts.iter().find(|host| !is_host(host)) {
            return invalid("allow_hosts", format!("holds `{host}`, which is no host name"));
        }
        for (setting, folders) in [("fs_roots", &self.fs_roots), ("credentials_dirs", &self.credentials_dirs)] {
            if let Some(folder) = folders.iter().find(|folder| !folder.is_absolute()) {
                return invalid(setting, format!("holds `{}`: folders are named by absolute paths", folder.display()));
            }
        }
        for variable in &self.credentials_env {
            if let Some(problem) = AllowedCredentials::problem_of(variable) {
                return invalid("credentials_env", format!("holds `{variable}`, which {problem}"));
            }
        }
        if self.log_filter.trim().is_empty() {
            return invalid(
                "log",
                "is empty: name a level (error, warn, info, debug, trace) or a list such as info,quorate_node=debug",
            );
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), ConfigError> {
        bytes_within("max_value_bytes", self.max_value_bytes, 1, MAX_MAX_VALUE_BYTES)?;
        bytes_within("max_log_bytes", self.max_log_bytes, MIN_MAX_LOG_BYTES, u64::MAX)?;
        bytes_within("max_keyspace_bytes", self.max_keyspace_bytes, self.max_value_bytes, u64::MAX)?;
        within("io_threads", self.io_threads.unwrap_or(1) as u64, 1, MAX_IO_THREADS)?;
        within("max_connections", self.max_connections as u64, 1, MAX_MAX_CONNECTIONS)?;
        within("heartbeat_ms", self.heartbeat_ms, MIN_HEARTBEAT_MS, MAX_HEARTBEAT_MS)?;
        within("election_ms", self.election_ms, self.heartbeat_ms * MIN_BEATS_PER_ELECTION, MAX_ELECTION_MS)?;
        within("stop_timeout_ms", self.stop_timeout_ms, MIN_STOP_TIMEOUT_MS, MAX_STOP_TIMEOUT_MS)?;
        // What is left is for handing over and for requests in flight.
        within("stop_delay_ms", self.stop_delay_ms, 0, self.stop_timeout_ms / 2)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Why a configuration cannot be used; shown as one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value is not of the right type.
    #[error("{}, line {line}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The file sets something that does not exist.
    #[error("{}: unknown key `{key}`; the nearest known one is `{nearest}`", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// As it is written there, sections joined by dots.
        key: String,
        /// What was probably meant.
        nearest: String,
    },
    /// A value that cannot be.
    #[error("{key} {reason}")]
    Invalid {
        /// The setting, as it is called in the file.
        key: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// Together with key and framing it must fit into one frame between peers (24 MiB).
const MAX_MAX_VALUE_BYTES: u64 = 8 << 20;

/// Four segments of the log: less, and every purge waits for the segment in use.
const MIN_MAX_LOG_BYTES: u64 = 128 << 20;

/// More nodes than a cluster begins with in one place.
const MAX_EXPECT: u64 = 100;

/// More descriptors than any usual system grants a process.
const MAX_MAX_CONNECTIONS: u64 = 1_000_000;
const MAX_IO_THREADS: u64 = 1024;

const MIN_HEARTBEAT_MS: u64 = 10;
const MAX_HEARTBEAT_MS: u64 = 10_000;

/// A follower forgives its leader this many lost heartbeats at least; below that, one lost packet begins an election.
const MIN_BEATS_PER_ELECTION: u64 = 5;

const MAX_ELECTION_MS: u64 = 60_000;
const _: () = assert!(MAX_HEARTBEAT_MS * MIN_BEATS_PER_ELECTION <= MAX_ELECTION_MS, "every heartbeat has an election time");

/// Leaderships take a moment to hand over; nobody waits longer than an hour for a node that was told to stop.
const MIN_STOP_TIMEOUT_MS: u64 = 1000;
const MAX_STOP_TIMEOUT_MS: u64 = 3_600_000;

fn invalid<T>(key: &'static str, reason: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid { key, reason: reason.into() })
}

fn within(key: &'static str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) { Ok(()) } else { invalid(key, format!("is {value}: it must be {min} to {max}")) }
}

fn bytes_within(key: &'static str, bytes: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if bytes < min {
        return invalid(key, format!("is {}: it must be {} or more", format_bytes(bytes), format_bytes(min)));
    }
    if bytes > max {
        return invalid(key, format!("is {}: it must be {} or less", format_bytes(bytes), format_bytes(max)));
    }
    Ok(())
}

fn is_unspecified(address: &str) -> bool {
    split_address(address).is_ok_and(|(host, _)| host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::{ConfigError, ServerConfig};

    fn config() -> ServerConfig {
        ServerConfig { name: "n1".to_owned(), data_dir: "/data".into(), ..ServerConfig::default() }
    }

    /// The key that `validate` complains about.
    fn rejected(config: &ServerConfig) -> Option<&'static str> {
        match config.validate() {
            Ok(()) => None,
            Err(ConfigError::Invalid { key, reason }) => {
                assert!(!reason.contains('\n'), "one line, not: {reason}");
                Some(key)
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn name_and_folder_are_all_that_must_be_set() {
        assert_eq!(rejected(&config()), None);
        assert_eq!(rejected(&ServerConfig::default()), Some("name"));
        assert_eq!(rejected(&ServerConfig { data_dir: "".into(), ..config() }), Some("data_dir"));
    }

    #[test]
    fn names_are_plain() {
        for name in ["n1", "A.b_c-9", "0", &"n".repeat(63)] {
            assert_eq!(rejected(&ServerConfig { name: name.to_owned(), ..config() }), None, "{name}");
        }
        for name in ["-n", ".", "a b", "a/b", "n\u{e9}", &"n".repeat(64)] {
            assert_eq!(rejected(&ServerConfig { name: name.to_owned(), ..config() }), Some("name"), "{name}");
        }
    }

    #[test]
    fn addresses_and_specifications_are_read() {
        for wrong in ["", "localhost", "a:0", "http://a:1", "dns://a", "zk://a:1"] {
            assert_eq!(rejected(&ServerConfig { join: vec![wrong.to_owned()], ..config() }), Some("join"), "{wrong}");
        }
        assert_eq!(rejected(&ServerConfig { listen: "localhost".to_owned(), ..config() }), Some("listen"));
        let dns_servers = vec!["localhost:53".to_owned()];
        assert_eq!(rejected(&ServerConfig { dns_servers, ..config() }), Some("dns_servers"));
    }

    #[test]
    fn a_node_is_found_where_it_says() {
        let anywhere = ServerConfig { listen: "0.0.0.0:2379".to_owned(), ..config() };
        assert_eq!(rejected(&anywhere), Some("advertise"));
        assert!(!anywhere.is_loopback_only());
        let told = ServerConfig { advertise: Some("db1:2379".to_owned()), ..anywhere };
        assert_eq!((rejected(&told), told.client_address(), told.peer_address()), (None, "db1:2379", "127.0.0.1:2380"));
        assert_eq!(rejected(&ServerConfig { peer_listen: "127.0.0.1:2379".to_owned(), ..config() }), Some("peer_listen"));
        assert!(config().is_loopback_only());
        assert!(
            ServerConfig { listen: "localhost:1".to_owned(), peer_listen: "[::1]:1".to_owned(), ..config() }.is_loopback_only()
        );
    }

    #[test]
    fn a_node_starts_a_cluster_or_joins_one() {
        let both = ServerConfig { new_cluster: true, join: vec!["a:1".to_owned()], ..config() };
        assert_eq!(rejected(&both), Some("new_cluster"));
        let join = vec!["dns://a:1".to_owned()];
        assert_eq!(rejected(&ServerConfig { expect: Some(3), join, ..config() }), None);
        for wrong in [
            ServerConfig { expect: Some(3), ..config() },
            ServerConfig { expect: Some(0), ..config() },
            ServerConfig { expect: Some(1), new_cluster: true, ..config() },
        ] {
            assert_eq!(rejected(&wrong), Some("expect"));
        }
    }

    #[test]
    fn limits_are_within_limits() {
        let cases: [(ServerConfig, &str); 11] = [
            (ServerConfig { max_value_bytes: 0, ..config() }, "max_value_bytes"),
            (ServerConfig { max_value_bytes: 17 << 20, ..config() }, "max_value_bytes"),
            (ServerConfig { max_log_bytes: 1 << 20, ..config() }, "max_log_bytes"),
            (ServerConfig { max_keyspace_bytes: 1000, ..config() }, "max_keyspace_bytes"),
            (ServerConfig { io_threads: Some(0), ..config() }, "io_threads"),
            (ServerConfig { max_connections: 0, ..config() }, "max_connections"),
            (ServerConfig { heartbeat_ms: 1, ..config() }, "heartbeat_ms"),
            (ServerConfig { election_ms: 499, ..config() }, "election_ms"),
            (ServerConfig { log_filter: " ".to_owned(), ..config() }, "log"),
            (ServerConfig { stop_timeout_ms: 0, ..config() }, "stop_timeout_ms"),
            (ServerConfig { stop_delay_ms: 15_001, ..config() }, "stop_delay_ms"),
        ];
        for (config, key) in cases {
            assert_eq!(rejected(&config), Some(key));
        }
        assert_eq!(rejected(&ServerConfig { allow_hosts: vec!["a/b".to_owned()], ..config() }), Some("allow_hosts"));
        assert_eq!(rejected(&ServerConfig { fs_roots: vec!["srv".into()], ..config() }), Some("fs_roots"));
        assert_eq!(rejected(&ServerConfig { credentials_dirs: vec!["etc".into()], ..config() }), Some("credentials_dirs"));
        for (variable, told) in [("S3_*", None), ("S3_*_KEY", Some("credentials_env")), ("", Some("credentials_env"))] {
            let credentials_env = vec![variable.to_owned()];
            assert_eq!(rejected(&ServerConfig { credentials_env, ..config() }), told, "{variable}");
        }
    }
}
