//! Query strings: strict, so that a misspelt parameter is an answer and not a surprise.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use quorate_api::key::{MAX_KEY_BYTES, decode_percent};
use quorate_api::keyspace::Capability;
use quorate_api::problem::Code;
use quorate_api::{duration, header, text64};
use quorate_node::eventual_replication::Ack;
use quorate_node::keyspace::Revision;

use super::endpoint::App;
use super::keyspaces::require;
use super::refusal::Refusal;
use super::store::{Freshness, Store};
use super::{DEFAULT_TIMEOUT, MAX_TIMEOUT};

/// One `name=value` of a query string, the value still encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter<'a> {
    pub(super) name: &'a str,
    raw: &'a str,
}

/// The parameters of a query string, in order.
pub(super) fn parameters(query: Option<&str>) -> impl Iterator<Item = Parameter<'_>> {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, raw) = pair.split_once('=').unwrap_or((pair, ""));
        Parameter { name, raw }
    })
}

impl Parameter<'_> {
    /// The value's bytes. `+` is a plus here as in paths: keys are written the same way everywhere.
    pub(super) fn bytes(self) -> Result<Bytes, Refusal> {
        decode_percent(self.raw.as_bytes()).map_err(|error| self.bad(error))
    }

    pub(super) fn text(self) -> Result<String, Refusal> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| self.bad("not UTF-8"))
    }

    /// A key, or a part of one.
    pub(super) fn key(self) -> Result<Bytes, Refusal> {
        let key = decode_percent(self.raw.as_bytes()).map_err(|error| self.bad_key(error))?;
        check_key_length(&key)?;
        Ok(key)
    }

    /// A key, or a part of one, as base64url.
    pub(super) fn key64(self) -> Result<Bytes, Refusal> {
        let key: Bytes = text64::decode(self.bytes()?).map_err(|error| self.bad_key(error))?.into();
        check_key_length(&key)?;
        Ok(key)
    }

    pub(super) fn number(self) -> Result<u64, Refusal> {
        parse_number(&self.text()?).ok_or_else(|| self.bad("not a whole number"))
    }

    /// `true` or `false`; the bare name stands for `true`.
    pub(super) fn flag(self) -> Result<bool, Refusal> {
        match self.raw {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(self.bad("neither true nor false")),
        }
    }

    /// Fills the slot, which must still be empty.
    pub(super) fn set<T>(self, slot: &mut Option<T>, value: T) -> Result<(), Refusal> {
        if slot.replace(value).is_some() {
            return Err(self.bad("given twice"));
        }
        Ok(())
    }

    /// A refusal that names the parameters which the route knows.
    pub(super) fn unknown(self, known: &[&str]) -> Refusal {
        let detail = match known {
            [] => format!("{:?} is not known here: this route takes no parameters", self.name),
            known => format!("{:?} is not known here; known are {}", self.name, known.join(", ")),
        };
        Refusal::new(Code::UnknownParameter, detail)
    }

    pub(super) fn bad(self, why: impl std::fmt::Display) -> Refusal {
        Refusal::new(Code::BadParameter, format!("{}: {why}", self.name))
    }

    fn bad_key(self, why: impl std::fmt::Display) -> Refusal {
        Refusal::new(Code::MalformedKey, format!("{}: {why}", self.name))
    }
}

/// A number of digits alone; `str::parse` would take a sign too.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn check_key_length(key: &[u8]) -> Result<(), Refusal> {
    if key.len() > MAX_KEY_BYTES {
        return Err(Refusal::new(Code::KeyTooLong, format!("{} bytes, at most {MAX_KEY_BYTES} are possible", key.len())));
    }
    Ok(())
}

/// How a request wants to be treated, by query parameter or header twin; the parameter wins, and the
/// twin is read all the same: one that is not understood may have been meant.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Treatment {
    is_linearizable: Option<bool>,
    min_revision: Option<Revision>,
    timeout: Option<Duration>,
    ack: Option<Ack>,
}

