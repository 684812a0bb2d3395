//! One source of settings, and how sources are laid over each other.

use std::path::{Path, PathBuf};

use quorate_api::quantity::parse_bytes;
use serde::{Deserialize, Deserializer, Serialize};

use super::{CompatPostKey, ConfigError, LogFormat, ServerConfig};

/// What one source (flags and environment, or a file) says; `None` where it says nothing. The fields are those of
/// [`ServerConfig`], named as they are in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigLayer {
    /// See [`ServerConfig::name`].
    pub name: Option<String>,
    /// See [`ServerConfig::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// See [`ServerConfig::listen`].
    pub listen: Option<String>,
    /// See [`ServerConfig::peer_listen`].
    pub peer_listen: Option<String>,
    /// See [`ServerConfig::advertise`].
    pub advertise: Option<String>,
    /// See [`ServerConfig::peer_advertise`].
    pub peer_advertise: Option<String>,
    /// See [`ServerConfig::join`].
    pub join: Option<Vec<String>>,
    /// See [`ServerConfig::expect`].
    pub expect: Option<u32>,
    /// See [`ServerConfig::dns_servers`].
    pub dns_servers: Option<Vec<String>>,
    /// See [`ServerConfig::new_cluster`].
    pub new_cluster: Option<bool>,
    /// See [`ServerConfig::allow_hosts`].
    pub allow_hosts: Option<Vec<String>>,
    /// See [`ServerConfig::fs_roots`].
    pub fs_roots: Option<Vec<PathBuf>>,
    /// See [`ServerConfig::credentials_env`].
    pub credentials_env: Option<Vec<String>>,
    /// See [`ServerConfig::credentials_dirs`].
    pub credentials_dirs: Option<Vec<PathBuf>>,
    /// See [`ServerConfig::max_value_bytes`]; a number or text such as `"1.5MiB"`.
    #[serde(deserialize_with = "bytes")]
    pub max_value_bytes: Option<u64>,
    /// See [`ServerConfig::io_threads`].
    pub io_threads: Option<usize>,
    /// See [`ServerConfig::max_connections`].
    pub max_connections: Option<usize>,
    /// See [`ServerConfig::max_log_bytes`]; a number or text.
    #[serde(deserialize_with = "bytes")]
    pub max_log_bytes: Option<u64>,
    /// See [`ServerConfig::max_keyspace_bytes`]; a number or text.
    #[serde(deserialize_with = "bytes")]
    pub max_keyspace_bytes: Option<u64>,
    /// The section `[compat]`.
    pub compat: CompatLayer,
    /// See [`ServerConfig::log_filter`].
    pub log: Option<String>,
    /// See [`ServerConfig::log_format`].
    pub log_format: Option<LogFormat>,
    /// See [`ServerConfig::heartbeat_ms`].
    pub heartbeat_ms: Option<u64>,
    /// See [`ServerConfig::election_ms`].
    pub election_ms: Option<u64>,
    /// See [`ServerConfig::stop_timeout_ms`].
    pub stop_timeout_ms: Option<u64>,
    /// See [`ServerConfig::stop_delay_ms`].
    pub stop_delay_ms: Option<u64>,
}

/// The section `[compat]`: routes kept for clients of earlier programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompatLayer {
    /// See [`ServerConfig::compat_post_key`].
    pub post_key: Option<CompatPostKey>,
}

