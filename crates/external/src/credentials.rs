//! Credentials: named in settings, read on each node, shown nowhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::fields::Fields;
use crate::{ErrorKind, SpecError, StoreError};

/// Where a node finds the credentials for a store. What settings say, which is no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// The store wants none.
    #[default]
    None,
    /// In environment variables: credential to variable.
    Env(BTreeMap<String, String>),
    /// In a file: a JSON object, credential to secret.
    File(PathBuf),
}

/// What of a node may be handed to stores as credentials, whatever settings name: whoever may make keyspaces says where requests
/// go, and would have anything else of the node's environment and disk sent there. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedCredentials {
    /// Environment variables: names, or beginnings of names with `*` behind.
    pub variables: Vec<String>,
    /// Folders, as absolute paths, below which files with credentials lie.
    pub folders: Vec<PathBuf>,
}

/// A text that is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Credentials as they were read, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets(BTreeMap<String, Secret>);

const EXAMPLE: &str = r#""credentials": {"env": {"NAME": "VARIABLE"}} or {"file": "/etc/quorate/store.json"}"#;

/// Names under which people write secrets into settings.
const SECRET_NAMES: [&str; 12] = [
    "access_key",
    "access_key_id",
    "account_key",
    "api_key",
    "authorization",
    "password",
    "sas_token",
    "secret",
    "secret_access_key",
    "secret_key",
    "session_token",
    "token",
];

/// A file with credentials is no longer.
const MAX_FILE_BYTES: u64 = 64 << 10;

impl Credentials {
    /// Reads the field `credentials`; `names` are those that the store knows.
    pub(crate) fn from_fields(fields: &mut Fields<'_>, names: &[&str]) -> Result<Self, SpecError> {
        let Some(value) = fields.value("credentials") else {
            return Ok(Self::None);
        };
        let error = |problem: String| {
            let example = EXAMPLE.replace("NAME", names.first().unwrap_or(&"password"));
            Err(SpecError::new("credentials", problem, example))
        };
        let Value::Object(object) = value else {
            return error("must be an object".to_owned());
        };
        let mut entries = object.iter();
        match (entries.next(), entries.next()) {
            (Some((key, Value::Object(variables))), None) if key == "env" => {
                let mut known = BTreeMap::new();
                for (name, variable) in variables {
                    let Some(variable) = variable.as_str().filter(|variable| !variable.is_empty()) else {
                        return error(format!("env.{} must be the name of an environment variable", printable(name)));
                    };
                    if !names.contains(&name.as_str()) {
                        return error(format!("env.{} is not known here; known: {}", printable(name), names.join(", ")));
                    }
                    if !is_variable(variable) {
                        return error(format!("env.{name} is no name of an environment variable (A-Z, 0-9 and _)"));
                    }
                    known.insert(name.clone(), variable.to_owned());
                }
                Ok(Self::Env(known))
            }
            (Some((key, Value::String(path))), None) if key == "file" && path.starts_with('/') => Ok(Self::File(path.into())),
            (Some((key, _)), None) if key == "file" => error("file must be an absolute path".to_owned()),
            _ if object.keys().any(|key| is_secret(key)) => {
                error("secrets are not written into settings: name the variables or the file that hold them".to_owned())
            }
            _ => error("must hold either \"env\" or \"file\"".to_owned()),
        }
    }

    /// Reads them on this node, as far as it allows that. Blocks for as long as a small file takes.
    pub(crate) fn read(&self, store: &'static str, allowed: &AllowedCredentials) -> Result<Secrets, StoreError> {
        let denied = |message: String| StoreError::new(store, ErrorKind::Denied, message);
        match self {
            Self::None => Ok(Secrets::default()),
            Self::Env(variables) => {
                let read = |(name, variable): (&String, &String)| {
                    allowed.check_variable(variable).map_err(denied)?;
                    match std::env::var(variable) {
                        Ok(secret) => Ok((name.clone(), Secret(secret))),
                        Err(_) => Err(denied(format!("the environment variable {variable} for {name} is not set on this node"))),
                    }
                };
                variables.iter().map(read).collect::<Result<_, _>>().map(Secrets)
            }
            Self::File(path) => {
                let path = &allowed.find_file(path).map_err(denied)?;
                let shown = path.display();
                let len = std::fs::metadata(path).map_err(|error| denied(format!("{shown}: {error}")))?.len();
                if len > MAX_FILE_BYTES {
                    return Err(denied(format!("{shown} is of {len} bytes; credentials are of {MAX_FILE_BYTES} bytes at most")));
                }
                let text = std::fs::read(path).map_err(|error| denied(format!("{shown}: {error}")))?;
                // What the parser says would repeat what is in the file.
                let read: BTreeMap<String, String> =
                    serde_json::from_slice(&text).map_err(|_| denied(format!("{shown} is no JSON object of names and texts")))?;
                Ok(Secrets(read.into_iter().map(|(name, secret)| (name, Secret(secret))).collect()))
            }
        }
    }
}

