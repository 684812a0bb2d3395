//! What came back within the window: latencies, errors, second by second and in all.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::report::{Latencies, Measured, Second};
use super::workload::Workload;

/// Latencies from 1 us to 100 s, to three digits.
const MAX_LATENCY_US: u64 = 100_000_000;
const LATENCY_DIGITS: u8 = 3;

/// Different errors that are told apart.
const MAX_ERROR_KINDS: usize = 16;

#[derive(Debug)]
pub(super) struct Tally {
    operations: Vec<Counted>,
    /// Latencies of all operations since the last full second.
    this_second: Histogram<u64>,
    errors_this_second: u64,
    seconds: Vec<Second>,
    last_answer: Option<Instant>,
}

/// One operation's answers.
#[derive(Debug)]
struct Counted {
    latencies_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new(workload: &Workload) -> Self {
        let counted = |_| Counted { latencies_us: histogram(), errors: BTreeMap::new() };
        Self {
            operations: workload.mix.operations().into_iter().map(counted).collect(),
            this_second: histogram(),
            errors_this_second: 0,
            seconds: Vec::new(),
            last_answer: None,
        }
    }

    /// An answer that was there at `ended`, to an operation told by its position.
    pub(super) fn record(&mut self, operation: usize, answer: &io::Result<u16>, latency: Duration, ended: Instant) {
        let counted = &mut self.operations[operation];
        match answer {
            Ok(status) if is_success(*status) => {
                let latency_us = latency.as_micros() as u64;
                counted.latencies_us.saturating_record(latency_us);
                self.this_second.saturating_record(latency_us);
                self.last_answer = self.last_answer.max(Some(ended));
            }
            answer => {
                self.errors_this_second += 1;
                let kind = match answer {
                    Ok(status) => format!("status {status}"),
                    Err(error) => error.to_string(),
                };
                add_errors(&mut counted.errors, kind, 1);
            }
        }
    }

    /// Ends a second, however long it was.
    pub(super) fn end_second(&mut self, length: Duration, overdue: Option<u64>) -> &Second {
        let requests = self.this_second.len();
        self.seconds.push(Second {
            number: self.seconds.len() as u64 + 1,
            requests,
            rate_per_s: requests as f64 / length.as_secs_f64(),
            latencies: latencies(&self.this_second),
            errors: self.errors_this_second,
            overdue,
        });
        self.this_second.reset();
        self.errors_this_second = 0;
        self.seconds.last().expect("one was added")
    }

    /// All of it; of a mix, its operations too. `unanswered` and `never_begun` are requests that are in no tally.
    pub(super) fn measured(&self, workload: &Workload, start: Instant, unanswered: u64, never_begun: u64) -> Vec<Measured> {
        let (mut all, mut errors) = (histogram(), BTreeMap::new());
        for counted in &self.operations {
            all.add(&counted.latencies_us).expect("all histograms have the same bounds");
            counted.errors.iter().for_each(|(kind, count)| add_errors(&mut errors, kind.clone(), *count));
        }
        for (kind, count) in [("no answer", unanswered), ("never begun", never_begun)] {
            if count > 0 {
                add_errors(&mut errors, kind.to_owned(), count);
            }
        }
        let until_last = self.last_answer.map(|last| last.saturating_duration_since(start)).unwrap_or_default();
        let elapsed = until_last.max(workload.duration);
        let measured = |what: String, latencies_us: &Histogram<u64>, errors| Measured {
            what,
            clients: workload.clients,
            offered_rate_per_s: workload.rate,
            requests: latencies_us.len(),
            rate_per_s: latencies_us.len() as f64 / elapsed.as_secs_f64(),
            latencies: latencies(latencies_us),
            errors,
            ratio_to_bare: None,
            server_cpu_s_per_100k: None,
            seconds: Vec::new(),
        };
        let mut rows = vec![Measured { seconds: self.seconds.clone(), ..measured(workload.mix.to_string(), &all, errors) }];
        if let operations @ [_, _, ..] = workload.mix.operations().as_slice() {
            let parts = operations.iter().zip(&self.operations);
            rows.extend(
                parts.map(|(operation, counted)| {
                    measured(format!("  {operation}"), &counted.latencies_us, counted.errors.clone())
                }),
            );
        }
        rows
    }
}

