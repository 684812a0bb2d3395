use super::*;

const TTL_MS: u64 = 5000;

fn lease(id: u64, granted_at: u64) -> Lease {
    Lease { id: LeaseId(id), ttl_ms: TTL_MS, granted_at, keys: 0 }
}

/// Of a leader that knows of all leases.
fn filled() -> Leases {
    let mut leases = Leases::default();
    leases.begin_to_fill(false);
    leases
}

fn change(leases: &mut Leases, change: LeaseChange, now: u64) {
    leases.hear(vec![change]);
    leases.catch_up(Monotonic(now));
}

fn granted(leases: &mut Leases, id: u64, now: u64) {
    change(leases, LeaseChange::Granted(lease(id, 7)), now);
}

fn ending(leases: &mut Leases, now: u64) -> Vec<u64> {
    leases.advance(Monotonic(now));
    leases.to_be_ended().into_iter().map(|(id, _)| id.0).collect()
}

fn left_ms(time: Option<LeaseTime>) -> Option<u64> {
    time.map(|time| time.left_ms)
}

#[test]
fn a_lease_ends_when_nobody_keeps_it_alive() {
    let mut leases = filled();
    granted(&mut leases, 1, 100);
    granted(&mut leases, 2, 100);
    assert_eq!(leases.due(), Some(Monotonic(5100)));
    assert_eq!(left_ms(leases.time_of(LeaseId(1), Monotonic(1100))), Some(4000));
    assert_eq!(left_ms(leases.keep_alive(LeaseId(1), Monotonic(4000))), Some(TTL_MS));
    assert!(ending(&mut leases, 5099).is_empty());
    assert_eq!(ending(&mut leases, 5100), [2]);
    // Its end was decided; nothing brings it back.
    assert_eq!(leases.keep_alive(LeaseId(2), Monotonic(5100)), None);
    assert_eq!(leases.time_of(LeaseId(2), Monotonic(5100)), None);
    assert_eq!(leases.due(), Some(Monotonic(0)));
    change(&mut leases, LeaseChange::Ended(LeaseId(2)), 5200);
    assert_eq!((leases.due(), ending(&mut leases, 8999)), (Some(Monotonic(9000)), vec![]));
    assert_eq!(ending(&mut leases, 9000), [1]);
    assert_eq!(leases.keep_alive(LeaseId(3), Monotonic(9000)), None);
}

#[test]
fn time_never_gets_shorter() {
    let mut leases = filled();
    granted(&mut leases, 1, 1000);
    assert_eq!(left_ms(leases.keep_alive(LeaseId(1), Monotonic(900))), Some(5100));
}

#[test]
fn a_lease_that_is_granted_anew_is_another_one() {
    let mut leases = filled();
    granted(&mut leases, 1, 0);
    assert_eq!(ending(&mut leases, TTL_MS), [1]);
    change(&mut leases, LeaseChange::Ended(LeaseId(1)), TTL_MS);
    change(&mut leases, LeaseChange::Granted(lease(1, 9)), TTL_MS);
    assert!(ending(&mut leases, 2 * TTL_MS - 1).is_empty());
    leases.advance(Monotonic(2 * TTL_MS));
    assert_eq!(leases.to_be_ended(), [(LeaseId(1), 9)]);
    // What was proposed for the first one says nothing about it.
    leases.on_ended((LeaseId(1), 7));
    assert_eq!(leases.to_be_ended().len(), 1);
    leases.on_ended((LeaseId(1), 9));
    assert_eq!((leases.to_be_ended().len(), leases.len(), leases.due()), (0, 0, None));
}

#[test]
fn many_are_looked_at_in_steps() {
    let mut leases = filled();
    let count = 2 * MAX_LOOKED_AT as u64 + 5;
    leases.hear((1..=count).map(|id| LeaseChange::Granted(lease(id, 7))).collect());
    leases.catch_up(Monotonic(0));
    for id in 1..=count {
        leases.keep_alive(LeaseId(id), Monotonic(id % 2)).unwrap();
    }
    let mut looked_at = 0;
    while leases.due() == Some(Monotonic(TTL_MS)) {
        leases.advance(Monotonic(TTL_MS));
        looked_at += 1;
        assert!(looked_at <= 3);
        if !leases.ending.is_empty() {
            break;
        }
    }
    for _ in 0..3 {
        leases.advance(Monotonic(TTL_MS));
    }
    assert_eq!(leases.ending.len() as u64, count / 2);
    assert_eq!(leases.by_time.len() as u64, count - count / 2);
    assert_eq!(leases.to_be_ended().len(), MAX_ENDED_AT_ONCE);
}

#[test]
fn who_begins_to_lead_reads_all_and_gives_each_its_full_time() {
    let mut leases = Leases::default();
    granted(&mut leases, 1, 0);
    leases.begin_anew();
    assert_eq!((leases.len(), leases.knows(LeaseId(1))), (0, false));
    leases.begin_to_fill(true);
    let Some((None, round)) = leases.next_to_read() else { panic!("there is all to read") };
    assert_eq!(leases.next_to_read(), None, "one piece at a time");
    // Meanwhile one ends, one ends and is granted anew, one comes.
    for heard in [
        LeaseChange::Ended(LeaseId(2)),
        LeaseChange::Ended(LeaseId(3)),
        LeaseChange::Granted(lease(3, 99)),
        LeaseChange::Granted(lease(1 << 40, 99)),
    ] {
        change(&mut leases, heard, 1000);
    }
    let piece: Vec<Lease> = (1..=MAX_READ_LEASES as u64).map(|id| lease(id, 7)).collect();
    leases.take_in(round, &piece, Monotonic(2000));
    assert!(leases.time_of(LeaseId(2), Monotonic(2000)).is_none());
    assert_eq!(left_ms(leases.time_of(LeaseId(3), Monotonic(2000))), Some(4000));
    assert_eq!(left_ms(leases.time_of(LeaseId(4), Monotonic(2000))), Some(TTL_MS));
    let known = [1, MAX_READ_LEASES as u64, MAX_READ_LEASES as u64 + 1, 1 << 40].map(|id| leases.knows(LeaseId(id)));
    assert_eq!(known, [true, true, false, true]);
    assert_eq!(leases.next_to_read(), Some((Some(LeaseId(MAX_READ_LEASES as u64)), round)));
    assert!(leases.on_unread(round));
    assert!(leases.next_to_read().is_some(), "what could not be read is read again");
    leases.take_in(round, &[], Monotonic(3000));
    assert!(leases.knows(LeaseId(u64::MAX)));
    assert_eq!(leases.next_to_read(), None);
}

#[test]
fn what_was_read_for_an_earlier_term_is_of_no_use() {
    let mut leases = Leases::default();
    leases.begin_to_fill(true);
    let (_, round) = leases.next_to_read().unwrap();
    leases.begin_anew();
    leases.begin_to_fill(true);
    leases.take_in(round, &[lease(1, 7)], Monotonic(0));
    assert!(!leases.on_unread(round));
    let (_, next) = leases.next_to_read().unwrap();
    leases.take_in(round, &[lease(1, 7)], Monotonic(0));
    assert_eq!((leases.len(), next), (0, round + 1));
}