impl ConfigLayer {
    /// Reads a TOML file. Keys that do not exist are an error: a setting that does nothing is worse than none.
    pub fn read_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a TOML file; `path` is only named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let malformed = |error: &toml::de::Error| ConfigError::Malformed {
            path: path.to_owned(),
            line: line_number(text, error.span().map_or(0, |span| span.start)),
            reason: error.message().trim().replace('\n', ", "),
        };
        let table: toml::Table = toml::from_str(text).map_err(|error| malformed(&error))?;
        if let Some((key, nearest)) = unknown_key(&table) {
            return Err(ConfigError::UnknownKey { path: path.to_owned(), key, nearest });
        }
        toml::from_str(text).map_err(|error| malformed(&error))
    }

    /// This layer laid over `lower`, which speaks where this one says nothing. Lists are replaced, not joined.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        Self {
            name: self.name.or(lower.name),
            data_dir: self.data_dir.or(lower.data_dir),
            listen: self.listen.or(lower.listen),
            peer_listen: self.peer_listen.or(lower.peer_listen),
            advertise: self.advertise.or(lower.advertise),
            peer_advertise: self.peer_advertise.or(lower.peer_advertise),
            join: self.join.or(lower.join),
            expect: self.expect.or(lower.expect),
            dns_servers: self.dns_servers.or(lower.dns_servers),
            new_cluster: self.new_cluster.or(lower.new_cluster),
            allow_hosts: self.allow_hosts.or(lower.allow_hosts),
            fs_roots: self.fs_roots.or(lower.fs_roots),
            credentials_env: self.credentials_env.or(lower.credentials_env),
            credentials_dirs: self.credentials_dirs.or(lower.credentials_dirs),
            max_value_bytes: self.max_value_bytes.or(lower.max_value_bytes),
            io_threads: self.io_threads.or(lower.io_threads),
            max_connections: self.max_connections.or(lower.max_connections),
            max_log_bytes: self.max_log_bytes.or(lower.max_log_bytes),
            max_keyspace_bytes: self.max_keyspace_bytes.or(lower.max_keyspace_bytes),
            compat: CompatLayer { post_key: self.compat.post_key.or(lower.compat.post_key) },
            log: self.log.or(lower.log),
            log_format: self.log_format.or(lower.log_format),
            heartbeat_ms: self.heartbeat_ms.or(lower.heartbeat_ms),
            election_ms: self.election_ms.or(lower.election_ms),
            stop_timeout_ms: self.stop_timeout_ms.or(lower.stop_timeout_ms),
            stop_delay_ms: self.stop_delay_ms.or(lower.stop_delay_ms),
        }
    }

    /// Fills what is not said with the defaults. The result is not validated yet.
    pub fn into_config(self) -> ServerConfig {
        let default = ServerConfig::default();
        ServerConfig {
            name: self.name.unwrap_or(default.name),
            data_dir: self.data_dir.unwrap_or(default.data_dir),
            listen: self.listen.unwrap_or(default.listen),
            peer_listen: self.peer_listen.unwrap_or(default.peer_listen),
            advertise: self.advertise,
            peer_advertise: self.peer_advertise,
            join: self.join.unwrap_or(default.join),
            expect: self.expect.or(default.expect),
            dns_servers: self.dns_servers.unwrap_or(default.dns_servers),
            new_cluster: self.new_cluster.unwrap_or(default.new_cluster),
            allow_hosts: self.allow_hosts.unwrap_or(default.allow_hosts),
            fs_roots: self.fs_roots.unwrap_or(default.fs_roots),
            credentials_env: self.credentials_env.unwrap_or(default.credentials_env),
            credentials_dirs: self.credentials_dirs.unwrap_or(default.credentials_dirs),
            max_value_bytes: self.max_value_bytes.unwrap_or(default.max_value_bytes),
            io_threads: self.io_threads,
            max_connections: self.max_connections.unwrap_or(default.max_connections),
            max_log_bytes: self.max_log_bytes.unwrap_or(default.max_log_bytes),
            max_keyspace_bytes: self.max_keyspace_bytes.unwrap_or(default.max_keyspace_bytes),
            compat_post_key: self.compat.post_key.unwrap_or(default.compat_post_key),
            log_filter: self.log.unwrap_or(default.log_filter),
            log_format: self.log_format.unwrap_or(default.log_format),
            heartbeat_ms: self.heartbeat_ms.unwrap_or(default.heartbeat_ms),
            election_ms: self.election_ms.unwrap_or(default.election_ms),
            stop_timeout_ms: self.stop_timeout_ms.unwrap_or(default.stop_timeout_ms),
            stop_delay_ms: self.stop_delay_ms.unwrap_or(default.stop_delay_ms),
        }
    }
}

/// The first key that no setting has, and the setting nearest to it.
fn unknown_key(table: &toml::Table) -> Option<(String, String)> {
    // The struct itself says what is known, so that no second list can fall behind it.
    let known = match serde_json::to_value(ConfigLayer::default()) {
        Ok(serde_json::Value::Object(fields)) => dotted_keys(&fields, serde_json::Value::as_object),
        other => unreachable!("a struct is written as an object, not {other:?}"),
    };
    let key = dotted_keys(table, toml::Value::as_table).into_iter().find(|key| !is_known(key, &known))?;
    let nearest = known.into_iter().min_by_key(|candidate| strsim::damerau_levenshtein(&key, candidate)).unwrap_or_default();
    Some((key, nearest))
}

