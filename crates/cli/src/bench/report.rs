//! What was measured, as a table or as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use crate::exit::{Failure, note};
use crate::output::{Format, Output};

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// The operation, and against what.
    pub(super) what: String,
    pub(super) clients: usize,
    /// Those that succeeded; the latencies are theirs.
    pub(super) requests: u64,
    pub(super) rate_per_s: f64,
    pub(super) p50_ms: f64,
    pub(super) p90_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    /// How often each error came.
    pub(super) errors: BTreeMap<String, u64>,
    /// This rate by that of the bare server under the same load, in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio_to_bare: Option<f64>,
    /// Processor time of all nodes together, in seconds for each 100,000 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_s_per_100k: Option<f64>,
}

/// Prints all, and fails if one of them had nothing but errors.
pub(super) fn print(output: &mut Output, all: &[Measured]) -> Result<(), Failure> {
    match output.format {
        Format::Json => output.json(&json!({ "items": all }))?,
        _ => table(output, all)?,
    }
    output.flush()?;
    for measured in all.iter().filter(|measured| !measured.errors.is_empty()) {
        note(format_args!("quorate: {}: {}", measured.what, told(&measured.errors)));
    }
    match all.iter().find(|measured| measured.requests == 0) {
        Some(measured) => Err(Failure::failed(format!("no request of `{}` succeeded", measured.what))),
        None => Ok(()),
    }
}

fn table(output: &mut Output, all: &[Measured]) -> Result<(), Failure> {
    let mut header = vec!["LOAD", "CLIENTS", "RATE/S", "P50 MS", "P90 MS", "P99 MS", "MAX MS", "ERRORS"];
    let has_ratio = all.iter().any(|each| each.ratio_to_bare.is_some());
    let has_cpu = all.iter().any(|each| each.server_cpu_s_per_100k.is_some());
    header.extend(has_ratio.then_some("OF BARE"));
    header.extend(has_cpu.then_some("CPU S/100K"));
    let row = |each: &Measured| {
        let mut row = vec![each.what.clone(), each.clients.to_string(), format!("{:.0}", each.rate_per_s)];
        row.extend([each.p50_ms, each.p90_ms, each.p99_ms, each.max_ms].map(|ms| format!("{ms:.2}")));
        row.push(each.errors.values().sum::<u64>().to_string());
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
