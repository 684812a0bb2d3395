//! What goes with what, over kinds of engines that are made up here: which ones this version has does not matter.

use std::collections::BTreeMap;

use super::*;
use crate::catalog::OptionValue;

fn kind(durable: bool, evicts: bool) -> Kind {
    let mut kind = KINDS[0];
    kind.capabilities.durable = durable;
    kind.capabilities.evicts = evicts;
    kind
}

fn settings() -> KeyspaceSettings {
    KeyspaceSettings {
        engine: EngineSettings::of(DEFAULT_ENGINE),
        replication: ReplicationSettings::of(Mode::Raft),
        ttl_ms: None,
        limits: LimitsRecord::default(),
        retention: None,
    }
}

fn with_limits(limits: LimitsRecord) -> KeyspaceSettings {
    KeyspaceSettings { limits, ..settings() }
}

#[test]
fn defaults_can_be_had() {
    assert_eq!(settings().check(), Ok(()));
    assert_eq!((settings().engine.kind.as_str(), settings().replication.check()), (DEFAULT_ENGINE, Ok(Mode::Raft)));
}

#[test]
fn engines_go_with_modes_that_keep_their_promises() {
    for (durable, evicts, mode, is_possible) in [
        (false, false, Mode::Raft, true),
        (true, false, Mode::Raft, true),
        (false, true, Mode::Raft, false),
        (false, false, Mode::None, true),
        (true, false, Mode::None, false),
        (false, true, Mode::None, true),
        (false, false, Mode::Push, true),
        (false, true, Mode::Push, true),
        (true, false, Mode::Push, true),
        (true, false, Mode::Batch, true),
        (true, false, Mode::FullCopy, true),
        (false, true, Mode::FullCopy, false),
    ] {
        let checked = check_pair(&kind(durable, evicts), mode);
        assert_eq!(checked.is_ok(), is_possible, "durable {durable}, evicts {evicts}, {mode:?}");
        let why = checked.map_or_else(|error| error.to_string(), |()| String::new());
        assert!(is_possible || why.contains("trie with"), "it names what is possible: {why}");
    }
    let why = check_pair(&kind(false, true), Mode::Raft).unwrap_err().to_string();
    assert!(why.contains("evictions would have to be log entries"), "{why}");
}

#[test]
fn pairs_live_for_a_while_where_the_engine_or_the_log_lets_them_go() {
    assert!(has_ttl(&kind(false, true), Mode::None) && has_ttl(&kind(false, false), Mode::Raft));
    assert!(!has_ttl(&kind(false, false), Mode::None) && !has_ttl(&kind(false, true), Mode::Raft));
    let timed = |ttl_ms| KeyspaceSettings { ttl_ms: Some(ttl_ms), ..settings() };
    assert!(timed(1000).check().is_ok());
    let alone = timed(1000).check_ttl(&kind(false, false), Mode::None);
    assert!(matches!(alone, Err(SettingsError::Unsupported(why)) if why.starts_with("ttl")));
    assert!(matches!(timed(0).check(), Err(SettingsError::Invalid(_))));
    assert!(matches!(timed(MAX_TTL_MS + 1).check(), Err(SettingsError::Invalid(_))));
    assert_eq!(timed(1000).check_ttl(&kind(false, true), Mode::None), Ok(()));
}

#[test]
fn engines_and_options_that_are_not_known_are_refused_with_what_is() {
    let unknown = KeyspaceSettings { engine: EngineSettings::of("abacus"), ..settings() };
    assert!(matches!(unknown.check(), Err(SettingsError::Invalid(why)) if why.contains("abacus") && why.contains("trie")));
    let options = BTreeMap::from([("beads".to_owned(), EngineValue::Number(7))]);
    let unknown = KeyspaceSettings { engine: EngineSettings { options, ..settings().engine }, ..settings() };
    assert!(matches!(unknown.check(), Err(SettingsError::Invalid(why)) if why.contains("beads")));
}

