//! How the replicas of a keyspace agree: the modes, and what can be set for each. From the one table here settings are checked
//! and told, and replicas get what they run with.

use std::borrow::Cow;
use std::collections::BTreeMap;

use quorate_api::key::is_node_name;
use quorate_eventual::{Ack, Batching, CacheOptions, CopyWhen, InstanceId, Options, Schedule, Trigger};
use serde::{Deserialize, Serialize};

use super::settings::{DEFAULT_ENGINE, SettingsError};

/// How the replicas of a keyspace agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Through a log: linearizable, a write is acknowledged when a quorum has it on disk.
    #[default]
    Raft,
    /// Each takes writes on its own, and sends them to the others at once.
    Push,
    /// Each takes writes on its own; reads ask the others, and keep the newest.
    ReadRepair,
    /// Each takes writes on its own, collects them, and sends them to the others now and then.
    Batch,
    /// Each takes writes on its own, and copies all it has to the others now and then.
    FullCopy,
    /// Not at all: each node has its own pairs.
    None,
}

/// A replication mode's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationSettings {
    /// The mode.
    pub mode: String,
    /// Options that were set, by name.
    #[serde(flatten)]
    pub options: BTreeMap<String, OptionValue>,
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptionValue {
    /// A count, bytes, or milliseconds.
    Number(u64),
    /// One of some words.
    Word(Cow<'static, str>),
}

/// Something that can be set for modes.
#[derive(Clone, Copy, Debug)]
pub struct ModeOption {
    /// The name in a keyspace's settings.
    pub name: &'static str,
    /// The modes that have it.
    pub modes: &'static [Mode],
    /// Its values.
    pub form: Form,
    /// What holds if nothing is set; the empty word: nothing.
    pub default: &'static OptionValue,
    /// What it does, in one line for people.
    pub help: &'static str,
}

/// Values of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Milliseconds between these, inclusive; people write `5s`.
    Milliseconds(u64, u64),
    /// Bytes between these, inclusive; people may write `1MiB`.
    Bytes(u64, u64),
    /// A count between these, inclusive.
    Count(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// One of these words, or a count between these, inclusive.
    WordOrCount(&'static [&'static str], u64, u64),
    /// A cron expression, in UTC.
    Schedule,
    /// The name of a node.
    Node,
}

const EVENTUAL: &[Mode] = &[Mode::Push, Mode::ReadRepair, Mode::Batch, Mode::FullCopy];
const DAY_MS: u64 = 86_400_000;
const NOTHING: &OptionValue = &OptionValue::Word(Cow::Borrowed(""));

