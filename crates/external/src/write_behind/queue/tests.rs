//! What waits, in which order, and for how long.

use super::*;

const MAX: u64 = 4 * (KEY_OVERHEAD_BYTES + 11);

/// A queue that has read its rows, of which there are none.
fn queue() -> Queue {
    let mut queue = Queue::new(Bounds { max_bytes: MAX, late_ms: 1_000, max_retries: 2 });
    assert_eq!(queue.wants_rows(0), Some(Wanted { after: None }));
    queue.end_rows();
    queue
}

fn key(name: &'static str) -> Bytes {
    Bytes::from_static(name.as_bytes())
}

fn error(kind: ErrorKind) -> Result<(), StoreError> {
    Err(StoreError::new("memory", kind, "planted"))
}

#[test]
fn keys_are_tried_in_turn_and_settled_as_they_were_last_noted() {
    let mut queue = queue();
    queue.note(&key("a"), 10, 0);
    queue.note(&key("b"), 10, 0);
    queue.note(&key("a"), 10, 1);
    let a = queue.next(1).unwrap();
    assert_eq!(a.key, key("a"));
    queue.note(&key("a"), 10, 2);
    assert!(!queue.done(&a, &Ok(()), 3), "it was noted again since");
    let b = queue.next(3).unwrap();
    assert!(b.key == key("b") && queue.done(&b, &Ok(()), 4) && queue.needs_row(&b.key));
    let a = queue.next(4).unwrap();
    assert!(a.key == key("a") && queue.done(&a, &Ok(()), 5));
    let stats = queue.stats(5);
    assert_eq!((stats.waiting_keys, stats.waiting_bytes, stats.written, stats.coalesced), (0, 0, 3, 1));
    assert_eq!((queue.next(1_000_000), stats.noted), (None, stats.settled));
}

#[test]
fn what_is_settled_goes_by_the_oldest_note() {
    let mut queue = queue();
    let before = queue.stats(0).noted;
    queue.note(&key("a"), 10, 0);
    queue.note(&key("b"), 10, 5);
    let (a, b) = (queue.next(5).unwrap(), queue.next(5).unwrap());
    assert!(queue.done(&b, &Ok(()), 6));
    assert_eq!((queue.stats(9).settled, queue.stats(9).oldest_ms), (before, 9));
    queue.note(&key("a"), 10, 7);
    assert!(!queue.done(&a, &Ok(()), 8));
    assert_eq!((queue.stats(9).settled, queue.stats(9).oldest_ms), (before + 1, 1), "its first note is settled");
}

