//! Keyspace settings between how they travel and how the catalog has them.

use quorate_api::key::MAX_KEY_BYTES;
use quorate_api::keyspace::{
    Amount, Capability, EngineBody, LIMITS_FIELDS, LimitsBody, RETENTION_FIELDS, ReplicationBody, RetentionBody, SETTINGS_FIELDS,
    Setting, SettingsBody,
};
use quorate_engine::{OptionSpec, Unit};
use quorate_external::{Comparing, Expiry, PathMode, Spec};
use quorate_node::{
    DEFAULT_RETENTION, EngineSettings, EngineValue, Form, KeyspaceSettings, LimitsRecord, Mode, OptionValue, OutsideRecord,
    ReplicationSettings, RetentionRecord, SettingsError,
};
use serde_json::{Map, Value};

use crate::rest::MAX_WRITE_BYTES;

/// A merge patch (RFC 7396) for the settings of a keyspace. Where it names another type of engine, options of the old one are
/// not merged in: they mean nothing there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsPatch {
    patch: Map<String, Value>,
    memory_bytes: u64,
}

impl SettingsPatch {
    /// `memory_bytes` is how much a keyspace holds whose pairs are in memory, if it says nothing about that.
    pub fn new(patch: Map<String, Value>, memory_bytes: u64) -> Result<Self, SettingsError> {
        known_fields("", &patch, &SETTINGS_FIELDS)?;
        for (field, known) in [("limits", LIMITS_FIELDS), ("retention", RETENTION_FIELDS)] {
            if let Some(Value::Object(fields)) = patch.get(field) {
                known_fields(&format!("{field}: "), fields, &known)?;
            }
        }
        if let Some(field) = ["engine", "replication"].into_iter().find(|field| patch.get(*field) == Some(&Value::Null)) {
            return Err(SettingsError::Invalid(format!("{field}: can be changed, but not taken away")));
        }
        Ok(Self { patch, memory_bytes })
    }

    /// The settings, patched. They may be such that cannot be had.
    pub fn apply(&self, present: &KeyspaceSettings) -> Result<KeyspaceSettings, SettingsError> {
        let mut merged = serde_json::to_value(body_of(present)).expect("settings are plain data");
        let mode = self.patch.get("replication").and_then(|replication| replication.get("mode"));
        if mode.is_some_and(|mode| mode != present.replication.mode.as_str()) {
            merged["replication"] = Value::Null;
        }
        let kind = self.patch.get("engine").and_then(|engine| engine.get("type"));
        if kind.is_some_and(|kind| kind != present.engine.kind.as_str()) {
            merged["engine"] = Value::Null;
            if present.limits.max_bytes == default_limit(present, self.memory_bytes)
                && let Some(limits) = merged["limits"].as_object_mut()
            {
                // Nobody asked for it, and it would mean something else there.
                limits.remove("max_bytes");
            }
        }
        merge(&mut merged, &Value::Object(self.patch.clone()));
        parse(merged).and_then(|body| settings_of(body, self.memory_bytes))
    }
}

/// How much a keyspace with these settings holds that says nothing about it.
fn default_limit(settings: &KeyspaceSettings, memory_bytes: u64) -> Option<u64> {
    KeyspaceSettings::with_defaults(settings.engine.clone(), settings.replication.clone(), memory_bytes).limits.max_bytes
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn known_fields(place: &str, fields: &Map<String, Value>, known: &[&str]) -> Result<(), SettingsError> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(SettingsError::Invalid(format!("{place}there is no field {name:?}; known: {}", known.join(", ")))),
    }
}

/// Settings as they were sent.
pub(super) fn parse(body: Value) -> Result<SettingsBody, SettingsError> {
    // serde would read these from lists, too, field by field: nobody means that.
    let objects = ["engine", "replication", "limits", "retention"];
    if let Some(field) = objects.into_iter().find(|field| body.get(*field).is_some_and(Value::is_array)) {
        return Err(SettingsError::Invalid(format!("{field}: not a list, but an object")));
    }
    serde_json::from_value(body).map_err(|error| SettingsError::Invalid(error.to_string()))
}

