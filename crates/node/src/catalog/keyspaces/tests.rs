//! Plans for keyspaces, applied to a shard as the system keyspace would.

use std::collections::BTreeSet;

use quorate_api::keyspace::Capability;

use super::*;
use crate::catalog::replication::Mode;
use crate::catalog::tests::{System, request};
use crate::catalog::{
    DEFAULT_RETENTION, EngineSettings, EngineValue, LimitsRecord, OptionValue, OutsideRecord, ReplicationSettings,
    RetentionRecord,
};

const NOW_MS: u64 = 1_800_000_000_000;

fn engine(kind: &str) -> EngineSettings {
    EngineSettings::of(kind)
}

fn settings(mode: Mode) -> KeyspaceSettings {
    KeyspaceSettings {
        engine: engine("trie"),
        replication: ReplicationSettings::of(mode),
        ttl_ms: None,
        limits: LimitsRecord::default(),
        retention: None,
    }
}

impl System {
    fn create(&mut self, name: &str, settings: &KeyspaceSettings) {
        let write = self.catalog().plan_create(name, settings, NOW_MS).unwrap();
        assert!(self.is_applied(&write.unwrap()));
    }

    /// Moves to an engine that this version may not have.
    fn alter_engine(&mut self, name: &str, kind: &str) {
        let settings = KeyspaceSettings { engine: engine(kind), ..self.keyspace(name).settings() };
        let write = self.catalog().plan_alter_checked(name, &settings, NOW_MS).unwrap();
        assert!(self.is_applied(&write.unwrap()));
    }

    fn delete(&mut self, name: &str) {
        let write = self.catalog().plan_delete(name).unwrap();
        assert!(self.is_applied(&write));
    }

    fn keyspace(&self, name: &str) -> KeyspaceRecord {
        self.catalog().keyspaces[name].clone()
    }

    fn claim(&mut self, group: u64, replica: u64) -> Result<(), CatalogError> {
        let write = self.catalog().plan_claim_move(group, replica)?;
        assert!(write.is_none_or(|write| self.is_applied(&write)));
        Ok(())
    }

    fn moved(&mut self, group: u64, replica: u64, kind: &str) {
        let write = self.catalog().plan_moved(group, replica, &engine(kind));
        assert!(self.is_applied(&write.expect("that is news")));
    }

    /// Which engines the replicas of a keyspace are known to have.
    fn engines(&self, name: &str) -> Vec<String> {
        let keyspace = self.keyspace(name);
        keyspace.shards[0].replicas.iter().map(|replica| keyspace.engine_of(replica).kind.clone()).collect()
    }
}

fn refused(catalog: &Catalog, name: &str, settings: &KeyspaceSettings) -> CatalogError {
    catalog.plan_create(name, settings, NOW_MS).expect_err("cannot be made")
}

#[test]
fn a_keyspace_gets_a_replica_on_every_member_and_five_vote() {
    let mut system = System::of(7);
    system.announce("n8", "n8:2");
    system.remove("n3");
    let taken = system.catalog().cluster;
    system.create("orders", &settings(Mode::Raft));
    let keyspace = system.keyspace("orders");
    let shard = &keyspace.shards[0];
    let roles = |role| shard.replicas.iter().filter(|r| r.role == role).map(|r| r.node).collect::<Vec<_>>();
    assert_eq!((roles(ReplicaRole::Voter), roles(ReplicaRole::Learner)), (vec![1, 2, 4, 5, 6], vec![7]));
    let voters: Vec<u64> = shard.replicas.iter().filter(|r| r.role == ReplicaRole::Voter).map(|r| r.replica).collect();
    assert_eq!(shard.founding, voters, "all who vote from the first day begin with the configuration");
    assert_eq!((shard.group, keyspace.epoch, keyspace.created_ms), (taken.next_group, taken.next_group + 1, NOW_MS));
    assert!(shard.replicas.iter().all(|replica| replica.replica >= taken.next_replica));
    let cluster = system.catalog().cluster;
    assert_eq!((cluster.next_group, cluster.next_replica), (taken.next_group + 1, taken.next_replica + 6));
}