fn outside(store: OutsideRecord) -> KeyspaceSettings {
    let url = EngineValue::Text("redis://127.0.0.1:6379/0".to_owned());
    let credentials = EngineValue::Fields([("env".to_owned(), EngineValue::Fields(BTreeMap::new()))].into());
    let options = [("url".to_owned(), url), ("credentials".to_owned(), credentials)].into();
    KeyspaceSettings {
        engine: EngineSettings { options, outside: Some(store), ..EngineSettings::of("redis") },
        replication: ReplicationSettings::of(Mode::None),
        limits: LimitsRecord::default(),
        ..settings()
    }
}

#[test]
fn a_store_outside_goes_with_no_replication_and_has_what_it_says() {
    let all = OutsideRecord { lists: true, ordered: true, compares: true, expires: true };
    assert_eq!(outside(all).check(), Ok(()));
    let has = |store| Capability::ALL.into_iter().filter(|can| outside(store).can(*can)).collect::<Vec<_>>();
    let [ordered, prefix, range, cas, ttl] =
        [Capability::Ordered, Capability::Prefix, Capability::Range, Capability::Cas, Capability::TtlPerKey];
    assert_eq!(has(all), [ordered, prefix, range, cas, ttl]);
    assert_eq!(has(OutsideRecord { lists: false, ..all }), [cas, ttl]);
    assert_eq!(has(OutsideRecord { ordered: false, compares: false, expires: false, ..all }), [prefix, range]);

    let why = |settings: KeyspaceSettings| settings.check().unwrap_err().to_string();
    for mode in Mode::ALL.into_iter().filter(|mode| *mode != Mode::None) {
        let told = why(KeyspaceSettings { replication: ReplicationSettings::of(mode), ..outside(all) });
        assert!(told.contains(mode.name()) && told.contains("Possible: redis with none"), "{told}");
    }
    let limits = LimitsRecord { max_bytes: Some(1), ..LimitsRecord::default() };
    assert!(why(KeyspaceSettings { limits, ..outside(all) }).starts_with("limits.max_bytes"));
    let retention = Some(DEFAULT_RETENTION);
    assert!(why(KeyspaceSettings { retention, ..outside(all) }).starts_with("retention"));
    let timed = |store| KeyspaceSettings { ttl_ms: Some(1), ..outside(store) };
    assert_eq!(timed(all).check(), Ok(()));
    assert!(why(timed(OutsideRecord { expires: false, ..all })).starts_with("ttl"));
}