/// Whether `key` is a setting, or a section given a value that is not one (which the typed reading then explains).
fn is_known(key: &str, known: &[String]) -> bool {
    known.iter().any(|each| each == key || each.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// Keys of a table, those of its sections with the section's name and a dot before them.
fn dotted_keys<'a, V: 'a, T: 'a>(table: &'a T, as_table: impl Fn(&'a V) -> Option<&'a T>) -> Vec<String>
where
    &'a T: IntoIterator<Item = (&'a String, &'a V)>,
{
    let mut keys = Vec::new();
    for (key, value) in table {
        match as_table(value) {
            Some(section) => keys.extend(section.into_iter().map(|(inner, _)| format!("{key}.{inner}"))),
            None => keys.push(key.clone()),
        }
    }
    keys
}

fn line_number(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an amount of bytes, as in 4096, \"64KiB\" or \"1.5MiB\"")]
    enum Amount {
        Number(u64),
        Text(String),
    }
    match Amount::deserialize(deserializer)? {
        Amount::Number(bytes) => Ok(Some(bytes)),
        Amount::Text(text) => parse_bytes(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::ConfigLayer;
    use crate::config::{CompatPostKey, LogFormat, ServerConfig};

    fn parse(text: &str) -> Result<ConfigLayer, String> {
        ConfigLayer::parse(text, Path::new("q.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_leaves_the_defaults() {
        assert_eq!(parse("").unwrap().into_config(), ServerConfig::default());
    }

    #[test]
    fn every_setting_is_read() {
        let text = r#"
            name = "n1"
            data_dir = "/data"
            listen = "a:1"
            peer_listen = "a:2"
            advertise = "b:1"
            peer_advertise = "b:2"
            join = ["c:1", "d:1"]
            expect = 3
            dns_servers = ["127.0.0.1:53"]
            new_cluster = true
            allow_hosts = ["db"]
            fs_roots = ["/srv"]
            credentials_env = ["S3_*"]
            credentials_dirs = ["/etc/q"]
            max_value_bytes = "2MiB"
            io_threads = 3
            max_connections = 7
            max_log_bytes = 268435456
            max_keyspace_bytes = "1.5 GiB"
            log = "info"
            log_format = "json"
            heartbeat_ms = 50
            election_ms = 500
            stop_timeout_ms = 9000
            stop_delay_ms = 700
            [compat]
            post_key = "upsert"
        "#;
        let expected = ServerConfig {
            name: "n1".to_owned(),
            data_dir: "/data".into(),
            listen: "a:1".to_owned(),
            peer_listen: "a:2".to_owned(),
            advertise: Some("b:1".to_owned()),
            peer_advertise: Some("b:2".to_owned()),
            join: vec!["c:1".to_owned(), "d:1".to_owned()],
            expect: Some(3),
            dns_servers: vec!["127.0.0.1:53".to_owned()],
            new_cluster: true,
            allow_hosts: vec!["db".to_owned()],
            fs_roots: vec!["/srv".into()],
            credentials_env: vec!["S3_*".to_owned()],
            credentials_dirs: vec!["/etc/q".into()],
            max_value_bytes: 2 << 20,
            io_threads: Some(3),
            max_connections: 7,
            max_log_bytes: 256 << 20,
            max_keyspace_bytes: 3 << 29,
            compat_post_key: CompatPostKey::Upsert,
            log_filter: "info".to_owned(),
            log_format: LogFormat::Json,
            heartbeat_ms: 50,
            election_ms: 500,
            stop_timeout_ms: 9000,
            stop_delay_ms: 700,
        };
        let layer = parse(text).unwrap();
        assert_eq!(layer.clone().into_config(), expected);
        // Both ways, so that a field forgotten in `or` shows.
        assert_eq!(layer.clone().or(ConfigLayer::default()), layer);
        assert_eq!(ConfigLayer::default().or(layer.clone()), layer);
    }

    #[test]
    fn the_upper_layer_wins() {
        let upper = parse("name = \"flag\"\njoin = [\"a:1\"]").unwrap();
        let lower = parse("name = \"file\"\njoin = [\"b:1\"]\nlisten = \"c:1\"").unwrap();
        let config = upper.or(lower).into_config();
        assert_eq!((config.name.as_str(), config.join, config.listen.as_str()), ("flag", vec!["a:1".to_owned()], "c:1"));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest() {
        let cases = [
            ("lisen = \"a:1\"", "q.toml: unknown key `lisen`; the nearest known one is `listen`"),
            ("data-dir = \"a\"", "q.toml: unknown key `data-dir`; the nearest known one is `data_dir`"),
            (
                "[compat]\npostkey = \"create\"",
                "q.toml: unknown key `compat.postkey`; the nearest known one is `compat.post_key`",
            ),
            ("compat_post_key = 1", "q.toml: unknown key `compat_post_key`; the nearest known one is `compat.post_key`"),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text), Err(message.to_owned()));
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        for (text, line) in [
            ("name = \"a\"\nheartbeat_ms = \"soon\"", 2),
            ("\n\nmax_value_bytes = \"much\"", 3),
            ("max_value_bytes = true", 1),
            ("name = ", 1),
            ("log_format = \"xml\"", 1),
            ("compat = 3", 1),
            ("[compat]\npost_key = \"replace\"", 2),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(&format!("q.toml, line {line}: ")), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = ConfigLayer::read_file(Path::new("/no/such/q.toml")).unwrap_err().to_string();
        assert!(message.contains("/no/such/q.toml"), "{message}");
    }
}