#[test]
fn a_store_that_fails_is_left_alone_for_longer_and_longer_and_tried_with_one_key() {
    let mut queue = queue();
    queue.note(&key("a"), 10, 0);
    queue.note(&key("b"), 10, 0);
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..9 {
        let work = queue.next(now).unwrap();
        assert!(pauses.is_empty() || queue.next(now).is_none(), "one at a time");
        assert!(!queue.done(&work, &error(ErrorKind::Unreachable), now));
        let at = queue.next_at_ms().unwrap();
        assert_eq!(queue.next(at - 1), None);
        pauses.push(at - now);
        now = at;
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    assert!(queue.stats(now).last_error.unwrap().contains("planted"));
    let work = queue.next(now).unwrap();
    assert!(queue.done(&work, &Ok(()), now) && queue.stats(now).last_error.is_none() && queue.next(now).is_some());
}

#[test]
fn a_key_that_fails_alone_holds_up_nobody_and_waits_longer_and_longer() {
    let mut queue = queue();
    queue.note(&key("denied"), 10, 0);
    let (mut now, mut pauses) = (0, Vec::new());
    for number in 0..14_u64 {
        let work = queue.next(now).unwrap();
        assert!(work.key == key("denied") && !queue.done(&work, &error(ErrorKind::Denied), now));
        queue.note(&key("b"), 10, now);
        let b = queue.next(now).unwrap();
        assert!(b.key == key("b") && queue.done(&b, &Ok(()), now), "it is written at once");
        // It is still denied, whatever its value.
        queue.note(&key("denied"), 11, now);
        let at = queue.next_at_ms().unwrap();
        assert_eq!(queue.next(at - 1), None);
        pauses.push(at - now);
        let stats = queue.stats(now);
        let is_parked = number >= 2;
        assert_eq!((stats.refused_keys, stats.waiting_bytes == 0, stats.waiting_keys), (u64::from(is_parked), is_parked, 1));
        assert_eq!(stats.last_error.is_some_and(|error| error.contains("key \"denied\": memory: denies")), is_parked);
        now = at;
    }
    assert_eq!(pauses[..4], [100, 200, 400, 800]);
    assert_eq!(pauses[9..], [51_200, 60_000, 60_000, 60_000, 60_000]);
    let work = queue.next(now).unwrap();
    assert!(queue.done(&work, &Ok(()), now));
    let stats = queue.stats(now);
    assert_eq!((stats.refused_keys, stats.waiting_bytes, stats.settled, stats.last_error), (0, 0, stats.noted, None));
}

/// A queue whose attempts take 10 ms each, eight at once.
struct Run {
    queue: Queue,
    under_way: Vec<Work>,
    now_ms: u64,
}

impl Run {
    /// How many attempts were begun in this time.
    fn pass(&mut self, ms: u64, takes: impl Fn(&Bytes) -> bool) -> usize {
        let (until_ms, mut begun) = (self.now_ms + ms, 0);
        while self.now_ms < until_ms {
            for work in self.under_way.drain(..) {
                let result = if takes(&work.key) { Ok(()) } else { error(ErrorKind::Denied) };
                self.queue.done(&work, &result, self.now_ms);
            }
            let free = 8 - self.under_way.len();
            let next = std::iter::from_fn(|| self.queue.next(self.now_ms)).take(free);
            self.under_way.extend(next);
            begun += self.under_way.len();
            self.now_ms += 10;
        }
        begun
    }
}

#[test]
fn a_store_that_takes_nothing_is_asked_seldom_and_what_it_takes_is_found_behind_what_it_does_not() {
    let mut queue = Queue::new(Bounds { max_bytes: 1 << 30, late_ms: 0, max_retries: 2 });
    queue.end_rows();
    let mut run = Run { queue, under_way: Vec::new(), now_ms: 0 };
    let name = |what: &str, number: u64| Bytes::from(format!("{what}/{number}"));
    (0..5_000).for_each(|number| run.queue.note(&name("denied", number), 10, 0));
    let begun = run.pass(60_000, |_| false);
    assert!((10..=60).contains(&begun), "{begun} in a minute");
    // Those that it does take come last.
    let is_good = |key: &Bytes| key.starts_with(b"good");
    for number in 0..100 {
        run.queue.note(&name("good", number), 10, run.now_ms);
        run.pass(2_000, is_good);
        assert!(number < 5 || run.queue.needs_row(&name("good", number - 5)), "{number}: {:?}", run.queue.stats(run.now_ms));
    }
    run.pass(900_000, is_good);
    let stats = run.queue.stats(run.now_ms);
    assert_eq!((stats.written, stats.waiting_keys), (100, 5_000), "{stats:?}");
    // By now all have failed, and are nothing new.
    for number in 100..400 {
        run.queue.note(&name("good", number), 10, run.now_ms);
        run.pass(1_000, is_good);
        assert!(run.queue.needs_row(&name("good", number)), "{number}: {:?}", run.queue.stats(run.now_ms));
    }
    let begun = run.pass(60_000, is_good);
    assert_eq!(run.queue.stats(run.now_ms).refused_keys, 5_000);
    assert!(begun <= 10_500, "{begun} in a minute");
    run.pass(120_000, |_| true);
    let stats = run.queue.stats(run.now_ms);
    assert_eq!((stats.waiting_keys, stats.waiting_bytes, stats.refused_keys), (0, 0, 0));
}

#[test]
fn keys_that_failed_take_no_more_than_their_share_of_calls() {
    let mut queue = Queue::new(Bounds { max_bytes: 1 << 20, late_ms: 0, max_retries: 2 });
    queue.end_rows();
    for name in ["a", "b", "c", "d"] {
        queue.note(&key(name), 10, 0);
        let work = queue.next(0).unwrap();
        assert!(work.key == key(name) && !queue.done(&work, &error(ErrorKind::Timeout), 0));
        queue.note(&key("good"), 10, 0);
        let good = queue.next(0).unwrap();
        assert!(good.key == key("good") && queue.done(&good, &Ok(()), 0));
    }
    let retries: Vec<Work> = std::iter::from_fn(|| queue.next(10_000)).collect();
    assert!(retries.len() == 2 && retries.iter().all(|work| work.is_retry), "{retries:?}");
    assert_eq!(queue.next_at_ms(), None);
    queue.note(&key("e"), 10, 10_000);
    assert_eq!(queue.next(10_000).unwrap().key, key("e"));
    assert_eq!((queue.next(10_000), queue.next_at_ms()), (None, None));
    retries.iter().for_each(|work| assert!(queue.done(work, &Ok(()), 10_000)));
    assert!(queue.next(10_000).is_some_and(|work| work.is_retry));
}

#[test]
fn what_waits_in_rows_is_found_behind_keys_that_fail() {
    let mut queue = queue();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    names.iter().for_each(|name| queue.note(&key(name), 10, 0));
    let (mut now_ms, mut rows) = (0, names.to_vec());
    while rows.contains(&"h") {
        assert!(now_ms < 60_000, "{:?}", queue.stats(now_ms));
        if let Some(Wanted { after }) = queue.wants_rows(now_ms) {
            let mut rows = rows.iter().filter(|name| after.as_ref().is_none_or(|after| key(name) > *after));
            if rows.all(|name| queue.take_row(key(name), 10, now_ms)) {
                queue.end_rows();
            }
        }
        if let Some(work) = queue.next(now_ms) {
            let result = if work.key == key("h") { Ok(()) } else { error(ErrorKind::Denied) };
            if queue.done(&work, &result, now_ms) {
                rows.retain(|name| key(name) != work.key);
            }
        }
        now_ms += 10;
    }
    let stats = queue.stats(now_ms);
    assert!(stats.settled < stats.noted && stats.is_spilled && stats.waiting_bytes <= MAX + MAX / 8 + 300, "{stats:?}");
}

#[test]
fn a_key_that_is_refused_holds_up_nobody_and_is_tried_when_it_changes() {
    let mut queue = queue();
    queue.note(&key("a"), 10, 0);
    queue.note(&key("b"), 10, 0);
    let a = queue.next(0).unwrap();
    assert!(!queue.done(&a, &error(ErrorKind::TooLarge), 0));
    assert_eq!((queue.stats(0).refused_keys, queue.next(0).unwrap().key), (1, key("b")));
    let b = queue.next(FIRST_REFUSED_PAUSE_MS - 1);
    assert_eq!((b, queue.next_at_ms()), (None, Some(FIRST_REFUSED_PAUSE_MS)));
    queue.note(&key("a"), 1, 1);
    assert_eq!((queue.next(1).unwrap().key, queue.stats(1).refused_keys), (key("a"), 0));
}

#[test]
fn what_may_still_come_about_is_written_over_once_it_cannot_any_more() {
    let mut queue = queue();
    queue.note(&key("a"), 10, 0);
    let work = queue.next(0).unwrap();
    let unknown = Err(StoreError::new("memory", ErrorKind::Timeout, "planted").unknown());
    assert!(!queue.done(&work, &unknown, 0));
    let work = queue.next(100).unwrap();
    assert!(!queue.done(&work, &Ok(()), 100), "the first attempt may undo it yet");
    assert_eq!((queue.next(999), queue.next_at_ms()), (None, Some(1_000)));
    queue.note(&key("a"), 10, 200);
    let work = queue.next(200).unwrap();
    assert!(!queue.done(&work, &Ok(()), 300) && queue.next(999).is_none(), "a change is written at once, and once more");
    let work = queue.next(1_000).unwrap();
    assert!(queue.done(&work, &Ok(()), 1_100));
}

#[test]
fn what_has_no_room_is_left_to_its_row_and_read_again() {
    let mut queue = queue();
    let names = ["a", "b", "c", "d", "e", "f"];
    names.iter().for_each(|name| queue.note(&key(name), 10, 0));
    let stats = queue.stats(0);
    assert_eq!((stats.waiting_keys, stats.is_full(), stats.is_spilled), (4, true, true));
    assert!(queue.needs_row(&key("e")));
    // There is always room for some of those, whatever else waits; for no more than that.
    assert!(queue.wants_rows(0).is_some() && queue.take_row(key("e"), 10, 0));
    assert!(queue.wants_rows(0).is_none() && !queue.take_row(key("f"), 10, 0));
    let mut written = Vec::new();
    for _ in 0..20 {
        if let Some(Wanted { after }) = queue.wants_rows(0) {
            // What is settled has no row any more.
            let rows = names.iter().filter(|name| !written.contains(&key(name)));
            let mut rows = rows.filter(|name| after.as_ref().is_none_or(|after| key(name) > *after));
            if rows.all(|name| queue.take_row(key(name), 10, 0)) {
                queue.end_rows();
            }
        }
        let Some(work) = queue.next(0) else { break };
        assert!(queue.done(&work, &Ok(()), 0));
        written.push(work.key);
    }
    written.sort();
    assert_eq!(written, names.map(key));
    let stats = queue.stats(0);
    assert_eq!((stats.waiting_keys, stats.is_spilled, stats.settled), (0, false, stats.noted));
}

#[test]
fn attempts_of_old_content_settle_nothing() {
    let mut queue = queue();
    queue.note(&key("a"), 10, 0);
    queue.note(&key("b"), 10, 0);
    let work = queue.next(0).unwrap();
    queue.begin_anew(0);
    assert!(queue.stats(0).settled < queue.stats(0).noted && !queue.done(&work, &Ok(()), 0));
    assert_eq!(queue.wants_rows(0), Some(Wanted { after: None }));
    assert!(queue.take_row(key("a"), 10, 0) && queue.take_row(key("c"), 10, 0));
    queue.end_rows();
    for name in ["a", "c"] {
        let work = queue.next(0).unwrap();
        assert!(work.key == key(name) && queue.done(&work, &Ok(()), 0));
    }
    assert_eq!((queue.next(0), queue.stats(0).settled), (None, queue.stats(0).noted));
}