#[test]
fn settings_of_a_store_outside_are_read_back_and_are_bounded() {
    let mut settings = outside(OutsideRecord::default());
    let json = serde_json::to_string(&settings.engine).unwrap();
    assert_eq!(serde_json::from_str::<EngineSettings>(&json).unwrap(), settings.engine, "{json}");
    let old: EngineSettings = serde_json::from_str(r#"{"type":"cache","options":{"max_entries":7}}"#).unwrap();
    assert_eq!((old.outside, old.spec().options["max_entries"]), (None, 7));
    settings.engine.options.insert("prefix".to_owned(), EngineValue::Text("x".repeat(5000)));
    assert!(matches!(settings.check(), Err(SettingsError::Invalid(why)) if why.contains("4096 bytes")));
    let word = EngineSettings { outside: None, ..settings.engine };
    assert!(KeyspaceSettings { engine: EngineSettings { kind: "trie".to_owned(), ..word }, ..settings }.check().is_err());
}

#[test]
fn what_is_copied_as_a_whole_after_writes_is_small() {
    let on_write = |max_bytes: Option<Option<u64>>| {
        let text = r#"{"mode":"full-copy","trigger":"on_write"}"#;
        let engine = EngineSettings::of("trie");
        let settings = KeyspaceSettings::with_defaults(engine, serde_json::from_str(text).unwrap(), 1 << 30);
        let limits =
            max_bytes.map_or_else(|| settings.limits.clone(), |max| LimitsRecord { max_bytes: max, ..LimitsRecord::default() });
        KeyspaceSettings { limits, ..settings }.check()
    };
    assert!(on_write(None).is_ok() && on_write(Some(Some(1 << 20))).is_ok());
    for too_much in [None, Some(1 << 30)] {
        assert!(matches!(on_write(Some(too_much)), Err(SettingsError::Unsupported(why)) if why.contains("16777216")));
    }
}

#[test]
fn an_engine_on_a_disk_goes_with_replicas_that_keep_what_they_have() {
    for kind in KINDS.iter().filter(|kind| kind.capabilities.durable) {
        for mode in Mode::ALL.into_iter().filter(|mode| mode.is_eventual()) {
            let of = |options: &[(&'static str, &'static str)]| {
                let word = |(name, word): &(&'static str, &'static str)| ((*name).to_owned(), OptionValue::Word((*word).into()));
                let replication =
                    ReplicationSettings { options: options.iter().map(word).collect(), ..ReplicationSettings::of(mode) };
                KeyspaceSettings::with_defaults(EngineSettings::of(kind.name), replication, 9)
            };
            assert_eq!((of(&[]).check(), of(&[]).limits.max_bytes), (Ok(()), None), "{} with {}", kind.name, mode.name());
            assert_eq!(of(&[("durability", "log")]).check(), Ok(()));
            let volatile = of(&[("durability", "none")]).check();
            assert!(matches!(volatile, Err(SettingsError::Unsupported(why)) if why.starts_with("replication.durability")));
        }
        let on_write = ReplicationSettings {
            options: [("trigger".to_owned(), OptionValue::Word("on_write".into()))].into(),
            ..ReplicationSettings::of(Mode::FullCopy)
        };
        let small = KeyspaceSettings::with_defaults(EngineSettings::of(kind.name), on_write, 1 << 30);
        assert_eq!((small.check(), small.limits.max_bytes), (Ok(()), Some(MAX_COPIED_ON_WRITE_BYTES)));
    }
}

#[test]
fn a_cache_whose_nodes_take_writes_on_their_own_lets_everything_go_in_time() {
    let cached = |replication: &str, ttl_ms| {
        let engine = EngineSettings {
            options: BTreeMap::from([("max_bytes".to_owned(), EngineValue::Number(1 << 20))]),
            ..EngineSettings::of("cache")
        };
        let settings = KeyspaceSettings::with_defaults(engine, serde_json::from_str(replication).unwrap(), 1 << 30);
        KeyspaceSettings { ttl_ms, ..settings }.check().map_err(|error| error.to_string())
    };
    assert_eq!(cached(r#"{"mode":"push","sends":"invalidations"}"#, Some(60_000)), Ok(()));
    for (replication, ttl_ms, told) in [
        (r#"{"mode":"push"}"#, None, "ttl: the engine cache with replication push needs one"),
        (r#"{"mode":"push","durability":"log"}"#, Some(1), "no log brings back"),
        (r#"{"mode":"full-copy"}"#, Some(1), "cache does not go with replication full-copy"),
    ] {
        let why = cached(replication, ttl_ms).unwrap_err();
        assert!(why.contains(told), "{why}");
    }
    let plain = ReplicationSettings {
        options: BTreeMap::from([("sends".to_owned(), OptionValue::Word("values".into()))]),
        ..ReplicationSettings::of(Mode::Push)
    };
    let engine = EngineSettings::of("trie");
    assert!(KeyspaceSettings::with_defaults(engine, plain, 1).check().is_err());
}

#[test]
fn limits_are_within_limits() {
    let none = LimitsRecord::default;
    let longest = MAX_KEY_BYTES as u64;
    for bad in [
        LimitsRecord { max_bytes: Some(0), ..none() },
        LimitsRecord { max_key_bytes: Some(0), ..none() },
        LimitsRecord { max_key_bytes: Some(longest + 1), ..none() },
        LimitsRecord { max_value_bytes: Some(0), ..none() },
    ] {
        assert!(matches!(with_limits(bad.clone()).check(), Err(SettingsError::Invalid(_))), "{bad:?}");
    }
    let good = LimitsRecord { max_bytes: Some(1), max_key_bytes: Some(longest), max_value_bytes: Some(u64::MAX) };
    assert!(with_limits(good.clone()).check().is_ok());
    let evicting = with_limits(good).check_limits(&kind(false, true));
    assert!(matches!(evicting, Err(SettingsError::Unsupported(why)) if why.contains("engine.max_bytes")));
}

#[test]
fn what_a_keyspace_can_do_follows_from_engine_and_mode() {
    let unordered = |mut kind: Kind| {
        kind.capabilities.ordered = false;
        kind
    };
    let mut plain = kind(false, false);
    plain.capabilities.ordered = true;
    assert!(can(&plain, Mode::Raft, Capability::Ordered) && !can(&unordered(plain), Mode::Raft, Capability::Ordered));
    assert!(can(&unordered(plain), Mode::Raft, Capability::Prefix), "it reads and sorts");
    assert!(can(&plain, Mode::Raft, Capability::Linearizable) && !can(&plain, Mode::None, Capability::Linearizable));
    assert!(can(&unordered(plain), Mode::Raft, Capability::Txn) && !can(&plain, Mode::None, Capability::Txn));
    assert!(can(&plain, Mode::Raft, Capability::Leases) && !can(&plain, Mode::None, Capability::Leases));
    assert!(can(&kind(false, true), Mode::None, Capability::TtlPerKey));
    assert!(can(&plain, Mode::Push, Capability::TtlPerKey) && can(&plain, Mode::Push, Capability::Range));
    for capability in [Capability::Cas, Capability::Counters, Capability::Txn, Capability::Linearizable, Capability::History] {
        assert!(!can(&plain, Mode::Push, capability) && !can(&plain, Mode::ReadRepair, capability), "{capability:?}");
    }
    assert!(!can(&kind(false, true), Mode::Raft, Capability::Prefix), "what cannot be had can do nothing");
    assert!(can(&unordered(plain), Mode::Raft, Capability::Watch) && !can(&plain, Mode::None, Capability::Watch));
    assert!(can(&plain, Mode::Push, Capability::Watch) && !can(&plain, Mode::Push, Capability::Revisions), "each node its own");
    assert!(settings().can(Capability::Cas) && settings().can(Capability::TtlPerKey));
    let unknown = EngineSettings::of("abacus");
    assert!(!KeyspaceSettings { engine: unknown, ..settings() }.can(Capability::Cas));
}

#[test]
fn history_needs_order_and_a_log() {
    let mut ordered = kind(false, false);
    ordered.capabilities.ordered = true;
    let mut unordered = ordered;
    unordered.capabilities.ordered = false;
    assert!(can(&ordered, Mode::Raft, Capability::History));
    assert!(!can(&unordered, Mode::Raft, Capability::History) && !can(&ordered, Mode::None, Capability::History));
    let with = |retention| KeyspaceSettings { retention: Some(retention), ..settings() };
    let asked = with(DEFAULT_RETENTION);
    assert_eq!(asked.check_retention(&ordered, Mode::Raft), Ok(()));
    for (kind, mode) in [(unordered, Mode::Raft), (ordered, Mode::None)] {
        assert!(matches!(asked.check_retention(&kind, mode), Err(SettingsError::Unsupported(why)) if why.contains("no history")));
        let off = with(RetentionRecord { max_revisions: 0, ..DEFAULT_RETENTION });
        assert_eq!(off.check_retention(&kind, mode), Ok(()));
    }
    for (bad, name) in [
        (RetentionRecord { max_age_ms: 0, ..DEFAULT_RETENTION }, "retention.age"),
        (RetentionRecord { max_age_ms: MAX_TTL_MS + 1, ..DEFAULT_RETENTION }, "retention.age"),
        (RetentionRecord { max_bytes: 0, ..DEFAULT_RETENTION }, "retention.bytes"),
    ] {
        let error = with(bad).check_retention(&ordered, Mode::Raft);
        assert!(matches!(&error, Err(SettingsError::Invalid(why)) if why.starts_with(name)), "{error:?}");
    }
}

#[test]
fn what_is_in_memory_has_a_bound_by_default() {
    let of =
        |engine: &str| KeyspaceSettings::with_defaults(EngineSettings::of(engine), ReplicationSettings::of(Mode::Raft), 9).limits;
    assert_eq!(of("trie"), LimitsRecord { max_bytes: Some(9), ..LimitsRecord::default() });
    for kind in KINDS {
        let is_bounded_otherwise = kind.capabilities.durable || kind.capabilities.evicts;
        assert_eq!(of(kind.name).max_bytes.is_none(), is_bounded_otherwise, "{}", kind.name);
    }
}