/// What was asked for, with defaults filled in. It may be something that cannot be had.
pub(super) fn settings_of(body: SettingsBody, memory_bytes: u64) -> Result<KeyspaceSettings, SettingsError> {
    let engine = body.engine.map(engine_of).transpose()?;
    let replication = match body.replication {
        Some(replication) => replication_of(replication)?,
        None if engine.as_ref().is_some_and(|engine| engine.outside.is_some()) => ReplicationSettings::of(Mode::None),
        None => ReplicationSettings::of(Mode::default()),
    };
    let engine = match engine {
        Some(engine) => engine,
        None => {
            let kind = replication.known_mode().unwrap_or_default().default_engine();
            EngineSettings::of(kind)
        }
    };
    let mut settings = KeyspaceSettings::with_defaults(engine, replication, memory_bytes);
    settings.ttl_ms = body.ttl.map(|ttl| ttl.milliseconds().map_err(|why| invalid("ttl", &why))).transpose()?;
    let limits = body.limits.unwrap_or_default();
    let limit = |name: &str, amount: Option<Amount>| {
        amount.map(|amount| amount.bytes().map_err(|why| invalid(&format!("limits.{name}"), &why))).transpose()
    };
    settings.limits = LimitsRecord {
        max_bytes: limit("max_bytes", limits.max_bytes)?.or(settings.limits.max_bytes),
        max_key_bytes: limit("max_key_bytes", limits.max_key_bytes)?,
        max_value_bytes: limit("max_value_bytes", limits.max_value_bytes)?,
    };
    limit_by_store(&settings.engine, &mut settings.limits)?;
    let retention = body.retention.map(retention_of).transpose()?;
    // Who asks for the default has asked for nothing in particular.
    let is_default = settings.can(Capability::History) && retention == Some(DEFAULT_RETENTION);
    settings.retention = retention.filter(|_| !is_default);
    Ok(settings)
}

fn retention_of(body: RetentionBody) -> Result<RetentionRecord, SettingsError> {
    let RetentionRecord { max_revisions, max_age_ms, max_bytes } = DEFAULT_RETENTION;
    let given = |name: &str, value: Option<Result<u64, String>>, default: u64| match value {
        None => Ok(default),
        Some(value) => value.map_err(|why| invalid(&format!("retention.{name}"), &why)),
    };
    Ok(RetentionRecord {
        max_revisions: given("revisions", body.revisions.map(|amount| amount.count()), max_revisions)?,
        max_age_ms: given("age", body.age.map(|amount| amount.milliseconds()), max_age_ms)?,
        max_bytes: given("bytes", body.bytes.map(|amount| amount.bytes()), max_bytes)?,
    })
}

/// Refuses an engine that no node has, and names all that there are: those inside the nodes, and stores outside.
pub(super) fn check_engine_name(kind: &str) -> Result<(), SettingsError> {
    let inside = || quorate_engine::KINDS.iter().map(|kind| kind.name);
    let outside = || quorate_external::KINDS.iter().map(|kind| kind.name);
    if inside().chain(outside()).any(|name| name == kind) {
        return Ok(());
    }
    let known: Vec<&str> = inside().chain(outside()).collect();
    Err(invalid("engine", &format!("there is no engine {kind:?}; known: {}", known.join(", "))))
}

/// Options are read by their unit. One that the engine does not have is left for the check, which names those that it has.
fn engine_of(body: EngineBody) -> Result<EngineSettings, SettingsError> {
    if quorate_external::kind(&body.kind).is_some() {
        return outside_engine_of(body);
    }
    let known = quorate_engine::kind(&body.kind).map_or(&[][..], |kind| kind.options);
    let mut settings = EngineSettings::of(&body.kind);
    for (name, setting) in body.options {
        let Setting::Amount(amount) = setting else {
            return Err(invalid(&format!("engine.{name}"), "a number, or text with a unit"));
        };
        let value = match known.iter().find(|option| option.name == name).map(|option| option.unit) {
            Some(Unit::Bytes) => amount.bytes(),
            Some(Unit::Count) => amount.count(),
            Some(Unit::Milliseconds) => amount.milliseconds(),
            None => Ok(0),
        };
        let value = value.map_err(|why| invalid(&format!("engine.{name}"), &why))?;
        settings.options.insert(name, EngineValue::Number(value));
    }
    Ok(settings)
}

