//! What was measured, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

use crate::exit::{Failure, note};
use crate::output::{Format, Output};

/// One measurement, or the part of a mix that one operation has in it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// The operation, and against what.
    pub(super) what: String,
    pub(super) clients: usize,
    /// What an open loop was asked to begin each second; a closed loop has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offered_rate_per_s: Option<u64>,
    /// Those that succeeded; the latencies are theirs.
    pub(super) requests: u64,
    pub(super) rate_per_s: f64,
    #[serde(flatten)]
    pub(super) latencies: Latencies,
    /// How often each error came.
    pub(super) errors: BTreeMap<String, u64>,
    /// This rate by that of the bare server under the same load, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio_to_bare: Option<f64>,
    /// Processor time of all nodes together, in seconds for each 100,000 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_s_per_100k: Option<f64>,
    /// The same second by second; only of a whole measurement.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) seconds: Vec<Second>,
}

/// How long answers took: in a closed loop from the sending of the request, in an open one from when it was due.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the unit is part of the names in the JSON")]
pub(super) struct Latencies {
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
}

impl Latencies {
    fn all(&self) -> [f64; 5] {
        [self.p50_ms, self.p90_ms, self.p99_ms, self.p999_ms, self.max_ms]
    }
}

/// The answers of one second of a measurement.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Second {
    /// Which one, counted from 1.
    #[serde(rename = "second")]
    pub(super) number: u64,
    pub(super) requests: u64,
    pub(super) rate_per_s: f64,
    #[serde(flatten)]
    pub(super) latencies: Latencies,
    pub(super) errors: u64,
    /// Requests of an open loop that were due at its end and for which no client was free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) overdue: Option<u64>,
}

/// A second in one line, for people who look on.
pub(super) fn line(second: &Second) -> String {
    let [p50, p90, p99, p999, max] = second.latencies.all().map(|ms| format!("{ms:.2}"));
    let mut line = format!(
        "{:>5} s {:>9.0}/s   p50 {p50:>7}  p90 {p90:>7}  p99 {p99:>7}  p99.9 {p999:>7}  max {max:>7} ms",
        second.number, second.rate_per_s
    );
    let told = [(second.errors, "errors"), (second.overdue.unwrap_or(0), "overdue")];
    for (count, what) in told.into_iter().filter(|(count, _)| *count > 0) {
        let _ = write!(line, "   {count} {what}");
    }
    line
}

/// Prints all, and fails if one of them had nothing but errors.
pub(super) fn print(output: &mut Output, all: &[Measured]) -> Result<(), Failure> {
    match output.format {
        Format::Json => output.json(&json!({ "items": all }))?,
        _ => table(output, all)?,
    }
    output.flush()?;
    for measured in all.iter().filter(|measured| !measured.errors.is_empty()) {
        note(format_args!("quorate: {}: {}", measured.what.trim(), told(&measured.errors)));
    }
    match all.iter().find(|measured| measured.requests == 0) {
        Some(measured) => Err(Failure::failed(format!("no request of `{}` succeeded", measured.what.trim()))),
        None => Ok(()),
    }
}

fn table(output: &mut Output, all: &[Measured]) -> Result<(), Failure> {
    let mut header = vec!["LOAD", "CLIENTS", "RATE/S", "P50 MS", "P90 MS", "P99 MS", "P99.9 MS", "MAX MS", "ERRORS"];
    let has_offered = all.iter().any(|each| each.offered_rate_per_s.is_some());
    let has_ratio = all.iter().any(|each| each.ratio_to_bare.is_some());
    let has_cpu = all.iter().any(|each| each.server_cpu_s_per_100k.is_some());
    header.extend(has_offered.then_some("OFFERED/S"));
    header.extend(has_ratio.then_some("OF BARE"));
    header.extend(has_cpu.then_some("CPU S/100K"));
    let row = |each: &Measured| {
        let mut row = vec![each.what.clone(), each.clients.to_string(), format!("{:.0}", each.rate_per_s)];
        row.extend(each.latencies.all().map(|ms| format!("{ms:.2}")));
        row.push(each.errors.values().sum::<u64>().to_string());
        if has_offered {
            row.push(each.offered_rate_per_s.map(|rate| rate.to_string()).unwrap_or_default());
        }
        if has_ratio {
            row.push(each.ratio_to_bare.map(|ratio| format!("{:.0} %", ratio * 100.0)).unwrap_or_default());
        }
        if has_cpu {
            row.push(each.server_cpu_s_per_100k.map(|seconds| format!("{seconds:.1}")).unwrap_or_default());
        }
        row
    };
    output.table(&header, all.iter().map(row))
}

fn told(errors: &BTreeMap<String, u64>) -> String {
    errors.iter().map(|(kind, count)| format!("{count} x {kind}")).collect::<Vec<_>>().join(", ")
}
