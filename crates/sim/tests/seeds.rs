//! Short runs: seeds pass, a seed repeats itself, and planted bugs are found.

use quorate_sim::{Coverage, FaultKind, Mutation, Report, Scenario, run};

fn run_seed(seed: u64, safety_ms: u64) -> Report {
    run(Scenario { safety_ms, ..Scenario::from_seed(seed) }, None)
}

fn assert_passed(report: &Report) {
    if let Some(violation) = &report.violation {
        let lines = report.last_lines.join("\n");
        panic!("{lines}\nseed {}: {violation}\nsim --seed {}", report.seed, report.seed);
    }
}

#[test]
fn twenty_seeds_pass() {
    let mut total = Coverage::default();
    for seed in 1..=20 {
        let report = run_seed(seed, 10_000);
        assert_passed(&report);
        total.merge(&report.coverage);
    }
    // Seeds that meet nothing prove nothing.
    let met = FaultKind::ALL.into_iter().filter(|kind| total.of(kind.name()) > 0).count();
    assert!(met * 5 >= FaultKind::ALL.len() * 4, "only {met} kinds of faults happened:\n{total}");
    let names = ["snapshots loaded", "membership changes", "linearizable reads", "writes with unknown outcome"];
    let of_leases = ["leases kept alive", "leases that were gone", "pairs put that go", "leases read by new leaders"];
    let of_locks = ["holders of the lock seen", "locks held by who looked"];
    let of_transactions = ["transactions done then", "transactions done otherwise", "transactions that only read"];
    let of_counters = ["increments acknowledged", "increments with unknown outcome", "increments answered again"];
    let of_history = ["compactions", "compactions refused", "retentions altered"];
    let of_beats = ["beats that were noted", "beats that raft-rs had to see"];
    let of_watchers = ["revisions that watchers were told", "watchers that went on elsewhere", "watchers that fell behind"];
    let of_nodes = [
        "revisions told of eventual replicas",
        "copies that took a mirror's place",
        "eventual reads that others answered",
        "wall clocks that drifted far",
    ];
    let features = of_leases
        .into_iter()
        .chain(of_locks)
        .chain(of_transactions)
        .chain(of_counters)
        .chain(of_beats)
        .chain(of_watchers)
        .chain(of_nodes)
        .chain(of_history);
    for name in names.into_iter().chain(features) {
        assert!(total.of(name) > 0, "no {name}:\n{total}");
    }
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 14] {
        let (first, second) = (run_seed(seed, 5_000), run_seed(seed, 5_000));
        assert_passed(&first);
        assert_eq!((first.trace_hash, first.lasted), (second.trace_hash, second.lasted));
        assert_eq!(first.coverage, second.coverage);
        assert_ne!(first.trace_hash, run_seed(seed + 1, 5_000).trace_hash);
    }
}

/// The first of so many seeds in which the bug is found, and the promise that it breaks.
fn find(mutation: Mutation, seeds: u64) -> (u64, &'static str) {
    let found = (1..=seeds).find_map(|seed| {
        let scenario = Scenario { safety_ms: 20_000, ..Scenario::from_seed(seed) };
        run(scenario.planting(mutation), None).violation.map(|violation| (seed, violation.invariant))
    });
    found.unwrap_or_else(|| panic!("{} was not found in {seeds} seeds", mutation.name()))
}

#[test]
fn planted_bugs_are_found() {
    for (mutation, promise) in [
        (Mutation::ReadWithoutIndex, "real-time order of revisions"),
        (Mutation::RetryWithoutId, "nothing is applied twice"),
        (Mutation::ConditionsDropped, "linearizability"),
        (Mutation::UnknownIsDone, "linearizability"),
        (Mutation::UnknownIsNotDone, "refused writes stay undone"),
        (Mutation::SnapshotLosesKey, "equal replicas"),
        (Mutation::KeptAliveWithoutIndex, "leases live their full time"),
        (Mutation::LeaderKeepsOldTime, "leases live their full time"),
        (Mutation::SnapshotLosesEnds, "equal replicas"),
        (Mutation::VersionLost, "the past is as it was"),
        (Mutation::ComparesDropped, "transactions are serializable"),
        (Mutation::TransactionReadsElsewhere, "transactions are serializable"),
        (Mutation::WatchResumesAtPresent, "watchers are told everything"),
        (Mutation::WatchTellsHalf, "watchers are told everything"),
        (Mutation::NodeWatchTellsHalf, "who watches a node knows what it holds"),
        (Mutation::IncrementByPut, "increments add up"),
        (Mutation::OnceUnderAnotherKey, "increments add up"),
        (Mutation::LockByKey, "tokens of locks grow"),
        (Mutation::ReplicatedOverstated, "acknowledged eventual writes are not lost"),
    ] {
        assert_eq!(find(mutation, 40).1, promise, "{}", mutation.name());
    }
}

#[test]
fn sessions_that_forget_are_found() {
    let (_, promise) = find(Mutation::SessionForgotten, 40);
    // Reads or writes, whichever comes first.
    let promises = ["a session sees nothing older than it has seen", "a session writes above all that it has seen"];
    assert!(promises.contains(&promise), "{promise}");
}

#[test]
fn versions_of_another_revision_are_found() {
    let (_, promise) = find(Mutation::VersionMisplaced, 40);
    // By who reads the past, or by who goes on watching in it: what the revision says it changed is not there.
    assert!(["the past is as it was", "the past can be read"].contains(&promise), "{promise}");
}

#[test]
fn transactions_that_are_not_one_are_found() {
    let (_, promise) = find(Mutation::TransactionInTwo, 10);
    // Its first half may be there although it was refused as a whole.
    assert!(["transactions are serializable", "refused writes stay undone"].contains(&promise), "{promise}");
}

#[test]
fn lost_writes_votes_and_disks_are_found() {
    for mutation in [Mutation::AckBeforeSync, Mutation::VoteNotWritten, Mutation::WipedNodeKeepsId] {
        // Nodes whose disks lie may also just never agree again.
        let is_safety =
            ["leader completeness", "election safety", "log matching", "committed entries stay", "state-machine safety"];
        let found = (1..=150).any(|seed| {
            let scenario = Scenario { safety_ms: 20_000, ..Scenario::from_seed(seed) };
            let violation = run(scenario.planting(mutation), None).violation;
            violation.is_some_and(|violation| is_safety.contains(&violation.invariant))
        });
        assert!(found, "{} was not found", mutation.name());
    }
}