/// A store outside, checked by who knows stores.
fn outside_engine_of(body: EngineBody) -> Result<EngineSettings, SettingsError> {
    let options = body.options.into_iter().map(|(name, setting)| (name, engine_value(setting))).collect();
    let mut settings = EngineSettings { options, ..EngineSettings::of(&body.kind) };
    let spec = spec_of(&settings)?;
    if spec.path == PathMode::PerNode {
        settings.local = Some(spec.local.to_owned());
        return Ok(settings);
    }
    let can = spec.capabilities();
    settings.outside = Some(OutsideRecord {
        lists: can.listable,
        ordered: can.ordered,
        compares: can.comparing != Comparing::Unconditional,
        expires: can.expiry != Expiry::None,
    });
    Ok(settings)
}

/// The store of such settings.
pub(crate) fn spec_of(settings: &EngineSettings) -> Result<Spec, SettingsError> {
    spec_in(&settings.json()).map_err(SettingsError::Invalid)
}

/// The store of settings as the catalog and its engines have them, in JSON; or why this version does not understand them.
pub(crate) fn spec_in(json: &str) -> Result<Spec, String> {
    let fields: Map<String, Value> = serde_json::from_str(json).map_err(|error| error.to_string())?;
    Spec::parse(&fields).map_err(|error| error.to_string())
}

/// Behind replicas there is a store that must take what they take: later than they are answered it can refuse nothing.
fn limit_by_store(engine: &EngineSettings, limits: &mut LimitsRecord) -> Result<(), SettingsError> {
    if engine.local.is_none() {
        return Ok(());
    }
    let can = spec_of(engine)?.capabilities();
    let bounds = [
        ("max_key_bytes", &mut limits.max_key_bytes, can.max_key_bytes as u64, MAX_KEY_BYTES as u64),
        ("max_value_bytes", &mut limits.max_value_bytes, can.max_value_bytes, MAX_WRITE_BYTES as u64),
    ];
    for (name, limit, most, longest) in bounds {
        match *limit {
            Some(limit) if limit > most => {
                let why = format!("limits.{name}: {} takes {most} bytes at most", engine.kind);
                return Err(SettingsError::Unsupported(why));
            }
            None if most < longest => *limit = Some(most),
            _ => {}
        }
    }
    Ok(())
}

fn engine_value(setting: Setting) -> EngineValue {
    match setting {
        Setting::Amount(Amount::Number(number)) => EngineValue::Number(number),
        Setting::Amount(Amount::Text(text)) => EngineValue::Text(text),
        Setting::Fields(fields) => {
            EngineValue::Fields(fields.into_iter().map(|(name, setting)| (name, engine_value(setting))).collect())
        }
    }
}

fn setting_of(value: &EngineValue) -> Setting {
    match value {
        EngineValue::Number(number) => Amount::Number(*number).into(),
        EngineValue::Text(text) => Amount::Text(text.clone()).into(),
        EngineValue::Fields(fields) => {
            Setting::Fields(fields.iter().map(|(name, value)| (name.clone(), setting_of(value))).collect())
        }
    }
}

/// Options are read by their form. One that the mode does not have is left for the check, which names those that it has.
fn replication_of(body: ReplicationBody) -> Result<ReplicationSettings, SettingsError> {
    let mut settings = ReplicationSettings { mode: body.mode, options: [].into() };
    let known = |name: &str| settings.known_mode()?.options().find(|option| option.name == name);
    let mut options = std::collections::BTreeMap::new();
    for (name, amount) in body.options {
        let value = match known(&name) {
            Some(option) => mode_value(option.form, &amount).ok_or_else(|| option.refusal())?,
            None => OptionValue::Number(0),
        };
        options.insert(name, value);
    }
    settings.options = options;
    Ok(settings)
}

/// The value of a mode's option as the catalog has it.
fn mode_value(form: Form, amount: &Amount) -> Option<OptionValue> {
    let word = |text: &str| OptionValue::Word(text.to_owned().into());
    match (form, amount) {
        (Form::Milliseconds(..), amount) => amount.milliseconds().ok().map(OptionValue::Number),
        (Form::Bytes(..), amount) => amount.bytes().ok().map(OptionValue::Number),
        (Form::Word(_) | Form::Schedule | Form::Node, Amount::Text(text)) => Some(word(text)),
        (Form::Word(_) | Form::Schedule | Form::Node, Amount::Number(_)) => None,
        (Form::WordOrCount(words, ..), Amount::Text(text)) if words.contains(&text.as_str()) => Some(word(text)),
        (Form::Count(..) | Form::WordOrCount(..), amount) => amount.count().ok().map(OptionValue::Number),
    }
}