pub(super) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_US, LATENCY_DIGITS).expect("these bounds make a histogram")
}

fn latencies(of: &Histogram<u64>) -> Latencies {
    let ms = |quantile: f64| of.value_at_quantile(quantile) as f64 / 1000.0;
    Latencies { p50_ms: ms(0.5), p90_ms: ms(0.9), p99_ms: ms(0.99), p999_ms: ms(0.999), max_ms: of.max() as f64 / 1000.0 }
}

fn add_errors(errors: &mut BTreeMap<String, u64>, kind: String, count: u64) {
    let has_room = errors.len() < MAX_ERROR_KINDS || errors.contains_key(&kind);
    *errors.entry(if has_room { kind } else { "other".to_owned() }).or_default() += count;
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::{MAX_ERROR_KINDS, Tally};
    use crate::bench::load::now;
    use crate::bench::workload::tests::load;
    use crate::bench::workload::{Mix, Operation, Workload};

    #[test]
    fn a_mix_is_told_as_a_whole_and_in_its_parts() {
        let mix = Mix::ReadsAndPuts { read: Operation::Get, reads_percent: 50 };
        let workload = Workload::new(mix, "default", &load());
        let (mut tally, start) = (Tally::new(&workload), now());
        for ms in 1..=100 {
            tally.record(0, &Ok(200), Duration::from_millis(ms), start + Duration::from_secs(2));
            tally.record(1, &Ok(204), Duration::from_secs(1), start);
        }
        tally.record(1, &Ok(503), Duration::ZERO, start);
        tally.record(1, &Err(io::ErrorKind::ConnectionReset.into()), Duration::ZERO, start);
        let second = tally.end_second(Duration::from_secs(1), Some(7)).clone();
        assert_eq!((second.number, second.requests, second.errors, second.overdue), (1, 200, 2, Some(7)));
        assert_eq!(tally.end_second(Duration::from_secs(1), None).requests, 0, "each second begins anew");

        let rows = tally.measured(&workload, start, 3, 4);
        let names: Vec<&str> = rows.iter().map(|row| row.what.as_str()).collect();
        assert_eq!(names, ["50 % get, 50 % put", "  get", "  put"]);
        // The last answer came a second after the end: the rate does not profit from it.
        assert_eq!((rows[0].requests, rows[0].rate_per_s), (200, 100.0));
        assert!((rows[1].latencies.p50_ms - 50.0).abs() < 0.1 && (rows[1].latencies.max_ms - 100.0).abs() < 0.1, "{rows:?}");
        assert!((rows[2].latencies.p50_ms - 1000.0).abs() < 1.0);
        let errors = |row: usize| rows[row].errors.iter().map(|(kind, count)| (kind.as_str(), *count)).collect::<Vec<_>>();
        assert_eq!(errors(0), [("connection reset", 1), ("never begun", 4), ("no answer", 3), ("status 503", 1)]);
        assert_eq!((errors(1).len(), errors(2).len()), (0, 2));
        assert_eq!((rows[0].seconds.len(), rows[1].seconds.len()), (2, 0));
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let workload = Workload::new(Mix::Only(Operation::Put), "default", &load());
        let mut tally = Tally::new(&workload);
        (400..500).for_each(|status| tally.record(0, &Ok(status), Duration::ZERO, now()));
        let rows = tally.measured(&workload, now(), 0, 0);
        assert_eq!((rows.len(), rows[0].requests), (1, 0));
        assert!(rows[0].errors.len() <= MAX_ERROR_KINDS + 1 && rows[0].errors["other"] > 0, "{rows:?}");
        assert_eq!(rows[0].errors.values().sum::<u64>(), 100, "none is lost");
    }
}
