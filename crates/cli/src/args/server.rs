//! The flags of `quorate server`; each has a twin in the environment and one in the file.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use quorate_api::quantity::parse_bytes;
use quorate_discovery::Spec;
use quorate_server::config::{CompatLayer, CompatPostKey, ConfigLayer, LogFormat};

use super::dns::DnsArgs;

const JOIN: &str = "Where other nodes are found, whose cluster to join; once the node has data, only where it registers and \
looks for members that have moved: host:port, \
dns://name:port, dns+srv://name, zk://host:port,host:port/path, file:///path";

/// What the command line and the environment say; clap lets the command line win.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Read settings from this TOML file
    #[arg(long, env = "QUORATE_CONFIG", value_name = "FILE", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// The node's unique name
    #[arg(long, env = "QUORATE_NAME", value_name = "NAME", hide_env_values = true)]
    name: Option<String>,
    /// The folder of everything that this node keeps
    #[arg(long, env = "QUORATE_DATA_DIR", value_name = "DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,
    /// Where clients are listened for [default: 127.0.0.1:2379]
    #[arg(long, env = "QUORATE_LISTEN", value_name = "HOST:PORT", hide_env_values = true)]
    listen: Option<String>,
    /// Where peers are listened for [default: 127.0.0.1:2380]
    #[arg(long, env = "QUORATE_PEER_LISTEN", value_name = "HOST:PORT", hide_env_values = true)]
    peer_listen: Option<String>,
    /// Where clients find this node [default: as --listen]
    #[arg(long, env = "QUORATE_ADVERTISE", value_name = "HOST:PORT", hide_env_values = true)]
    advertise: Option<String>,
    /// Where peers find this node [default: as --peer-listen]
    #[arg(long, env = "QUORATE_PEER_ADVERTISE", value_name = "HOST:PORT", hide_env_values = true)]
    peer_advertise: Option<String>,
    /// Where other nodes are found, whose cluster to join
    #[arg(long, env = "QUORATE_JOIN", value_name = "SPEC,...", hide_env_values = true, help = JOIN)]
    join: Option<Vec<String>>,
    /// Begin a cluster with this many nodes, all started with the same number, unless --join finds one
    #[arg(long, env = "QUORATE_EXPECT", value_name = "N", hide_env_values = true)]
    expect: Option<u32>,
    #[command(flatten)]
    dns: DnsArgs,
    /// Start a new cluster although the node listens beyond loopback
    #[arg(
        long,
        env = "QUORATE_NEW_CLUSTER",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        hide_env_values = true
    )]
    new_cluster: Option<bool>,
    /// Names of this node that requests may carry as Host, beside its addresses and localhost
    #[arg(
        long = "allow-host",
        env = "QUORATE_ALLOW_HOSTS",
        value_name = "HOST,...",
        value_delimiter = ',',
        hide_env_values = true
    )]
    allow_hosts: Option<Vec<String>>,
    /// Folders below which keyspaces may keep their pairs in files; without any, none may
    #[arg(long = "fs-root", env = "QUORATE_FS_ROOTS", value_name = "DIR,...", value_delimiter = ',', hide_env_values = true)]
    fs_roots: Option<Vec<PathBuf>>,
    /// Environment variables that stores outside may be given as credentials, as NAME or PREFIX*; without any, none are
    #[arg(long, env = "QUORATE_CREDENTIALS_ENV", value_name = "NAME,...", value_delimiter = ',', hide_env_values = true)]
    credentials_env: Option<Vec<String>>,
    /// Folders below which files with such credentials lie; without any, none are read
    #[arg(
        long = "credentials-dir",
        env = "QUORATE_CREDENTIALS_DIRS",
        value_name = "DIR,...",
        value_delimiter = ',',
        hide_env_values = true
    )]
    credentials_dirs: Option<Vec<PathBuf>>,
    /// The largest value [default: 1.5MiB]
    #[arg(long, env = "QUORATE_MAX_VALUE_BYTES", value_name = "BYTES", value_parser = parse_bytes, hide_env_values = true)]
    max_value_bytes: Option<u64>,
    /// Threads that serve connections [default: one for each processor]; fewer where several nodes share a machine
    #[arg(long, env = "QUORATE_IO_THREADS", value_name = "N", hide_env_values = true)]
    io_threads: Option<usize>,
    /// Client connections at once [default: 20000]
    #[arg(long, env = "QUORATE_MAX_CONNECTIONS", value_name = "N", hide_env_values = true)]
    max_connections: Option<usize>,
    /// How much disk the log should take [default: 1GiB]
    #[arg(long, env = "QUORATE_MAX_LOG_BYTES", value_name = "BYTES", value_parser = parse_bytes, hide_env_values = true)]
    max_log_bytes: Option<u64>,
    /// Keys and values of one keyspace, unless it has its own limit [default: 1GiB]
    #[arg(long, env = "QUORATE_MAX_KEYSPACE_BYTES", value_name = "BYTES", value_parser = parse_bytes, hide_env_values = true)]
    max_keyspace_bytes: Option<u64>,
    /// What POST /key does with a key that is there: refuse or overwrite [default: create]
    #[arg(long, env = "QUORATE_COMPAT_POST_KEY", value_name = "MODE", value_parser = post_key_parser(), hide_env_values = true)]
    compat_post_key: Option<CompatPostKey>,
    /// Which log lines are printed: a level, or a list like `info,quorate_node=debug` [default: warn]
    #[arg(long, env = "QUORATE_LOG", value_name = "FILTER", hide_env_values = true)]
    log: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, env = "QUORATE_LOG_FORMAT", value_name = "FORMAT", value_parser = log_format_parser(), hide_env_values = true)]
    log_format: Option<LogFormat>,
    /// Milliseconds between heartbeats [default: 100]
    #[arg(long, env = "QUORATE_HEARTBEAT_MS", value_name = "MS", hide_env_values = true)]
    heartbeat_ms: Option<u64>,
    /// Milliseconds without a leader before an election [default: 1000]
    #[arg(long, env = "QUORATE_ELECTION_MS", value_name = "MS", hide_env_values = true)]
    election_ms: Option<u64>,
    /// Milliseconds that a stop may take, from SIGTERM to the end [default: 30000]
    #[arg(long, env = "QUORATE_STOP_TIMEOUT_MS", value_name = "MS", hide_env_values = true)]
    stop_timeout_ms: Option<u64>,
    /// Milliseconds of these that the node goes on serving after it has said that it is not ready [default: 0]
    #[arg(long, env = "QUORATE_STOP_DELAY_MS", value_name = "MS", hide_env_values = true)]
    stop_delay_ms: Option<u64>,
    /// Exit when standard input ends: whoever started this node holds the other end, and ends with it
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