#[test]
fn where_replicas_do_not_agree_every_member_has_one_and_nobody_founds_a_group() {
    let mut system = System::of(6);
    system.create("local", &settings(Mode::None));
    system.join(7);
    let shard = system.keyspace("local").shards[0].clone();
    assert_eq!(shard.replicas.iter().map(|replica| replica.node).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert!(shard.founding.is_empty() && shard.replicas.iter().all(|replica| replica.role == ReplicaRole::Voter));
    system.remove("n2");
    assert!(system.keyspace("local").shards[0].replica_on(2).is_none(), "its pairs are nobody's but its own");
    system.forget("n2");
}

#[test]
fn the_last_member_of_a_keyspace_without_agreement_is_no_obstacle() {
    let mut system = System::of(2);
    system.create("local", &settings(Mode::None));
    system.remove("n1");
    assert_eq!(system.catalog().plan_remove("n2"), Err(CatalogError::LastVoter("n2".to_owned())));
}

#[test]
fn who_joins_later_learns_in_every_keyspace() {
    let mut system = System::of(1);
    system.create("orders", &settings(Mode::Raft));
    system.join(2);
    let shard = system.keyspace("orders").shards[0].clone();
    assert_eq!((shard.founding.len(), shard.replicas.len()), (1, 2));
}

#[test]
fn the_same_again_is_nothing_to_write_and_other_settings_are_a_conflict() {
    let mut system = System::found();
    let asked = settings(Mode::Raft);
    system.create("orders", &asked);
    assert_eq!(system.catalog().plan_create("orders", &asked, NOW_MS + 1), Ok(None));
    let limits = LimitsRecord { max_bytes: Some(7), ..LimitsRecord::default() };
    let other = KeyspaceSettings { limits, replication: ReplicationSettings::of(Mode::None), ..asked };
    let what = "replication, limits".to_owned();
    assert_eq!(refused(&system.catalog(), "orders", &other), CatalogError::KeyspaceExists { name: "orders".to_owned(), what });
}

#[test]
fn keyspace_names_are_checked() {
    let catalog = System::found().catalog();
    let long = "a".repeat(64);
    for name in ["", "Orders", "-a", "_a", "a/b", "a.b", "\u{e4}", long.as_str()] {
        assert_eq!(refused(&catalog, name, &settings(Mode::Raft)), CatalogError::BadKeyspaceName(name.to_owned()));
    }
    assert_eq!(refused(&catalog, SYSTEM_KEYSPACE, &settings(Mode::Raft)), CatalogError::SystemKeyspace);
    assert!(catalog.plan_create(&long[1..], &settings(Mode::Raft), NOW_MS).is_ok());
}

#[test]
fn settings_that_cannot_be_had_are_refused() {
    let mut system = System::found();
    let unknown = KeyspaceSettings { engine: engine("abacus"), ..settings(Mode::Raft) };
    assert!(matches!(refused(&system.catalog(), "a", &unknown), CatalogError::Settings(SettingsError::Invalid(_))));
    system.create("a", &settings(Mode::Raft));
    let altered = system.catalog().plan_alter("a", &unknown, NOW_MS);
    assert!(matches!(altered, Err(CatalogError::Settings(SettingsError::Invalid(_)))));
}

#[test]
fn there_are_only_so_many_keyspaces() {
    let mut catalog = System::found().catalog();
    let keyspace = catalog.keyspaces[DEFAULT_KEYSPACE].clone();
    catalog.keyspaces.extend((2..MAX_KEYSPACES).map(|number| (format!("k{number}"), keyspace.clone())));
    assert_eq!(refused(&catalog, "one-more", &settings(Mode::Raft)), CatalogError::TooManyKeyspaces);
    assert_eq!(catalog.plan_create("k2", &keyspace.settings(), NOW_MS), Ok(None), "what is there is there");
}

/// A node that joins writes every keyspace's record: in a cluster of twenty that must still fit into one write (12 MiB).
#[test]
fn a_node_can_join_where_there_are_as_many_keyspaces_as_can_be() {
    let mut system = System::of(20);
    system.create("k", &settings(Mode::Raft));
    let record = system.keyspace("k");
    let replicas = record.shards[0].replicas.iter().map(|replica| ReplicaRecord { replica: 1_000_000, ..replica.clone() });
    let shard = ShardRecord { group: 10_000_000, replicas: replicas.collect(), ..record.shards[0].clone() };
    let widest = KeyspaceRecord { epoch: 10_000_000, shards: vec![shard], ..record };
    let bytes = serde_json::to_vec(&widest).unwrap().len() + "keyspaces/some-usual-name-of-a-keyspace".len() + 64;
    assert!(bytes * MAX_KEYSPACES < 12 << 20, "{bytes} bytes each");
}

#[test]
fn limits_and_time_to_live_change_in_place() {
    let mut system = System::found();
    system.create("orders", &settings(Mode::Raft));
    let before = system.keyspace("orders");
    let limits = LimitsRecord { max_bytes: Some(9), max_key_bytes: Some(8), max_value_bytes: Some(7) };
    let asked = KeyspaceSettings { limits: limits.clone(), ..settings(Mode::Raft) };
    let write = system.catalog().plan_alter("orders", &asked, NOW_MS).unwrap();
    assert!(system.is_applied(&write.unwrap()));
    assert_eq!(system.keyspace("orders"), KeyspaceRecord { limits, ..before });
    assert_eq!(system.catalog().plan_alter("orders", &asked, NOW_MS), Ok(None));
    assert_eq!(system.catalog().cluster.jobs, 0, "nothing moves");
}

#[test]
fn history_is_kept_while_every_replica_can() {
    let mut system = System::of(2);
    system.create("orders", &settings(Mode::Raft));
    let keeps = |system: &System| {
        let keyspace = system.keyspace("orders");
        let is_on = keyspace.shard_settings().retention.is_on();
        assert_eq!((keyspace.can(Capability::History), keyspace.retention().is_some()), (is_on, is_on));
        is_on
    };
    assert!(keeps(&system));
    let shard = system.keyspace("orders").shards[0].clone();
    let move_all = |system: &mut System, kind: &str, before_last: bool| {
        system.alter_engine("orders", kind);
        for (place, replica) in shard.replicas.iter().enumerate() {
            assert_eq!(keeps(system), before_last, "to {kind}, {place} arrived");
            system.claim(shard.group, replica.replica).unwrap();
            system.moved(shard.group, replica.replica, kind);
        }
    };
    move_all(&mut system, "lsm", true);
    move_all(&mut system, "hash", false);
    assert!(!keeps(&system));
    move_all(&mut system, "trie", false);
    assert!(keeps(&system));
    let retention = Some(RetentionRecord { max_revisions: 0, ..DEFAULT_RETENTION });
    let off = KeyspaceSettings { retention, ..system.keyspace("orders").settings() };
    let write = system.catalog().plan_alter("orders", &off, NOW_MS).unwrap();
    assert!(system.is_applied(&write.unwrap()) && !keeps(&system));
}

#[test]
fn what_cannot_be_altered() {
    let mut system = System::found();
    system.create("orders", &settings(Mode::Raft));
    system.create("local", &settings(Mode::None));
    let catalog = system.catalog();
    let alter = |name: &str, settings: &KeyspaceSettings| catalog.plan_alter_checked(name, settings, NOW_MS).unwrap_err();
    assert_eq!(alter("gone", &settings(Mode::Raft)), CatalogError::KeyspaceNotFound("gone".to_owned()));
    assert_eq!(alter(SYSTEM_KEYSPACE, &settings(Mode::Raft)), CatalogError::SystemKeyspace);
    let unsupported = |error| matches!(error, CatalogError::Settings(SettingsError::Unsupported(_)));
    assert!(unsupported(alter("orders", &settings(Mode::None))), "the mode stays");
    let moved = KeyspaceSettings { engine: engine("elsewhere"), ..settings(Mode::None) };
    assert!(unsupported(alter("local", &moved)), "there is no group to move");
}

#[test]
fn what_an_engine_can_alter_while_it_serves_is_no_move() {
    let cache = |options: &[(&str, u64)]| EngineSettings {
        options: options.iter().map(|(name, value)| ((*name).to_owned(), EngineValue::Number(*value))).collect(),
        ..engine("cache")
    };
    let mut system = System::of(3);
    for mode in [Mode::None, Mode::Push] {
        let of = |engine| KeyspaceSettings { engine, ttl_ms: Some(1_000), ..settings(mode) };
        let name = mode.name();
        system.create(name, &of(cache(&[("max_entries", 10)])));
        let asked = of(cache(&[("max_bytes", 1 << 20), ("idle", 5)]));
        let write = system.catalog().plan_alter(name, &asked, NOW_MS).unwrap().unwrap();
        assert!(system.is_applied(&write));
        let keyspace = system.keyspace(name);
        assert_eq!((keyspace.settings(), keyspace.is_moving(), &keyspace.last_move), (asked, false, &None));
        let wrong = of(cache(&[("max_bytes", 1)]));
        assert!(matches!(system.catalog().plan_alter(name, &wrong, NOW_MS), Err(CatalogError::Settings(_))));
        let other = system.catalog().plan_alter_checked(name, &of(engine("trie")), NOW_MS).unwrap_err().to_string();
        assert!(other.contains("only keyspaces with replication raft"), "{other}");
    }
    // An engine's log says which options a replica has, so there others are a move; and on disk they are not alterable.
    let of = |options: &[(&str, u64)], mode| KeyspaceSettings {
        engine: EngineSettings { kind: "btree".to_owned(), ..cache(options) },
        ..settings(mode)
    };
    for mode in [Mode::Raft, Mode::Push] {
        let name = format!("on-disk-{}", mode.name());
        system.create(&name, &of(&[], mode));
        let altered = system.catalog().plan_alter(&name, &of(&[("cache_bytes", 4 << 20)], mode), NOW_MS);
        assert_eq!(altered.is_ok(), mode == Mode::Raft);
    }
}

#[test]
fn writes_are_made_to_wait_for_no_more_others_than_there_are() {
    let mut system = System::of(3);
    let waiting = |others: u64| {
        let options = [("ack".to_owned(), OptionValue::Number(others))].into();
        KeyspaceSettings {
            replication: ReplicationSettings { options, ..ReplicationSettings::of(Mode::Push) },
            ..settings(Mode::Push)
        }
    };
    let why = refused(&system.catalog(), "carts", &waiting(3)).to_string();
    assert!(why.contains("ack: writes would wait for 3 others, and with replicas at n1, n2, n3 at most 2 can have one"), "{why}");
    system.create("carts", &waiting(2));
    let alter = |system: &System, settings: &KeyspaceSettings| system.catalog().plan_alter("carts", settings, NOW_MS);
    assert!(matches!(alter(&system, &waiting(3)), Err(CatalogError::Settings(SettingsError::Unsupported(_)))));
    assert!(alter(&system, &waiting(1)).is_ok());
    // What was possible stays, and is no obstacle to other changes; nor is it to a backup that comes back where there are fewer.
    system.remove("n3");
    assert!(alter(&system, &KeyspaceSettings { ttl_ms: Some(5), ..waiting(2) }).is_ok());
    assert!(alter(&system, &KeyspaceSettings { ttl_ms: Some(5), ..waiting(3) }).is_err());
    assert!(system.catalog().plan_begin_restore("again", &waiting(2), true, NOW_MS).is_ok());
    assert!(refused(&system.catalog(), "again", &waiting(2)).to_string().contains("at most 1 can have one"));
}

#[test]
fn a_deleted_keyspace_is_gone_and_its_name_begins_anew() {
    let mut system = System::of(3);
    let before = system.catalog();
    system.create("orders", &settings(Mode::Raft));
    let first = system.keyspace("orders");
    assert!(!system.catalog().is_deleted(first.shards[0].group));
    system.delete("orders");
    let missing = Err(CatalogError::KeyspaceNotFound("orders".to_owned()));
    assert_eq!(system.catalog().plan_delete("orders"), missing);
    assert!(system.catalog().shard(first.shards[0].group).is_none());
    assert!(system.catalog().is_deleted(first.shards[0].group));
    assert!(!before.is_deleted(first.shards[0].group), "a catalog that is behind has not heard of it");
    system.create("orders", &settings(Mode::Raft));
    let second = system.keyspace("orders");
    assert!(second.epoch > first.epoch && second.shards[0].group > first.shards[0].group);
    let replicas = |keyspace: &KeyspaceRecord| keyspace.shards[0].replicas.iter().map(|r| r.replica).collect::<BTreeSet<_>>();
    assert!(replicas(&first).is_disjoint(&replicas(&second)));
}

#[test]
fn some_keyspaces_always_exist() {
    let catalog = System::found().catalog();
    for name in [DEFAULT_KEYSPACE, SYSTEM_KEYSPACE] {
        assert_eq!(catalog.plan_delete(name), Err(CatalogError::KeyspaceStays(name.to_owned())));
    }
}

/// Three replicas of `orders` that shall move from `trie` to `elsewhere`, with the group and their ids.
fn moving() -> (System, u64, [u64; 3]) {
    let mut system = System::of(3);
    system.create("orders", &settings(Mode::Raft));
    system.alter_engine("orders", "elsewhere");
    let shard = system.keyspace("orders").shards[0].clone();
    let ids = [0, 1, 2].map(|position: usize| shard.replicas[position].replica);
    (system, shard.group, ids)
}

#[test]
fn replicas_move_one_after_the_other() {
    let (mut system, group, [first, second, third]) = moving();
    let keyspace = system.keyspace("orders");
    assert_eq!(keyspace.last_move, Some(MoveRecord { job: 1, from: engine("trie"), started_ms: NOW_MS }));
    assert!(keyspace.is_moving());
    assert_eq!(system.engines("orders"), ["trie"; 3], "nobody has arrived");

    system.claim(group, second).unwrap();
    assert_eq!(system.catalog().plan_claim_move(group, second), Ok(None), "it may have forgotten in a restart");
    let busy = Err(CatalogError::OtherMoves("orders".to_owned()));
    assert_eq!(system.claim(group, first), busy);
    assert_eq!(system.claim(group, third), busy);
    system.moved(group, second, "elsewhere");
    assert_eq!(system.engines("orders"), ["trie", "elsewhere", "trie"]);
    assert_eq!(system.claim(group, second), Err(CatalogError::NothingToMove { group, replica: second }));
    for replica in [first, third] {
        system.claim(group, replica).unwrap();
        system.moved(group, replica, "elsewhere");
    }
    let keyspace = system.keyspace("orders");
    assert!(!keyspace.is_moving() && keyspace.last_move.is_some(), "what was done last can still be seen");
    assert_eq!(system.catalog().plan_moved(group, first, &engine("elsewhere")), None, "that is known");
}

#[test]
fn other_keyspaces_move_meanwhile() {
    let (mut system, group, [first, ..]) = moving();
    system.create("other", &settings(Mode::Raft));
    system.alter_engine("other", "elsewhere");
    let other = system.keyspace("other");
    assert_eq!(other.last_move.as_ref().map(|last| last.job), Some(2));
    system.claim(group, first).unwrap();
    system.claim(other.shards[0].group, other.shards[0].replicas[0].replica).unwrap();
}

#[test]
fn who_joins_during_a_move_begins_with_the_new_engine() {
    let (mut system, group, _) = moving();
    system.join(4);
    assert_eq!(system.engines("orders"), ["trie", "trie", "trie", "elsewhere"]);
    let fourth = system.keyspace("orders").shards[0].replica_on(4).unwrap().replica;
    assert_eq!(system.claim(group, fourth), Err(CatalogError::NothingToMove { group, replica: fourth }));
}

#[test]
fn a_replica_that_leaves_lets_the_next_one_move() {
    let (mut system, group, [first, second, third]) = moving();
    system.claim(group, first).unwrap();
    system.remove("n1");
    assert_eq!(system.claim(group, first), Err(CatalogError::NothingToMove { group, replica: first }));
    for replica in [second, third] {
        system.claim(group, replica).unwrap();
        system.moved(group, replica, "elsewhere");
    }
    assert!(!system.keyspace("orders").is_moving(), "who goes need not move");
}

#[test]
fn a_move_can_be_turned_round() {
    let (mut system, group, [first, second, third]) = moving();
    system.claim(group, first).unwrap();
    system.moved(group, first, "elsewhere");
    system.claim(group, second).unwrap();
    system.alter_engine("orders", "trie");
    assert_eq!(system.engines("orders"), ["elsewhere", "trie", "trie"]);
    assert_eq!(system.claim(group, first), Err(CatalogError::OtherMoves("orders".to_owned())), "one is still on the way");
    system.moved(group, second, "trie");
    assert_eq!(system.claim(group, third), Err(CatalogError::NothingToMove { group, replica: third }));
    system.claim(group, first).unwrap();
    system.moved(group, first, "trie");
    assert!(!system.keyspace("orders").is_moving());
}

#[test]
fn a_replica_that_arrived_too_late_has_to_move_on() {
    let (mut system, group, [first, ..]) = moving();
    system.claim(group, first).unwrap();
    system.alter_engine("orders", "third");
    system.moved(group, first, "elsewhere");
    assert_eq!(system.engines("orders"), ["elsewhere", "trie", "trie"]);
    system.claim(group, first).unwrap();
}

#[test]
fn what_is_deleted_does_not_move() {
    let (mut system, group, [first, ..]) = moving();
    system.claim(group, first).unwrap();
    system.delete("orders");
    assert_eq!(system.claim(group, first), Err(CatalogError::NothingToMove { group, replica: first }));
    assert_eq!(system.catalog().plan_moved(group, first, &engine("elsewhere")), None);
}

#[test]
fn of_two_plans_for_keyspaces_made_from_one_catalog_the_second_changes_nothing() {
    let (system, group, [first, ..]) = moving();
    let catalog = system.catalog();
    let limits = LimitsRecord { max_bytes: Some(7), ..LimitsRecord::default() };
    let altered = KeyspaceSettings { limits, ..settings(Mode::Raft) };
    let plans = [
        catalog.plan_create("new", &settings(Mode::Raft), NOW_MS).unwrap().unwrap(),
        catalog.plan_alter(DEFAULT_KEYSPACE, &altered, NOW_MS).unwrap().unwrap(),
        catalog.plan_delete("orders").unwrap(),
        catalog.plan_claim_move(group, first).unwrap().unwrap(),
        catalog.plan_moved(group, first, &engine("elsewhere")).unwrap(),
        catalog.plan_join(&request(4)).unwrap().0.unwrap(),
    ];
    for first in &plans {
        for second in &plans {
            let (mut system, ..) = moving();
            assert!(system.is_applied(first));
            let between = system.catalog();
            assert!(!system.is_applied(second));
            assert_eq!(system.catalog(), between);
        }
    }
}

/// A record as version 0.1.0 wrote it.
const FIRST_RECORD: &str = r#"{"epoch":2,"engine":{"type":"trie"},"replication":{"mode":"raft"},"max_bytes":1073741824,
    "shards":[{"group":1,"founding":[2],"replicas":[{"node":1,"replica":2,"role":"voter"}]}]}"#;