/// What can be set for modes.
pub const MODE_OPTIONS: &[ModeOption] = &[
    ModeOption {
        name: "ack",
        modes: &[Mode::Push, Mode::Batch],
        form: Form::WordOrCount(&["local", "all_up"], 1, 99),
        default: &OptionValue::Word(Cow::Borrowed("local")),
        help: "whom a write waits for that does not say: nobody else, so many other members, or all that are up",
    },
    ModeOption {
        name: "linger",
        modes: &[Mode::Push],
        form: Form::Milliseconds(0, 10_000),
        default: &OptionValue::Number(1),
        help: "how long a write waits for company before it is sent",
    },
    ModeOption {
        name: "interval",
        modes: &[Mode::Batch],
        form: Form::Milliseconds(10, DAY_MS),
        default: &OptionValue::Number(5_000),
        help: "writes are sent so long after the first that was not; with a schedule, only if this is set",
    },
    ModeOption {
        name: "max_entries",
        modes: &[Mode::Batch],
        form: Form::Count(1, 1_000_000),
        default: &OptionValue::Number(1_000),
        help: "writes of a node are sent once they are so many",
    },
    ModeOption {
        name: "max_bytes",
        modes: &[Mode::Batch],
        form: Form::Bytes(1 << 10, 64 << 20),
        default: &OptionValue::Number(1 << 20),
        help: "writes of a node are sent once they are so many bytes",
    },
    ModeOption {
        name: "schedule",
        modes: &[Mode::Batch, Mode::FullCopy],
        form: Form::Schedule,
        default: NOTHING,
        help: "when, beside that, writes are sent, or everything is copied; a time that was missed is made up for",
    },
    ModeOption {
        name: "sends",
        modes: &[Mode::Push, Mode::Batch],
        form: Form::Word(&["values", "invalidations"]),
        default: &OptionValue::Word(Cow::Borrowed("values")),
        help: "with a cache: whether the others are sent what was written, or only that what they have is old",
    },
    ModeOption {
        name: "fanout",
        modes: &[Mode::ReadRepair],
        form: Form::WordOrCount(&["all"], 1, 99),
        default: &OptionValue::Word(Cow::Borrowed("all")),
        help: "how many of the others a read asks",
    },
    ModeOption {
        name: "read_deadline",
        modes: &[Mode::ReadRepair],
        form: Form::Milliseconds(1, 5_000),
        default: &OptionValue::Number(50),
        help: "how long a read waits for the others",
    },
    ModeOption {
        name: "min_answers",
        modes: &[Mode::ReadRepair],
        form: Form::Count(0, 99),
        default: &OptionValue::Number(0),
        help: "a read that fewer others answer fails",
    },
    ModeOption {
        name: "repair_others",
        modes: &[Mode::ReadRepair],
        form: Form::Word(&["none", "async"]),
        default: &OptionValue::Word(Cow::Borrowed("none")),
        help: "whether those who were behind are told what a read found",
    },
    ModeOption {
        name: "trigger",
        modes: &[Mode::FullCopy],
        form: Form::Word(&["on_write", "schedule", "manual"]),
        default: &OptionValue::Word(Cow::Borrowed("schedule")),
        help: "when everything is copied: after writes, every so often, or when it is asked for",
    },
    ModeOption {
        name: "every",
        modes: &[Mode::FullCopy],
        form: Form::Milliseconds(100, 30 * DAY_MS),
        default: &OptionValue::Number(60_000),
        help: "with the trigger schedule: how often",
    },
    ModeOption {
        name: "quiet",
        modes: &[Mode::FullCopy],
        form: Form::Milliseconds(0, DAY_MS),
        default: &OptionValue::Number(1_000),
        help: "with the trigger on_write: how long there must have been no write",
    },
    ModeOption {
        name: "min_interval",
        modes: &[Mode::FullCopy],
        form: Form::Milliseconds(0, DAY_MS),
        default: &OptionValue::Number(1_000),
        help: "with the trigger on_write: the shortest time between two copies",
    },
    ModeOption {
        name: "variant",
        modes: &[Mode::FullCopy],
        form: Form::Word(&["merge", "mirror"]),
        default: &OptionValue::Word(Cow::Borrowed("merge")),
        help: "whether a copy is merged into what is there, or takes its place: then one node alone is written to",
    },
    ModeOption {
        name: "source",
        modes: &[Mode::FullCopy],
        form: Form::Node,
        default: NOTHING,
        help: "with the variant mirror: the node that is written to, and copied",
    },
    ModeOption {
        name: "copy_rate",
        modes: &[Mode::FullCopy],
        form: Form::Bytes(64 << 10, 1 << 40),
        default: NOTHING,
        help: "most bytes that copies from a node take in a second, to all others together; nothing: no bound",
    },
    ModeOption {
        name: "conflict_log",
        modes: EVENTUAL,
        form: Form::Word(&["off", "on"]),
        default: &OptionValue::Word(Cow::Borrowed("off")),
        help: "whether the newest writes that gave way to others, which knew nothing of them, are told in the stats",
    },
    ModeOption {
        name: "durability",
        modes: EVENTUAL,
        form: Form::Word(&["log", "none"]),
        default: &OptionValue::Word(Cow::Borrowed("log")),
        help: "whether a node has its pairs again after a restart by its own log, or only by the others",
    },
    ModeOption {
        name: "sync_interval",
        modes: EVENTUAL,
        form: Form::Milliseconds(100, DAY_MS),
        default: &OptionValue::Number(60_000),
        help: "how often a replica compares what it has with another, whatever happens",
    },
    ModeOption {
        name: "outbox_max",
        modes: &[Mode::Push, Mode::Batch],
        form: Form::Bytes(64 << 10, 4 << 30),
        default: &OptionValue::Number(64 << 20),
        help: "most bytes of writes that others have not confirmed; then writers wait, and the slowest is compared with later",
    },
    ModeOption {
        name: "max_clock_offset",
        modes: EVENTUAL,
        form: Form::Milliseconds(10, DAY_MS),
        default: &OptionValue::Number(500),
        help: "a node whose clock is further off than this from the others' takes no writes",
    },
];