impl ServerArgs {
    /// The topmost layer of the configuration.
    pub(crate) fn into_layer(self) -> ConfigLayer {
        ConfigLayer {
            name: self.name,
            data_dir: self.data_dir,
            listen: self.listen,
            peer_listen: self.peer_listen,
            advertise: self.advertise,
            peer_advertise: self.peer_advertise,
            join: self.join.map(|lists| lists.iter().flat_map(|list| Spec::split_list(list)).collect()),
            expect: self.expect,
            dns_servers: self.dns.dns_servers.map(|servers| servers.iter().map(ToString::to_string).collect()),
            new_cluster: self.new_cluster,
            allow_hosts: self.allow_hosts,
            fs_roots: self.fs_roots,
            credentials_env: self.credentials_env,
            credentials_dirs: self.credentials_dirs,
            max_value_bytes: self.max_value_bytes,
            io_threads: self.io_threads,
            max_connections: self.max_connections,
            max_log_bytes: self.max_log_bytes,
            max_keyspace_bytes: self.max_keyspace_bytes,
            compat: CompatLayer { post_key: self.compat_post_key },
            log: self.log,
            log_format: self.log_format,
            heartbeat_ms: self.heartbeat_ms,
            election_ms: self.election_ms,
            stop_timeout_ms: self.stop_timeout_ms,
            stop_delay_ms: self.stop_delay_ms,
        }
    }
}