#[test]
fn records_of_the_first_version_are_read() {
    let keyspace: KeyspaceRecord = serde_json::from_str(FIRST_RECORD).unwrap();
    let founded = System::found().keyspace(DEFAULT_KEYSPACE);
    let limits = LimitsRecord { max_bytes: Some(1 << 30), ..LimitsRecord::default() };
    let engine = EngineSettings::of("trie");
    assert_eq!(keyspace, KeyspaceRecord { engine, limits, ..founded });
    let cluster: crate::ClusterRecord =
        serde_json::from_str(r#"{"id":7,"version":1,"next_node":2,"next_replica":3,"next_group":2}"#).unwrap();
    assert_eq!(cluster.jobs, 0);
}

#[test]
fn records_round_trip_with_all_that_they_can_hold() {
    let (mut system, group, [first, ..]) = moving();
    system.claim(group, first).unwrap();
    let limits = LimitsRecord { max_bytes: Some(9), max_key_bytes: Some(8), max_value_bytes: Some(u64::MAX) };
    let retention = Some(RetentionRecord { max_revisions: 4, max_age_ms: 3, max_bytes: 2 });
    let keyspace = KeyspaceRecord { ttl_ms: Some(5), limits, retention, ..system.keyspace("orders") };
    let text = serde_json::to_string(&keyspace).unwrap();
    assert_eq!(serde_json::from_str::<KeyspaceRecord>(&text).unwrap(), keyspace, "{text}");
}

impl System {
    fn begin_restore(&mut self, name: &str, default_is_empty: bool) -> Result<u64, CatalogError> {
        let write = self.catalog().plan_begin_restore(name, &settings(Mode::Raft), default_is_empty, NOW_MS)?;
        assert!(self.is_applied(&write));
        Ok(self.keyspace(name).epoch)
    }
}

#[test]
fn a_restore_makes_a_keyspace_that_is_shown_at_its_end() {
    let mut system = System::of(3);
    let epoch = system.begin_restore("orders", false).unwrap();
    assert!(system.keyspace("orders").is_restoring);
    // What another restore left is made anew, and the first one cannot end any more.
    let again = system.begin_restore("orders", false).unwrap();
    assert_ne!(again, epoch);
    assert_eq!(system.catalog().plan_end_restore("orders", epoch), Err(CatalogError::RestoreOver("orders".to_owned())));
    assert_eq!(system.catalog().plan_abandon_restore("orders", epoch, NOW_MS), Ok(None));
    let end = system.catalog().plan_end_restore("orders", again).unwrap();
    assert!(system.is_applied(&end));
    assert!(!system.keyspace("orders").is_restoring);
    assert_eq!(system.begin_restore("orders", true), Err(CatalogError::KeyspaceInUse("orders".to_owned())));
    assert!(system.catalog().plan_end_restore("orders", again).is_err(), "it has ended");
    assert!(system.catalog().plan_begin_restore("_system", &settings(Mode::Raft), true, NOW_MS).is_err());
}

#[test]
fn a_restore_that_is_given_up_leaves_nothing_but_what_always_exists() {
    let mut system = System::of(3);
    let epoch = system.begin_restore("orders", false).unwrap();
    let write = system.catalog().plan_abandon_restore("orders", epoch, NOW_MS).unwrap().unwrap();
    assert!(system.is_applied(&write));
    assert!(!system.catalog().keyspaces.contains_key("orders"));

    assert_eq!(system.begin_restore("default", false), Err(CatalogError::KeyspaceInUse("default".to_owned())));
    let before = system.keyspace("default").epoch;
    let epoch = system.begin_restore("default", true).unwrap();
    assert_ne!(epoch, before);
    let write = system.catalog().plan_abandon_restore("default", epoch, NOW_MS).unwrap().unwrap();
    assert!(system.is_applied(&write));
    let default = system.keyspace("default");
    assert!(!default.is_restoring && default.epoch != epoch, "it is there, empty, under an epoch of its own");
}

#[test]
fn nodes_have_no_replicas_of_what_lies_in_a_store_outside() {
    let mut system = System::of(2);
    let store = OutsideRecord { lists: true, ..OutsideRecord::default() };
    let asked = KeyspaceSettings { engine: EngineSettings { outside: Some(store), ..engine("fs") }, ..settings(Mode::None) };
    system.create("shared", &asked);
    system.join(3);
    assert!(system.keyspace("shared").shards[0].replicas.is_empty());

    // What another version says the store can do makes no other engine of it.
    let later = EngineSettings { outside: Some(OutsideRecord { ordered: true, ..store }), ..engine("fs") };
    let again = KeyspaceSettings { engine: later, ..asked.clone() };
    assert_eq!(system.catalog().plan_create("shared", &again, NOW_MS), Ok(None));
    let elsewhere = KeyspaceSettings { engine: EngineSettings { outside: Some(store), ..engine("s3") }, ..asked.clone() };
    assert!(matches!(system.catalog().plan_alter("shared", &elsewhere, NOW_MS), Err(CatalogError::Settings(_))));
    assert!(matches!(system.catalog().plan_begin_restore("new", &asked, false, NOW_MS), Err(CatalogError::Settings(_))));
    system.delete("shared");
}

#[test]
fn how_a_store_behind_replicas_is_asked_changes_in_place_and_where_it_is_does_not() {
    let text = |text: &str| EngineValue::Text(text.to_owned());
    let store = |options: &[(&str, &str)]| EngineSettings {
        options: options.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect(),
        local: Some("lsm".to_owned()),
        ..engine("s3")
    };
    let with = |engine: EngineSettings| KeyspaceSettings { engine, ..settings(Mode::Raft) };
    let mut system = System::of(3);
    let first = store(&[("url", "s3://bucket/{node}"), ("timeout", "1s")]);
    system.create("orders", &with(first.clone()));
    let opened = first.spec();
    let asked = store(&[("url", "s3://bucket/{node}"), ("queue_max", "1MiB"), ("endpoint", "http://127.0.0.1:1")]);
    let write = system.catalog().plan_alter("orders", &with(asked.clone()), NOW_MS).unwrap().unwrap();
    assert!(system.is_applied(&write));
    let keyspace = system.keyspace("orders");
    assert_eq!((&keyspace.engine, keyspace.is_moving(), &keyspace.last_move), (&asked, false, &None));
    assert!(keyspace.engine.is(&opened) && first.is(&asked.spec()), "replicas have it already");
    for elsewhere in [
        store(&[("url", "s3://other/{node}"), ("timeout", "1s")]),
        store(&[("url", "s3://bucket/{node}"), ("envelope", "none")]),
        EngineSettings {
            local: Some("btree".to_owned()),
            ..store(&[("url", "s3://bucket/{node}"), ("timeout", "1s"), ("local", "btree")])
        },
    ] {
        assert!(!elsewhere.is(&opened) && !elsewhere.is(&asked.spec()), "{elsewhere:?}");
        let refused = system.catalog().plan_alter("orders", &with(elsewhere), NOW_MS).unwrap_err().to_string();
        assert!(refused.contains("timeout") && refused.contains("move it to lsm first"), "{refused}");
    }
}
