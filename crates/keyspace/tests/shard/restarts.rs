//! A shard over a durable engine comes back after a crash with the state that goes with its pairs.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_engine::testing::SimulatedEngines;
use quorate_engine::{Engine, EngineSpec, Engines, Place, Trie};
use quorate_keyspace::{Command, EntryHeader, RequestId, Shard, ShardHeader, Write, encode_entry};

use crate::writes::records;

const PLACE: Place = Place { group: 3, build: 0 };

fn open(engines: &SimulatedEngines) -> Arc<dyn Engine> {
    engines.open(PLACE, &EngineSpec::of("btree")).unwrap()
}

/// The entry at an index: what it holds follows from the index alone. Origins come and go, so that sessions are dropped, too.
fn entry(index: u64) -> (u64, u64, Bytes) {
    let command = |sequence: u64| {
        let id = RequestId { origin: index / 40, sequence };
        let write = match sequence % 3 {
            0 => Write::delete(Bytes::from(format!("k{}", index % 7))),
            _ => Write::put(Bytes::from(format!("k{}", sequence % 7)), Bytes::from(format!("{index}"))),
        };
        Command { id, floor: sequence.saturating_sub(5), write }.to_bytes()
    };
    let commands: Vec<Bytes> = (index * 2..index * 2 + index % 4).map(command).collect();
    (index, 1 + index / 100, encode_entry(EntryHeader { log_time_ms: index * 20_000 }, commands.iter()))
}

#[derive(Clone, Debug)]
enum Step {
    Apply(u64),
    SetMembership,
    Flush,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..40_u64).prop_map(Step::Apply),
        1 => Just(Step::SetMembership),
        2 => Just(Step::Flush),
        2 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_state_is_that_of_a_shard_which_never_crashed(steps in prop::collection::vec(step(), 1..40)) {
        let engines = SimulatedEngines::default();
        let mut shard = Shard::found(open(&engines), ShardHeader::default()).unwrap();
        shard.engine().flush().unwrap();
        let mut other = Shard::found(Arc::new(Trie::new()), ShardHeader::default()).unwrap();
        // What each index holds: an entry, or a change of the membership.
        let mut log: Vec<bool> = Vec::new();
        for step in steps {
            match step {
                Step::Apply(count) => log.extend((0..count).map(|_| true)),
                Step::SetMembership => log.push(false),
                Step::Flush => drop(shard.engine().flush().unwrap()),
                Step::Crash => {
                    // A place is open once at most.
                    drop(shard);
                    shard = Shard::open(open(&engines)).unwrap().expect("it was flushed once");
                }
            }
            apply_all(&mut shard, &log);
            apply_all(&mut other, &log);
            prop_assert_eq!(shard.state_bytes(), other.state_bytes());
            prop_assert_eq!(records(&shard), records(&other));
        }
    }
}

fn apply_all(shard: &mut Shard, log: &[bool]) {
    for index in shard.header().applied_index + 1..=log.len() as u64 {
        if log[index as usize - 1] {
            shard.apply(&[entry(index)]).unwrap();
        } else {
            shard.set_membership(index, 1, Bytes::from(format!("members at {index}"))).unwrap();
        }
    }
}