/// The value of a mode's option as it is told.
pub(super) fn mode_amount(form: Form, value: &OptionValue) -> Amount {
    match (form, value) {
        (Form::Milliseconds(..), OptionValue::Number(ms)) => Amount::of_milliseconds(*ms),
        (_, OptionValue::Number(number)) => Amount::Number(*number),
        (_, OptionValue::Word(word)) => Amount::Text(word.clone().into_owned()),
    }
}

/// A replication mode with its options as it is told.
pub(super) fn replication_body(settings: &ReplicationSettings) -> ReplicationBody {
    let form = |name: &str| settings.known_mode()?.options().find(|option| option.name == name).map(|option| option.form);
    let told = |(name, value): (&String, &OptionValue)| {
        let amount = mode_amount(form(name).unwrap_or(Form::Count(0, u64::MAX)), value);
        (name.clone(), amount)
    };
    ReplicationBody { mode: settings.mode.clone(), options: settings.options.iter().map(told).collect() }
}

fn invalid(place: &str, why: &str) -> SettingsError {
    SettingsError::Invalid(format!("{place}: {why}"))
}

/// Settings as they are told; sent back, they come out the same.
pub(super) fn body_of(settings: &KeyspaceSettings) -> SettingsBody {
    SettingsBody {
        engine: Some(engine_body(&settings.engine)),
        replication: Some(replication_body(&settings.replication)),
        ttl: settings.ttl_ms.map(Amount::of_milliseconds),
        limits: Some(limits_body(&settings.limits)),
        retention: settings.retention.as_ref().map(retention_body),
    }
}

/// A retention as it is told.
pub(super) fn retention_body(retention: &RetentionRecord) -> RetentionBody {
    RetentionBody {
        revisions: Some(Amount::Number(retention.max_revisions)),
        age: Some(Amount::of_milliseconds(retention.max_age_ms)),
        bytes: Some(Amount::Number(retention.max_bytes)),
    }
}

/// An engine as it is told.
pub(crate) fn engine_body(settings: &EngineSettings) -> EngineBody {
    let known = quorate_engine::kind(&settings.kind).map_or(&[][..], |kind| kind.options);
    let told = |name: &String, value: &EngineValue| match (known.iter().find(|option| option.name == name), value) {
        (Some(option), EngineValue::Number(number)) => amount_of(option, *number).into(),
        (_, value) => setting_of(value),
    };
    let options = settings.options.iter().map(|(name, value)| (name.clone(), told(name, value)));
    EngineBody { kind: settings.kind.clone(), options: options.collect() }
}

/// The value of an option as it is told.
pub(super) fn amount_of(option: &OptionSpec, value: u64) -> Amount {
    match option.unit {
        Unit::Bytes | Unit::Count => Amount::Number(value),
        Unit::Milliseconds => Amount::of_milliseconds(value),
    }
}