impl AllowedCredentials {
    /// What is wrong with a name of a variable, or with the beginning of one, if it is none.
    pub fn problem_of(variable: &str) -> Option<&'static str> {
        let name = variable.strip_suffix('*').unwrap_or(variable);
        let is_one = is_variable(name) && !variable.is_empty();
        (!is_one)
            .then_some("is neither the name of an environment variable (A-Z, 0-9 and _) nor the beginning of one with * behind")
    }

    fn check_variable(&self, variable: &str) -> Result<(), String> {
        let names = |allowed: &String| match allowed.strip_suffix('*') {
            Some(beginning) => variable.starts_with(beginning),
            None => variable == allowed,
        };
        if self.variables.iter().any(names) {
            return Ok(());
        }
        Err(format!("this node hands the environment variable {variable} to no store: --credentials-env names those that it may"))
    }

    /// Where a file really is, if that is below one of the folders. Links are followed, for that is how secrets are mounted; they
    /// must not lead out.
    fn find_file(&self, path: &Path) -> Result<PathBuf, String> {
        let shown = path.display();
        // First as it is written: whether there is something elsewhere on the disk is nobody's business.
        let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let is_below = |path: &Path, folder: &Path| is_plain && path.starts_with(folder);
        let not_allowed =
            || format!("this node hands no file {shown} to a store: --credentials-dir names the folders of those that it may");
        let folder = self.folders.iter().find(|folder| is_below(path, folder)).ok_or_else(not_allowed)?;
        let real = |path: &Path| path.canonicalize().map_err(|error| format!("{}: {error}", path.display()));
        let (file, folder) = (real(path)?, real(folder)?);
        if is_below(&file, &folder) { Ok(file) } else { Err(not_allowed()) }
    }
}

impl Secrets {
    /// The secret of this name, if it was given.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|secret| secret.0.as_str())
    }

    /// The header that HTTP wants for them, if there are any for it: the one that was given, or a name and a password.
    pub(crate) fn authorization(&self) -> Option<String> {
        if let Some(whole) = self.find("authorization") {
            return Some(whole.to_owned());
        }
        let pair = format!("{}:{}", self.find("username")?, self.find("password").unwrap_or_default());
        Some(format!("Basic {}", STANDARD.encode(pair)))
    }

    /// All of them, and what they become on the way, to take them out of messages.
    pub(crate) fn all(&self) -> Vec<Secret> {
        let header = self.authorization().map(|header| header.trim_start_matches("Basic ").to_owned());
        self.0.values().cloned().chain(header.map(Secret)).collect()
    }
}

impl Secret {
    /// The message without this secret. Very short ones are left: they would be found in any text.
    pub(crate) fn taken_out_of(&self, message: String) -> String {
        if self.0.len() < 4 || !message.contains(&self.0) { message } else { message.replace(&self.0, "***") }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether a field of this name would hold a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    SECRET_NAMES.iter().any(|secret| name == *secret || name.ends_with(&format!("_{secret}")))
}

/// A secret that is written where the name of a variable belongs does not look like one, as a rule; then it is not repeated.
fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
}