fn post_key_parser() -> impl TypedValueParser<Value = CompatPostKey> {
    PossibleValuesParser::new(["create", "upsert"]).map(|word| match word.as_str() {
        "upsert" => CompatPostKey::Upsert,
        _ => CompatPostKey::Create,
    })
}

fn log_format_parser() -> impl TypedValueParser<Value = LogFormat> {
    PossibleValuesParser::new(["text", "json"]).map(|word| match word.as_str() {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};
    use quorate_server::config::{CompatPostKey, ConfigLayer, LogFormat};

    use crate::args::{Cli, Command};

    fn layer(line: &str) -> ConfigLayer {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Server(args) => args.into_layer(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_flags_say_nothing() {
        assert_eq!(layer("quorate server"), ConfigLayer::default());
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let from_flags = layer(
            "quorate server --name n1 --data-dir /d --listen a:1 --peer-listen a:2 --advertise b:1 --peer-advertise b:2 \
             --join c:1,zk://d:1,e:1/q --join dns://f:1 --expect 3 --dns-server 127.0.0.1:53 --new-cluster --allow-host x --allow-host y \
             --fs-root /srv/a --fs-root /srv/b \
             --credentials-env S3_KEY,S3_ID --credentials-env PG* --credentials-dir /etc/q \
             --max-value-bytes 2MiB --io-threads 3 --max-connections 7 \
             --max-log-bytes 256MiB --max-keyspace-bytes 2GiB --compat-post-key upsert --log info --log-format json \
             --heartbeat-ms 50 --election-ms 500 --stop-timeout-ms 9000 \
             --stop-delay-ms 700",
        );
        let from_file = ConfigLayer::parse(
            r#"
            name = "n1"
            data_dir = "/d"
            listen = "a:1"
            peer_listen = "a:2"
            advertise = "b:1"
            peer_advertise = "b:2"
            join = ["c:1", "zk://d:1,e:1/q", "dns://f:1"]
            expect = 3
            dns_servers = ["127.0.0.1:53"]
            new_cluster = true
            allow_hosts = ["x", "y"]
            fs_roots = ["/srv/a", "/srv/b"]
            credentials_env = ["S3_KEY", "S3_ID", "PG*"]
            credentials_dirs = ["/etc/q"]
            max_value_bytes = "2MiB"
            io_threads = 3
            max_connections = 7
            max_log_bytes = "256MiB"
            max_keyspace_bytes = "2GiB"
            compat.post_key = "upsert"
            log = "info"
            log_format = "json"
            heartbeat_ms = 50
            election_ms = 500
            stop_timeout_ms = 9000
            stop_delay_ms = 700
            "#,
            "q.toml".as_ref(),
        );
        assert_eq!(from_flags, from_file.unwrap());
    }

    #[test]
    fn words_are_read() {
        let layer = layer("quorate server --compat-post-key create --log-format text --new-cluster=false");
        assert_eq!(layer.compat.post_key, Some(CompatPostKey::Create));
        assert_eq!((layer.log_format, layer.new_cluster), (Some(LogFormat::Text), Some(false)));
    }

    #[test]
    fn every_flag_has_its_twin_in_the_environment() {
        let command = Cli::command();
        let server = command.find_subcommand("server").unwrap();
        for arg in
            server.get_arguments().filter(|arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str()))
        {
            let twin = format!("QUORATE_{}", arg.get_id().as_str().to_uppercase());
            assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(twin.as_str()));
        }
    }
}