/// A keyspace that is copied as a whole after writes is not larger than this.
pub(super) const MAX_COPIED_ON_WRITE_BYTES: u64 = 16 << 20;

impl Mode {
    /// All modes that there are.
    pub const ALL: [Self; 6] = [Self::Raft, Self::Push, Self::ReadRepair, Self::Batch, Self::FullCopy, Self::None];

    /// The engine of a keyspace with this mode whose settings name none.
    pub fn default_engine(self) -> &'static str {
        match self {
            Self::Raft => DEFAULT_ENGINE,
            // Without a log only what is in memory can be had; and eventual replicas keep theirs there.
            Self::None | Self::Push | Self::ReadRepair | Self::Batch | Self::FullCopy => "trie",
        }
    }

    /// Its name in a keyspace's settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Push => "push",
            Self::ReadRepair => "read-repair",
            Self::Batch => "batch",
            Self::FullCopy => "full-copy",
            Self::None => "none",
        }
    }

    /// Whether replicas take writes on their own, and become equal later.
    pub fn is_eventual(self) -> bool {
        EVENTUAL.contains(&self)
    }

    /// What can be set for it.
    pub fn options(self) -> impl Iterator<Item = &'static ModeOption> {
        MODE_OPTIONS.iter().filter(move |option| option.modes.contains(&self))
    }

    /// What it is, in one line for people.
    pub fn summary(self) -> &'static str {
        match self {
            Self::Raft => "linearizable: a write is acknowledged when a quorum has it on disk",
            Self::Push => "a node takes writes on its own and sends them to the others at once",
            Self::ReadRepair => "a node takes writes on its own; a read asks the others and keeps the newest",
            Self::Batch => "a node takes writes on its own, collects them, and sends them by time, count or bytes",
            Self::FullCopy => "a node takes writes on its own, and all it has is copied to the others and merged",
            Self::None => "nodes agree on nothing: each has pairs of its own, or all of them use those of a store outside",
        }
    }
}

impl ModeOption {
    /// Refuses a value that it cannot have.
    fn check(&self, value: &OptionValue) -> Result<(), SettingsError> {
        if let (Form::Schedule, OptionValue::Word(text)) = (self.form, value) {
            let parsed = text.parse::<Schedule>().map(drop);
            return parsed.map_err(|why| SettingsError::Invalid(format!("replication.{}: {why}", self.name)));
        }
        let is_within = match (self.form, value) {
            (
                Form::Milliseconds(min, max) | Form::Bytes(min, max) | Form::Count(min, max) | Form::WordOrCount(_, min, max),
                OptionValue::Number(number),
            ) => (min..=max).contains(number),
            (Form::Word(words) | Form::WordOrCount(words, ..), OptionValue::Word(word)) => words.contains(&word.as_ref()),
            (Form::Node, OptionValue::Word(word)) => is_node_name(word),
            _ => false,
        };
        if is_within { Ok(()) } else { Err(self.refusal()) }
    }

    /// What it can be, as an error for people.
    pub fn refusal(&self) -> SettingsError {
        SettingsError::Invalid(format!("replication.{}: {}", self.name, self.form))
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Milliseconds(min, max) => {
                let [min, max] = [min, max].map(|ms| quorate_api::duration::format(std::time::Duration::from_millis(*ms)));
                write!(f, "a time between {min} and {max}, with its unit")
            }
            Self::Bytes(min, max) => write!(f, "between {min} and {max} bytes, as in 1MiB"),
            Self::Count(min, max) => write!(f, "a number between {min} and {max}"),
            Self::Word(words) => write!(f, "one of {}", words.join(", ")),
            Self::Schedule => f.write_str("a cron expression in UTC, as in `30 2 * * MON-FRI`"),
            Self::Node => f.write_str("the name of a node"),
            Self::WordOrCount(words, min, max) => write!(f, "{}, or a number between {min} and {max}", words.join(", ")),
        }
    }
}

impl ReplicationSettings {
    /// A mode with its defaults.
    pub fn of(mode: Mode) -> Self {
        Self { mode: mode.name().to_owned(), options: BTreeMap::new() }
    }

