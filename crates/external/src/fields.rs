//! Reads settings field by field, so that an error names the field and shows how it is written.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::SpecError;
use crate::credentials::is_secret;
use crate::http_client::checked_endpoint;

/// The settings of one store while they are read.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    kind: &'a str,
    map: &'a Map<String, Value>,
    asked: BTreeSet<&'static str>,
}

impl<'a> Fields<'a> {
    /// Nothing read yet.
    pub(crate) fn of(kind: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { kind, map, asked: BTreeSet::new() }
    }

    /// A field as it is.
    pub(crate) fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.asked.insert(name);
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A text that is not empty.
    pub(crate) fn text(&mut self, name: &'static str, example: &str) -> Result<Option<&'a str>, SpecError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(SpecError::new(name, "must be a text that is not empty", quoted(name, example))),
        }
    }

    /// A text without which nothing goes.
    pub(crate) fn needed(&mut self, name: &'static str, example: &str) -> Result<&'a str, SpecError> {
        let missing = SpecError::new(name, format!("is needed for the engine {}", self.kind), quoted(name, example));
        self.text(name, example)?.ok_or(missing)
    }

    /// Where something answers over HTTP.
    pub(crate) fn endpoint(&mut self, name: &'static str, example: &str) -> Result<Option<String>, SpecError> {
        self.text(name, example)?.map(|url| checked_endpoint(name, url, example)).transpose()
    }

    /// The same, where nothing goes without it.
    pub(crate) fn needed_endpoint(&mut self, name: &'static str, example: &str) -> Result<String, SpecError> {
        checked_endpoint(name, self.needed(name, example)?, example)
    }

    /// One of some words.
    pub(crate) fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Result<Option<T>, SpecError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word)).map(|(_, meaning)| *meaning);
        let known: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let unknown =
            || SpecError::new(name, format!("must be one of {}", known.join(", ")), format!("\"{name}\": {}", known[0]));
        found.ok_or_else(unknown).map(Some)
    }

    /// A time: `"10s"`, or a number of milliseconds.
    pub(crate) fn duration(
        &mut self,
        name: &'static str,
        (min, max): (Duration, Duration),
    ) -> Result<Option<Duration>, SpecError> {
        let read = match self.value(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_u64().map(Duration::from_millis),
            Some(Value::String(text)) => humantime::parse_duration(text).ok(),
            Some(_) => None,
        };
        let bounds = || format!("must be a time between {} and {}", humantime::format_duration(min), shown(max));
        let wrong = || SpecError::new(name, bounds(), format!("\"{name}\": \"{}\"", shown(min.max(Duration::from_secs(10)))));
        read.filter(|time| (min..=max).contains(time)).ok_or_else(wrong).map(Some)
    }

    /// A number of bytes: `"64MiB"`, or the number.
    pub(crate) fn bytes(&mut self, name: &'static str, (min, max): (u64, u64)) -> Result<Option<u64>, SpecError> {
        let read = match self.value(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => parse_bytes(text),
            Some(_) => None,
        };
        let wrong = || {
            SpecError::new(name, format!("must be a number of bytes between {min} and {max}"), format!("\"{name}\": \"64MiB\""))
        };
        read.filter(|bytes| (min..=max).contains(bytes)).ok_or_else(wrong).map(Some)
    }

    /// A whole number.
    pub(crate) fn count(&mut self, name: &'static str, (min, max): (u64, u64)) -> Result<Option<u64>, SpecError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let wrong = || SpecError::new(name, format!("must be a whole number from {min} to {max}"), format!("\"{name}\": {min}"));
        value.as_u64().filter(|count| (min..=max).contains(count)).ok_or_else(wrong).map(Some)
    }

    /// An object with fields of its own.
    pub(crate) fn object(&mut self, name: &'static str, example: &str) -> Result<Option<&'a Map<String, Value>>, SpecError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(SpecError::new(name, "must be an object", format!("\"{name}\": {example}"))),
        }
    }

    /// Nothing may be left that was not asked for.
    pub(crate) fn finish(self) -> Result<(), SpecError> {
        let Some(name) = self.map.keys().find(|name| !self.asked.contains(name.as_str())) else {
            return Ok(());
        };
        let shown: String = name.chars().take(60).filter(|c| !c.is_control()).collect();
        if is_secret(name) {
            let problem = "is a secret, and secrets are not written into settings: name the variables or the file that hold them";
            return Err(SpecError::new(&shown, problem, r#""credentials": {"env": {"password": "VARIABLE"}}"#.to_owned()));
        }
        let known: Vec<&str> = self.asked.into_iter().collect();
        let problem = format!("is not known for the engine {}; known: {}", self.kind, known.join(", "));
        Err(SpecError::new(&shown, problem, format!("\"{}\": ...", known.first().unwrap_or(&"type"))))
    }
}

fn quoted(name: &str, example: &str) -> String {
    format!("\"{name}\": \"{example}\"")
}

fn shown(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}

/// `64MiB`, `10 GB`, `4096`.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_error_names_the_field_and_shows_one() {
        let settings = json!({"url": 7, "path": "x", "timeout": "soon", "max": "1.5GiB", "calls": 0, "cache": []});
        let map = settings.as_object().unwrap();
        let mut fields = Fields::of("s3", map);
        let hour = (Duration::from_millis(100), Duration::from_hours(1));
        let errors = [
            fields.needed("url", "s3://bucket").unwrap_err(),
            fields.needed("region", "eu-west-1").unwrap_err(),
            fields.word("path", &[("shared", 1), ("per-node", 2)]).unwrap_err(),
            fields.duration("timeout", hour).unwrap_err(),
            fields.bytes("max", (1, 100)).unwrap_err(),
            fields.count("calls", (1, 100)).unwrap_err(),
            fields.object("cache", r#"{"ttl": "10s"}"#).unwrap_err(),
        ];
        for (error, name) in errors.iter().zip(["url", "region", "path", "timeout", "max", "calls", "cache"]) {
            assert_eq!(error.field, name);
            assert!(error.to_string().contains(&format!("for example \"{name}\": ")), "{error}");
        }
    }

    #[test]
    fn what_nobody_asks_for_is_refused_with_what_is_known() {
        let settings = json!({"url": "x", "bukket": "y"});
        let mut fields = Fields::of("s3", settings.as_object().unwrap());
        fields.text("url", "").unwrap();
        let error = fields.finish().unwrap_err();
        assert!(error.field == "bukket" && error.to_string().contains("known: url"), "{error}");

        let settings = json!({"secret_access_key": "hush"});
        let error = Fields::of("s3", settings.as_object().unwrap()).finish().unwrap_err();
        assert!(error.to_string().contains("credentials") && !error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("64MiB", Some(64 << 20)), ("10 GB", Some(10_000_000_000)), ("4096", Some(4096)), ("1.5MiB", None), ("MiB", None)]
        {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        assert_eq!(parse_bytes("99999999999TiB"), None);
    }
}