pub(super) fn limits_body(limits: &LimitsRecord) -> LimitsBody {
    LimitsBody {
        max_bytes: limits.max_bytes.map(Amount::Number),
        max_key_bytes: limits.max_key_bytes.map(Amount::Number),
        max_value_bytes: limits.max_value_bytes.map(Amount::Number),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MEMORY_BYTES: u64 = 1 << 30;

    fn settings(body: Value) -> KeyspaceSettings {
        parse(body).and_then(|body| settings_of(body, MEMORY_BYTES)).unwrap()
    }

    fn patched(present: &KeyspaceSettings, patch: Value) -> Result<KeyspaceSettings, SettingsError> {
        let Value::Object(patch) = patch else { panic!("a patch is an object") };
        SettingsPatch::new(patch, MEMORY_BYTES)?.apply(present)
    }

    fn full() -> KeyspaceSettings {
        KeyspaceSettings {
            engine: EngineSettings {
                options: [("max_entries".to_owned(), EngineValue::Number(7))].into(),
                ..EngineSettings::of("made-up")
            },
            replication: ReplicationSettings::of(Mode::None),
            ttl_ms: Some(1_800_000),
            limits: LimitsRecord { max_bytes: Some(9), max_key_bytes: Some(8), max_value_bytes: Some(7) },
            retention: Some(RetentionRecord { max_revisions: 6, max_age_ms: 5000, max_bytes: 4 }),
        }
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let defaults = settings(json!({}));
        assert_eq!((defaults.engine.kind.as_str(), defaults.replication.mode.as_str()), (quorate_node::DEFAULT_ENGINE, "raft"));
        assert_eq!((defaults.ttl_ms, defaults.check().is_ok()), (None, true));
        let alone = settings(json!({"replication": {"mode": "none"}}));
        assert_eq!((alone.engine.kind.as_str(), alone.check().is_ok()), ("trie", true));
        let limited = settings(json!({"engine": {"type": "trie"}, "ttl": "30m", "limits": {"max_value_bytes": "1KiB"}}));
        let limits = LimitsRecord { max_bytes: Some(MEMORY_BYTES), max_key_bytes: None, max_value_bytes: Some(1024) };
        assert_eq!((limited.ttl_ms, limited.limits), (Some(1_800_000), limits));
    }

    #[test]
    fn what_is_told_can_be_sent_back() {
        for settings in [full(), settings(json!({}))] {
            let told = serde_json::to_value(body_of(&settings)).unwrap();
            let again = parse(told).and_then(|body| settings_of(body, MEMORY_BYTES));
            // The option of an engine that is not known is read as nothing in particular.
            assert_eq!(again.map(|again| KeyspaceSettings { engine: settings.engine.clone(), ..again }), Ok(settings));
        }
    }

    #[test]
    fn a_patch_changes_what_it_names() {
        let present = settings(json!({"engine": {"type": "trie"}, "limits": {"max_bytes": 5, "max_key_bytes": 4}}));
        let altered = patched(&present, json!({"limits": {"max_bytes": "1KiB", "max_key_bytes": null}})).unwrap();
        let limits = LimitsRecord { max_bytes: Some(1024), ..LimitsRecord::default() };
        assert_eq!(altered, KeyspaceSettings { limits, ..present.clone() });
        assert_eq!(patched(&present, json!({})), Ok(present.clone()));
        let unlimited = patched(&present, json!({"limits": null})).unwrap();
        let default = LimitsRecord { max_bytes: Some(MEMORY_BYTES), ..LimitsRecord::default() };
        assert_eq!(unlimited.limits, default);
        let timed = patched(&present, json!({"ttl": "5s"})).unwrap();
        assert_eq!((timed.ttl_ms, patched(&timed, json!({"ttl": null}))), (Some(5000), Ok(present)));
    }

    #[test]
    fn a_limit_that_nobody_asked_for_is_that_of_the_engine() {
        let max_bytes = |present: &KeyspaceSettings, patch| patched(present, patch).unwrap().limits.max_bytes;
        let in_memory = settings(json!({"engine": {"type": "trie"}}));
        assert_eq!(max_bytes(&in_memory, json!({"engine": {"type": "lsm"}})), None);
        assert_eq!(max_bytes(&in_memory, json!({"engine": {"type": "hash"}})), Some(MEMORY_BYTES));
        let on_disk = settings(json!({"engine": {"type": "lsm"}}));
        assert_eq!(max_bytes(&on_disk, json!({"engine": {"type": "trie"}})), Some(MEMORY_BYTES));
        let limited = settings(json!({"engine": {"type": "trie"}, "limits": {"max_bytes": "5MiB"}}));
        assert_eq!(max_bytes(&limited, json!({"engine": {"type": "lsm"}})), Some(5 << 20));
        let both = json!({"engine": {"type": "lsm"}, "limits": {"max_bytes": "7MiB"}});
        assert_eq!(max_bytes(&in_memory, both), Some(7 << 20));
    }

    #[test]
    fn the_past_is_kept_by_default_where_it_can_be() {
        let present = settings(json!({"engine": {"type": "trie"}}));
        assert_eq!((present.retention, present.can(Capability::History)), (None, true));
        let all = |revisions, age, bytes| json!({"retention": {"revisions": revisions, "age": age, "bytes": bytes}});
        assert_eq!(patched(&present, all(10_000, "1h", "64MiB")), Ok(present.clone()), "what is told can be sent back");
        let less = patched(&present, json!({"retention": {"revisions": 5}})).unwrap();
        assert_eq!(less.retention, Some(RetentionRecord { max_revisions: 5, ..DEFAULT_RETENTION }));
        let shorter = patched(&less, json!({"retention": {"revisions": null, "age": "10m"}})).unwrap();
        assert_eq!(shorter.retention, Some(RetentionRecord { max_age_ms: 600_000, ..DEFAULT_RETENTION }));
        assert_eq!(patched(&shorter, json!({"retention": null})), Ok(present.clone()));
        let off = patched(&present, json!({"retention": {"revisions": 0}})).unwrap();
        assert_eq!((off.can(Capability::History), off.check().is_ok()), (false, true));
        assert!(patched(&present, json!({"engine": {"type": "hash"}})).unwrap().check().is_ok());
        for asked in [json!({"revisions": 5}), json!({})] {
            let asked = settings(json!({"engine": {"type": "hash"}, "retention": asked}));
            let error = asked.check().unwrap_err().to_string();
            assert!(
                error.starts_with("retention: the engine hash with replication raft keeps no history; possible with: "),
                "{error}"
            );
            assert!(error.contains("trie with raft") && !error.contains("hash with raft, "), "{error}");
        }
    }

    #[test]
    fn another_engine_begins_with_its_own_options() {
        let altered = patched(&full(), json!({"engine": {"type": "trie"}})).unwrap();
        assert_eq!(altered.engine, EngineSettings::of("trie"));
        let same = patched(&full(), json!({"engine": {"type": "made-up", "beads": 3}})).unwrap();
        assert_eq!(same.engine.options.keys().collect::<Vec<_>>(), ["beads", "max_entries"]);
    }

    #[test]
    fn a_mode_has_its_options() {
        let push = settings(json!({"replication": {"mode": "push", "ack": 2, "linger": "5ms", "outbox_max": "1MiB"}}));
        assert_eq!((push.engine.kind.as_str(), push.check().is_ok()), ("trie", true));
        let told = serde_json::to_value(body_of(&push)).unwrap();
        assert_eq!(told["replication"], json!({"mode": "push", "ack": 2, "linger": "5ms", "outbox_max": 1_048_576}));
        assert_eq!(settings(told), push, "what is told can be sent back");
        let patch = json!({"replication": {"ack": "all_up", "linger": null}});
        let told = serde_json::to_value(body_of(&patched(&push, patch).unwrap())).unwrap();
        assert_eq!(told["replication"], json!({"mode": "push", "ack": "all_up", "outbox_max": 1_048_576}));
        let refused = |replication: Value| {
            let parsed = parse(json!({"replication": replication})).and_then(|body| settings_of(body, MEMORY_BYTES));
            parsed.and_then(|settings| settings.check()).unwrap_err().to_string()
        };
        for (replication, told) in [
            (json!({"mode": "push", "linger": 5}), "replication.linger: a time between"),
            (json!({"mode": "push", "ack": "nobody"}), "replication.ack: local, all_up, or a number"),
            (json!({"mode": "batch", "linger": "5ms"}), "the mode batch has no option \"linger\"; known: ack, interval"),
            (json!({"mode": "batch", "max_bytes": "much"}), "replication.max_bytes: between"),
            (json!({"mode": "full-copy", "copy_rate": "fast"}), "replication.copy_rate: between 65536 and"),
            (json!({"mode": "full-copy", "copy_rate": "1KiB"}), "replication.copy_rate: between 65536 and"),
            (json!({"mode": "paxos"}), "known: raft, push"),
            (json!({}), "missing field `mode`"),
        ] {
            let why = refused(replication);
            assert!(why.contains(told), "{why}");
        }
        let other = patched(&push, json!({"replication": {"mode": "raft"}})).unwrap();
        assert_eq!(other.replication, ReplicationSettings::of(Mode::Raft), "options of another mode are not merged in");
    }

    #[test]
    fn patches_that_make_no_sense_are_refused() {
        let present = settings(json!({}));
        for (patch, told) in [
            (json!({"name": "x"}), "known: engine, replication, ttl, limits, retention"),
            (json!({"retention": {"count": 1}}), "retention: there is no field \"count\"; known: revisions, age, bytes"),
            (json!({"retention": {"age": 5}}), "retention.age: 5 has no unit"),
            (json!({"retention": {"bytes": "much"}}), "retention.bytes: `much` is no amount of bytes"),
            (json!({"name": null}), "known: engine"),
            (json!({"limits": {"max": null}}), "limits: there is no field \"max\"; known: max_bytes"),
            (json!({"engine": null}), "engine: can be changed"),
            (json!({"replication": null}), "replication: can be changed"),
            (json!({"engine": "lsm"}), "invalid type"),
            (json!({"limits": {"max_bytes": "much"}}), "limits.max_bytes: `much` is no amount of bytes"),
            (json!({"ttl": 5}), "ttl: 5 has no unit"),
        ] {
            let error = patched(&present, patch).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }
}