    /// The mode, if there is one of this name, and its options are such as it has.
    pub fn check(&self) -> Result<Mode, SettingsError> {
        let mode = self.known_mode().ok_or_else(|| {
            let known = Mode::ALL.map(Mode::name).join(", ");
            SettingsError::Invalid(format!("replication.mode: there is no mode {:?}; known: {known}", self.mode))
        })?;
        for (name, value) in &self.options {
            let option = mode.options().find(|option| option.name == name);
            option.ok_or_else(|| unknown_option(mode, name))?.check(value)?;
        }
        if mode == Mode::FullCopy && self.is_word("variant", "mirror") != self.options.contains_key("source") {
            let why = "replication.source: with the variant mirror, and only with it, names the node that is written to";
            return Err(SettingsError::Invalid(why.to_owned()));
        }
        Ok(mode)
    }

    /// The mode, if there is one of this name.
    pub fn known_mode(&self) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == self.mode)
    }

    /// Whether the replicas agree through a Raft group.
    pub fn is_raft(&self) -> bool {
        self.mode == Mode::Raft.name()
    }

    /// Whether each node has pairs of its own.
    pub fn is_alone(&self) -> bool {
        self.known_mode() == Some(Mode::None)
    }

    /// Whether replicas take writes on their own, and become equal later.
    pub fn is_eventual(&self) -> bool {
        self.known_mode().is_some_and(Mode::is_eventual)
    }

    /// The value of an option, set or by default. Only of modes that have it.
    fn value(&self, name: &str) -> &OptionValue {
        let default = || MODE_OPTIONS.iter().find(|option| option.name == name).expect("options are asked for by name").default;
        self.options.get(name).unwrap_or_else(default)
    }

    fn number(&self, name: &str) -> u64 {
        match self.value(name) {
            OptionValue::Number(number) => *number,
            OptionValue::Word(_) => 0,
        }
    }

    fn is_word(&self, name: &str, word: &str) -> bool {
        matches!(self.value(name), OptionValue::Word(value) if value == word)
    }

    /// Whether a node has its pairs again after a restart by itself. Only of eventual modes.
    pub fn is_durable(&self) -> bool {
        self.is_word("durability", "log")
    }

    /// The node that is written to, where one is copied to all others as it is.
    pub fn source(&self) -> Option<&str> {
        match self.value("source") {
            OptionValue::Word(name) if !name.is_empty() && self.is_word("variant", "mirror") => Some(name),
            _ => None,
        }
    }

    /// How many others a write waits for that does not say itself, if that is a number. Only of eventual modes.
    pub(super) fn waits_for(&self) -> Option<u64> {
        match self.value("ack") {
            OptionValue::Number(others) => Some(*others),
            OptionValue::Word(_) => None,
        }
    }

    fn copy_rate(&self) -> Option<u64> {
        match self.value("copy_rate") {
            OptionValue::Number(rate) => Some(*rate),
            OptionValue::Word(_) => None,
        }
    }

    fn schedule(&self) -> Option<Schedule> {
        match self.value("schedule") {
            OptionValue::Word(text) => text.parse().ok(),
            OptionValue::Number(_) => None,
        }
    }

    /// Whether everything is copied after writes.
    pub(super) fn is_copied_on_write(&self) -> bool {
        self.known_mode() == Some(Mode::FullCopy) && self.is_word("trigger", "on_write")
    }

    /// What replicas run with; none where the mode is not eventual.
    pub(crate) fn eventual_options(&self, beside: Beside) -> Option<Options> {
        let Beside { max_bytes, seed, source, cache_ttl_ms } = beside;
        let trigger = match self.known_mode()? {
            Mode::Push => {
                let Trigger::Write(batching) = Trigger::push() else { return None };
                Trigger::Write(Batching { interval_ms: self.number("linger"), ..batching })
            }
            Mode::Batch => Trigger::Write(Batching {
                // With a schedule that says when, nothing else does, unless it is set.
                interval_ms: match self.schedule().filter(|_| !self.options.contains_key("interval")) {
                    Some(_) => u64::MAX,
                    None => self.number("interval"),
                },
                max_entries: self.number("max_entries"),
                max_bytes: self.number("max_bytes"),
            }),
            Mode::ReadRepair => Trigger::Read {
                fanout: if self.is_word("fanout", "all") { usize::MAX } else { self.number("fanout") as usize },
                deadline_ms: self.number("read_deadline"),
                min_answers: self.number("min_answers") as usize,
                repairs_others: self.is_word("repair_others", "async"),
            },
            Mode::FullCopy => Trigger::Copy(self.copy_when()),
            Mode::Raft | Mode::None => return None,
        };
        let ack = match self.value("ack") {
            OptionValue::Number(count) => Ack::Others(*count as u32),
            OptionValue::Word(word) if word == "all_up" => Ack::AllUp,
            OptionValue::Word(_) => Ack::Local,
        };
        Some(Options {
            // What a cache forgets no log brings back.
            is_durable: self.is_durable() && cache_ttl_ms.is_none(),
            cache: cache_ttl_ms.map(|ttl_ms| CacheOptions { ttl_ms, invalidates: self.is_word("sends", "invalidations") }),
            ack,
            sync_interval_ms: self.number("sync_interval"),
            max_bytes,
            outbox_max_bytes: self.number("outbox_max"),
            max_clock_offset_ms: self.number("max_clock_offset"),
            digest_seed: seed,
            mirror_of: source,
            schedule: self.schedule(),
            copy_rate: self.copy_rate(),
            logs_conflicts: self.is_word("conflict_log", "on"),
            ..Options::new(trigger)
        })
    }

    fn copy_when(&self) -> CopyWhen {
        if self.is_word("trigger", "manual") {
            CopyWhen::Manual
        } else if self.is_word("trigger", "on_write") {
            CopyWhen::OnWrite { quiet_ms: self.number("quiet"), min_interval_ms: self.number("min_interval") }
        } else if self.schedule().is_some() && !self.options.contains_key("every") {
            // The schedule says when; nothing else does.
            CopyWhen::Manual
        } else {
            CopyWhen::Every(self.number("every"))
        }
    }
}