impl Treatment {
    /// Takes the parameter if it is one of these; whether it was.
    pub(super) fn take_read(&mut self, parameter: Parameter<'_>) -> Result<bool, Refusal> {
        match parameter.name {
            "consistency" => {
                let value = parse_consistency(&parameter.text()?).ok_or_else(|| parameter.bad(CONSISTENCY_FORM))?;
                parameter.set(&mut self.is_linearizable, value)?;
            }
            "min_revision" => parameter.set(&mut self.min_revision, Revision(parameter.number()?))?,
            _ => return self.take_write(parameter),
        }
        Ok(true)
    }

    /// The same for what a write takes.
    pub(super) fn take_write(&mut self, parameter: Parameter<'_>) -> Result<bool, Refusal> {
        if parameter.name != "timeout" {
            return Ok(false);
        }
        let value = parse_timeout(&parameter.text()?).map_err(|why| parameter.bad(why))?;
        parameter.set(&mut self.timeout, value)?;
        Ok(true)
    }

    /// The same for what a write of single keys takes besides.
    pub(super) fn take_ack(&mut self, parameter: Parameter<'_>) -> Result<bool, Refusal> {
        if parameter.name != "ack" {
            return self.take_write(parameter);
        }
        let value = parse_ack(&parameter.text()?).ok_or_else(|| parameter.bad(ACK_FORM))?;
        parameter.set(&mut self.ack, value)?;
        Ok(true)
    }

    /// Whom a write waits for, if that is said.
    pub(super) fn ack<S: Store>(&self, app: &App<S>, keyspace: &str) -> Result<Option<Ack>, Refusal> {
        if self.ack.is_some() {
            require(app, keyspace, Capability::Ack)?;
        }
        Ok(self.ack)
    }

    /// The time limit.
    pub(super) fn timeout(&self, headers: &HeaderMap) -> Result<Duration, Refusal> {
        let twin = twin(headers, header::TIMEOUT, parse_timeout)?;
        Ok(self.timeout.or(twin).unwrap_or(DEFAULT_TIMEOUT))
    }

    /// Whether a read must be linearizable, if that is said.
    pub(super) fn told_linearizable(&self, headers: &HeaderMap) -> Result<Option<bool>, Refusal> {
        let twin = twin(headers, header::CONSISTENCY, |text| parse_consistency(text).ok_or(CONSISTENCY_FORM))?;
        Ok(self.is_linearizable.or(twin))
    }

    /// The revision that a read must have reached.
    pub(super) fn min_revision(&self, headers: &HeaderMap) -> Result<Option<Revision>, Refusal> {
        let parse = |text: &str| parse_number(text).map(Revision).ok_or("not a whole number");
        let twin = twin(headers, header::MIN_REVISION, parse)?;
        Ok(self.min_revision.or(twin))
    }
}

const CONSISTENCY_FORM: &str = "neither linearizable (or consistent) nor local (or stale)";

fn parse_consistency(text: &str) -> Option<bool> {
    match text {
        "linearizable" | "consistent" => Some(true),
        "local" | "stale" => Some(false),
        _ => None,
    }
}

const ACK_FORM: &str = "neither local, all_up nor a number of other members between 1 and 99";

fn parse_ack(text: &str) -> Option<Ack> {
    match text {
        "local" => Some(Ack::Local),
        "all_up" => Some(Ack::AllUp),
        _ => parse_number(text).filter(|count| (1..=99).contains(count)).map(|count| Ack::Others(count as u32)),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text).map_err(|error| error.to_string())?;
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err(format!("a time limit is above 0 and at most {}", duration::format(MAX_TIMEOUT)));
    }
    Ok(timeout)
}

/// A header that says what a parameter does.
pub(super) fn twin<T, E: std::fmt::Display>(
    headers: &HeaderMap,
    name: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Refusal> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let bad = |why: &dyn std::fmt::Display| Refusal::new(Code::BadParameter, format!("{name}: {why}"));
    let text = value.to_str().map_err(|_| bad(&"not visible ASCII"))?;
    parse(text.trim()).map(Some).map_err(|why| bad(&why))
}

/// The name of a consistency in answers.
pub(super) fn consistency_name(freshness: Freshness) -> &'static str {
    if freshness.is_linearizable { "linearizable" } else { "local" }
}
