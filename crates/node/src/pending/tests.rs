//! What a client hears when nobody answers, and what each command says about those before it.

use proptest::prelude::*;

use super::*;

const GROUP: GroupId = GroupId(1);

fn pending() -> Pending {
    Pending::new(2, 9)
}

fn add(pending: &mut Pending, deadline: u64) -> u64 {
    pending.add(77, GROUP, &Bytes::from_static(b"\0\0"), Monotonic(deadline))
}

fn at(node: u64) -> Place {
    Place::At { node, since: Monotonic(0) }
}

/// The id and the floor of a waiting command.
fn names(pending: &Pending, sequence: u64) -> (RequestId, u64) {
    let command = Command::decode(pending.get(sequence).unwrap().command.clone()).unwrap();
    (command.id, command.floor)
}

#[test]
fn what_no_leader_took_was_not_done() {
    let mut pending = pending();
    let sequence = add(&mut pending, 10);
    pending.on_lost(sequence);
    assert_eq!(pending.get(sequence).unwrap().failure(), Failure::NoLeader);
}

#[test]
fn what_a_leader_took_may_have_been_done() {
    for place in [Place::Here, at(3)] {
        let mut pending = pending();
        let sequence = add(&mut pending, 10);
        pending.hand_over(sequence, place);
        assert_eq!(pending.get(sequence).unwrap().failure(), Failure::Unknown);
        pending.on_lost(sequence);
        assert_eq!(pending.get(sequence).unwrap().failure(), Failure::Unknown, "who has it is lost, it is not");
    }
}

#[test]
fn what_every_leader_refused_was_not_done() {
    let mut pending = pending();
    let sequence = add(&mut pending, 10);
    for node in [3, 4] {
        pending.hand_over(sequence, at(node));
        pending.on_refused(sequence);
        assert_eq!(pending.get(sequence).unwrap().place, Place::Nowhere);
        assert_eq!(pending.get(sequence).unwrap().failure(), Failure::NoLeader);
    }
}

#[test]
fn a_refusal_takes_nothing_back_from_a_try_that_was_lost() {
    let mut pending = pending();
    let sequence = add(&mut pending, 10);
    pending.hand_over(sequence, at(3));
    pending.on_lost(sequence);
    pending.hand_over(sequence, at(4));
    pending.on_refused(sequence);
    assert!(pending.get(sequence).unwrap().may_be_logged());
    assert_eq!(pending.get(sequence).unwrap().failure(), Failure::Unknown);
}

#[test]
fn writes_expire_at_their_deadlines_and_hear_what_is_known() {
    let mut pending = pending();
    let (early, late) = (add(&mut pending, 10), add(&mut pending, 20));
    pending.hand_over(late, Place::Here);
    assert!(pending.take_expired(Monotonic(9)).is_empty());
    let heard = |expired: Vec<(Waiting, Failure)>| expired.into_iter().map(|(_, failure)| failure).collect::<Vec<_>>();
    assert_eq!(heard(pending.take_expired(Monotonic(10))), [Failure::NoLeader]);
    assert!(pending.get(early).is_none() && pending.get(late).is_some());
    assert_eq!(heard(pending.take_expired(Monotonic(500))), [Failure::Unknown]);
    assert_eq!((pending.len(), pending.bytes()), (0, 0));
}

#[test]
fn an_answered_write_is_answered_once() {
    let mut pending = pending();
    let sequence = add(&mut pending, 10);
    assert_eq!(pending.remove(sequence).unwrap().token, 77);
    assert!(pending.remove(sequence).is_none());
    pending.hand_over(sequence, Place::Here);
    pending.on_refused(sequence);
    pending.on_lost(sequence);
    assert!(pending.take_expired(Monotonic(u64::MAX)).is_empty());
}

#[test]
fn two_starts_of_a_node_never_name_a_request_alike() {
    let origins = [Pending::new(2, 9), Pending::new(2, 10), Pending::new(3, 9)].map(|pending| pending.origin());
    assert!(origins[0] != origins[1] && origins[1] != origins[2] && origins[0] != origins[2]);
}

#[test]
fn a_node_that_has_much_gets_no_more_and_one_that_has_nothing_gets_anything() {
    let mut pending = pending();
    assert!(pending.has_room_at(3, MAX_FORWARDED_BYTES + 1), "a large command goes alone");
    let large = Bytes::from(vec![0; MAX_FORWARDED_BYTES]);
    let sequence = pending.add(77, GROUP, &large, Monotonic(10));
    pending.hand_over(sequence, at(3));
    assert!(!pending.has_room_at(3, 1) && pending.has_room_at(4, 1));
    pending.on_lost(sequence);
    assert!(pending.has_room_at(3, 1));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    HandOver(Place),
    Refused,
    Lost,
    Remove,
}

fn event() -> impl Strategy<Value = Event> {
    let place = prop_oneof![Just(Place::Here), (3..5_u64).prop_map(at)];
    prop_oneof![place.prop_map(Event::HandOver), Just(Event::Refused), Just(Event::Lost), Just(Event::Remove)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_at_a_node_is_counted_there_and_nowhere_else(events in prop::collection::vec((1..6_u64, event()), 0..40)) {
        let mut pending = pending();
        (0..5).for_each(|_| assert!(add(&mut pending, 10) > 0));
        for (sequence, event) in events {
            match event {
                Event::HandOver(place) => pending.hand_over(sequence, place),
                Event::Refused => pending.on_refused(sequence),
                Event::Lost => pending.on_lost(sequence),
                Event::Remove => assert!(pending.remove(sequence).is_none_or(|waiting| waiting.token == 77)),
            }
            for node in 3..5 {
                let is_there = |waiting: &&Waiting| matches!(waiting.place, Place::At { node: at, .. } if at == node);
                let bytes: usize = pending.waiting.values().filter(is_there).map(|waiting| waiting.command.len()).sum();
                prop_assert_eq!(pending.bytes_at.get(&node).copied().unwrap_or(0), bytes);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_command_lets_go_of_one_that_still_waits(removals in prop::collection::vec(prop::option::of(0..8_usize), 1..60)) {
        let mut pending = pending();
        let mut waiting: Vec<u64> = Vec::new();
        for removal in removals {
            if let Some(place) = removal.filter(|place| *place < waiting.len()) {
                pending.remove(waiting.remove(place));
                continue;
            }
            let sequence = add(&mut pending, 10);
            prop_assert!(waiting.iter().all(|earlier| *earlier < sequence));
            waiting.push(sequence);
            let (id, floor) = names(&pending, sequence);
            prop_assert_eq!(id, RequestId { origin: pending.origin(), sequence });
            prop_assert_eq!(Some(floor), waiting.iter().min().copied(), "the oldest that waits, and no later one");
            let bytes: usize = waiting.iter().map(|sequence| pending.get(*sequence).unwrap().command.len()).sum();
            prop_assert_eq!((pending.len(), pending.bytes()), (waiting.len(), bytes));
        }
    }
}