/// What the options of replicas depend on beside the mode's own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beside {
    /// Most bytes of keys and values.
    pub(crate) max_bytes: u64,
    /// The same for all replicas of a keyspace.
    pub(crate) seed: u64,
    /// The instance that is written to, if it is one alone.
    pub(crate) source: Option<InstanceId>,
    /// How long values live at most, if the engine is a cache.
    pub(crate) cache_ttl_ms: Option<u64>,
}

fn unknown_option(mode: Mode, name: &str) -> SettingsError {
    let known: Vec<&str> = mode.options().map(|option| option.name).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    SettingsError::Invalid(format!("replication: the mode {} has no option {name:?}; known: {known}", mode.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> ReplicationSettings {
        serde_json::from_str(text).unwrap()
    }

    fn refused(text: &str) -> String {
        parsed(text).check().unwrap_err().to_string()
    }

    #[test]
    fn modes_are_known_by_name() {
        for mode in Mode::ALL {
            assert_eq!(ReplicationSettings::of(mode).check(), Ok(mode));
        }
        for name in ["", "Raft", "paxos"] {
            assert!(refused(&format!(r#"{{"mode":"{name}"}}"#)).contains("known: raft, push, read-repair, batch"));
        }
    }

    #[test]
    fn each_mode_has_its_options_and_their_defaults_are_possible() {
        for option in MODE_OPTIONS.iter().filter(|option| option.default != NOTHING) {
            assert_eq!(option.check(option.default), Ok(()), "{}", option.name);
        }
        assert!(refused(r#"{"mode":"raft","ack":1}"#).contains("the mode raft has no option \"ack\"; known: none"));
        assert!(refused(r#"{"mode":"push","interval":1}"#).contains("known: ack, linger, sends"));
        for (text, why) in [
            (r#"{"mode":"push","ack":"everybody"}"#, "replication.ack: local, all_up, or a number between 1 and 99"),
            (r#"{"mode":"push","ack":0}"#, "replication.ack"),
            (r#"{"mode":"push","linger":10001}"#, "replication.linger: a time between 0ms and 10s"),
            (r#"{"mode":"full-copy","trigger":"now"}"#, "one of on_write, schedule, manual"),
            (r#"{"mode":"batch","schedule":"soon"}"#, "replication.schedule: a schedule has five fields"),
            (r#"{"mode":"full-copy","variant":"mirror"}"#, "replication.source: with the variant mirror, and only with it"),
            (r#"{"mode":"full-copy","source":"n1"}"#, "replication.source: with the variant mirror, and only with it"),
            (r#"{"mode":"full-copy","variant":"mirror","source":"-"}"#, "replication.source: the name of a node"),
            (r#"{"mode":"full-copy","copy_rate":65535}"#, "replication.copy_rate: between 65536 and 1099511627776 bytes"),
            (r#"{"mode":"full-copy","copy_rate":"fast"}"#, "replication.copy_rate: between"),
            (r#"{"mode":"push","copy_rate":65536}"#, "the mode push has no option \"copy_rate\""),
            (r#"{"mode":"batch","max_bytes":"word"}"#, "replication.max_bytes: between 1024 and 67108864 bytes"),
        ] {
            assert!(refused(text).contains(why), "{}", refused(text));
        }
    }

    #[test]
    fn settings_become_what_replicas_run_with() {
        let beside = Beside { max_bytes: 9, seed: 8, ..Beside::default() };
        let options = |text: &str| parsed(text).eventual_options(beside);
        assert_eq!((options(r#"{"mode":"raft"}"#), options(r#"{"mode":"none"}"#)), (None, None));
        let push = options(r#"{"mode":"push"}"#).unwrap();
        let default = Options { max_bytes: 9, digest_seed: 8, ..Options::new(Trigger::push()) };
        assert_eq!(push, default, "the defaults here are those of the replicas");
        let push = options(r#"{"mode":"push","ack":2,"durability":"none"}"#).unwrap();
        assert_eq!((push.ack, push.is_durable), (Ack::Others(2), false));
        let batch = options(r#"{"mode":"batch","interval":70,"max_entries":6,"max_bytes":5000}"#).unwrap();
        assert_eq!(batch.trigger, Trigger::Write(Batching { interval_ms: 70, max_entries: 6, max_bytes: 5000 }));
        let scheduled = |text: &str| match options(text).unwrap().trigger {
            Trigger::Write(batching) => batching.interval_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(scheduled(r#"{"mode":"batch","schedule":"30 2 * * *"}"#), u64::MAX, "the schedule alone says when");
        assert_eq!(scheduled(r#"{"mode":"batch","schedule":"30 2 * * *","interval":70}"#), 70);
        assert_eq!(scheduled(r#"{"mode":"batch"}"#), 5_000);
        let read = options(r#"{"mode":"read-repair","fanout":1,"min_answers":1,"repair_others":"async"}"#).unwrap();
        let trigger = Trigger::Read { fanout: 1, deadline_ms: 50, min_answers: 1, repairs_others: true };
        assert_eq!(read.trigger, trigger);
        let copies = |text: &str| options(text).unwrap().trigger;
        assert_eq!(copies(r#"{"mode":"full-copy"}"#), Trigger::Copy(CopyWhen::Every(60_000)));
        assert_eq!(copies(r#"{"mode":"full-copy","trigger":"manual"}"#), Trigger::Copy(CopyWhen::Manual));
        let slow = options(r#"{"mode":"full-copy","copy_rate":1000000}"#).unwrap();
        assert_eq!((slow.copy_rate, options(r#"{"mode":"full-copy"}"#).unwrap().copy_rate), (Some(1_000_000), None));
        let nightly = options(r#"{"mode":"full-copy","schedule":"30 2 * * *"}"#).unwrap();
        assert_eq!((nightly.trigger, nightly.schedule.is_some()), (Trigger::Copy(CopyWhen::Manual), true));
        let mirror = parsed(r#"{"mode":"full-copy","variant":"mirror","source":"n1"}"#);
        assert_eq!((mirror.check(), mirror.source()), (Ok(Mode::FullCopy), Some("n1")));
        let of_three = Beside { source: Some(InstanceId(3)), ..beside };
        assert_eq!(mirror.eventual_options(of_three).unwrap().mirror_of, Some(InstanceId(3)));
        let cached = parsed(r#"{"mode":"push","sends":"invalidations"}"#);
        let cached = cached.eventual_options(Beside { cache_ttl_ms: Some(7), ..beside }).unwrap();
        assert_eq!((cached.is_durable, cached.cache), (false, Some(CacheOptions { ttl_ms: 7, invalidates: true })));
        let on_write = CopyWhen::OnWrite { quiet_ms: 5, min_interval_ms: 1_000 };
        assert_eq!(copies(r#"{"mode":"full-copy","trigger":"on_write","quiet":5}"#), Trigger::Copy(on_write));
    }
}
