//! Credentials: named in settings, read on each node, shown nowhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

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

    /// Reads them on this node. Blocks for as long as a small file takes.
    pub(crate) fn read(&self, store: &'static str) -> Result<Secrets, StoreError> {
        let denied = |message: String| StoreError::new(store, ErrorKind::Denied, message);
        match self {
            Self::None => Ok(Secrets::default()),
            Self::Env(variables) => {
                let read = |(name, variable): (&String, &String)| match std::env::var(variable) {
                    Ok(secret) => Ok((name.clone(), Secret(secret))),
                    Err(_) => Err(denied(format!("the environment variable {variable} for {name} is not set on this node"))),
                };
                variables.iter().map(read).collect::<Result<_, _>>().map(Secrets)
            }
            Self::File(path) => {
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
        let secrets = credentials.read("s3").unwrap();
        assert_eq!(secrets.find("secret_access_key"), Some("hush-hush"));
        assert_eq!(secrets.find("access_key_id"), None);
        assert!(!format!("{secrets:?} {credentials:?} {:?}", secrets.all()).contains("hush"));
        let message = secrets.all()[0].taken_out_of("bad password hush-hush".to_owned());
        assert_eq!(message, "bad password ***");

        std::fs::write(&path, "hush-hush: no JSON").unwrap();
        let error = credentials.read("s3").unwrap_err();
        assert!(error.kind == ErrorKind::Denied && !error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let credentials = parse(&json!({"env": {"access_key_id": "QUORATE_NOT_SET_ANYWHERE"}})).unwrap();
        let error = credentials.read("s3").unwrap_err();
        assert!(error.kind == ErrorKind::Denied && error.message.contains("QUORATE_NOT_SET_ANYWHERE"), "{error}");
    }
}