fn printable(name: &str) -> String {
    name.chars().take(40).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAMES: &[&str] = &["access_key_id", "secret_access_key"];

    fn allowed(variables: &[&str], folders: &[&Path]) -> AllowedCredentials {
        let variables = variables.iter().map(|variable| (*variable).to_owned()).collect();
        AllowedCredentials { variables, folders: folders.iter().map(|folder| folder.to_path_buf()).collect() }
    }

    fn parse(value: &Value) -> Result<Credentials, SpecError> {
        let settings = json!({"credentials": value});
        let mut fields = Fields::of("s3", settings.as_object().unwrap());
        Credentials::from_fields(&mut fields, NAMES)
    }

    #[test]
    fn literal_secrets_are_refused_and_not_repeated() {
        for value in [
            json!({"access_key_id": "AKIAHUSH", "secret_access_key": "hush"}),
            json!("hush"),
            json!({"env": {"secret_access_key": "hush/hush+hush"}}),
            json!({"env": {"access_key_id": 7}}),
            json!({"env": {"sesame": "OPEN"}}),
            json!({"file": "relative.json"}),
            json!({}),
            json!({"env": {}, "file": "/x"}),
        ] {
            let error = parse(&value).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("credentials") && text.contains("\"env\"") && !text.to_lowercase().contains("hush"), "{text}");
        }
    }

    #[test]
    fn names_of_fields_that_hold_secrets_are_known() {
        for name in ["password", "Secret-Access-Key", "x-api-key", "Authorization", "db_password"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["url", "region", "user", "accept"] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn a_file_is_read_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.json");
        std::fs::write(&path, r#"{"secret_access_key": "hush-hush"}"#).unwrap();
        let credentials = parse(&json!({"file": path})).unwrap();
        let allowed = allowed(&[], &[folder.path()]);
        let secrets = credentials.read("s3", &allowed).unwrap();
        assert_eq!(secrets.find("secret_access_key"), Some("hush-hush"));
        assert_eq!(secrets.find("access_key_id"), None);
        assert!(!format!("{secrets:?} {credentials:?} {:?}", secrets.all()).contains("hush"));
        let message = secrets.all()[0].taken_out_of("bad password hush-hush".to_owned());
        assert_eq!(message, "bad password ***");

        std::fs::write(&path, "hush-hush: no JSON").unwrap();
        let error = credentials.read("s3", &allowed).unwrap_err();
        assert!(error.kind == ErrorKind::Denied && !error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let credentials = parse(&json!({"env": {"access_key_id": "QUORATE_NOT_SET_ANYWHERE"}})).unwrap();
        let error = credentials.read("s3", &allowed(&["QUORATE_NOT_SET_*"], &[])).unwrap_err();
        assert!(error.kind == ErrorKind::Denied && error.message.contains("is not set"), "{error}");
        assert!(error.message.contains("QUORATE_NOT_SET_ANYWHERE"), "{error}");
    }

    #[test]
    fn only_variables_that_the_node_allows_are_read() {
        // `PATH` is set wherever tests run.
        let credentials = parse(&json!({"env": {"access_key_id": "PATH"}})).unwrap();
        for variables in [&[][..], &["PAT", "PATHS", "PATH_*", "path"]] {
            let error = credentials.read("s3", &allowed(variables, &[])).unwrap_err();
            assert!(error.kind == ErrorKind::Denied && error.message.contains("--credentials-env"), "{error}");
        }
        for variables in [&["PATH"][..], &["HOME", "PA*"], &["*"]] {
            assert!(credentials.read("s3", &allowed(variables, &[])).unwrap().find("access_key_id").is_some());
        }
        for wrong in ["", "a", "S3 KEY", "S3_*_KEY", "**", "7UP"] {
            assert!(AllowedCredentials::problem_of(wrong).is_some(), "{wrong}");
        }
        assert_eq!(["S3_KEY", "S3_*", "*"].map(AllowedCredentials::problem_of), [None; 3]);
    }

    #[test]
    fn only_files_below_folders_that_the_node_allows_are_read() {
        use std::os::unix::fs::symlink;

        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (own, other) = (folder.path().join("own"), outside.path().join("other"));
        std::fs::write(&other, r#"{"access_key_id": "hush-hush"}"#).unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        std::fs::write(folder.path().join("data/own"), r#"{"access_key_id": "id"}"#).unwrap();
        // As secrets are mounted, and as somebody might try.
        symlink("data/own", &own).unwrap();
        symlink(&other, folder.path().join("link")).unwrap();
        let read = |path: &Path, allowed: &AllowedCredentials| Credentials::File(path.to_owned()).read("s3", allowed);
        let within = allowed(&[], &[Path::new("/nowhere"), folder.path()]);
        assert_eq!(read(&own, &within).unwrap().find("access_key_id"), Some("id"));
        let beside = folder.path().join("../").join(other.file_name().unwrap());
        let missing = outside.path().join("missing");
        for (path, allowed) in [
            (&own, &AllowedCredentials::default()),
            (&other, &within),
            (&missing, &within),
            (&beside, &within),
            (&folder.path().join("link"), &within),
        ] {
            let error = read(path, allowed).unwrap_err();
            assert!(error.kind == ErrorKind::Denied && error.message.contains("--credentials-dir"), "{error}");
        }
        let error = read(&folder.path().join("missing"), &within).unwrap_err();
        assert!(error.message.contains("missing: No such file"), "{error}");
    }
}
