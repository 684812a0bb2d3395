//! Runs simulations: many seeds, or one with its trace.

use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use quorate_sim::{Coverage, FaultKind, Mutation, Report, Scenario, run};

const USAGE: &str = "\
Usage: sim [--seeds N] [--start SEED] [--seconds S] [--threads 1|2] [--mutation NAME] [--keep-going]
       sim --seed SEED [--trace] [--seconds S] [--mutation NAME] [--fault NAME]...
";

/// What the command line asks for.
struct Arguments {
    first_seed: u64,
    seeds: u64,
    is_traced: bool,
    keeps_going: bool,
    safety_ms: Option<u64>,
    threads: u64,
    mutation: Option<Mutation>,
    faults: Vec<FaultKind>,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            let _ = write!(io::stderr(), "{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A panic of a node is reported with its seed and trace.
    panic::set_hook(Box::new(|_| {}));
    match run_all(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        first_seed: 1,
        seeds: 1,
        is_traced: false,
        keeps_going: false,
        safety_ms: None,
        threads: 2,
        mutation: None,
        faults: Vec::new(),
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{word} {text}: {error}"));
        match &*word {
            "--seed" | "--start" => arguments.first_seed = number(value()?)?,
            "--seeds" => arguments.seeds = number(value()?)?,
            "--seconds" => arguments.safety_ms = Some(number(value()?)? * 1000),
            "--threads" => arguments.threads = number(value()?)?.clamp(1, 2),
            "--trace" => arguments.is_traced = true,
            "--keep-going" => arguments.keeps_going = true,
            "--mutation" => {
                let name = value()?;
                let known = Mutation::ALL.into_iter().find(|mutation| mutation.name() == name);
                arguments.mutation = Some(known.ok_or_else(|| format!("there is no mutation {name}"))?);
            }
            "--fault" => {
                let name = value()?;
                let known = FaultKind::ALL.into_iter().find(|kind| kind.name().ends_with(&name));
                arguments.faults.push(known.ok_or_else(|| format!("there is no fault {name}"))?);
            }
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(arguments)
}

/// False if a seed failed.
fn run_all(arguments: &Arguments) -> io::Result<bool> {
    #[expect(clippy::disallowed_methods, reason = "how long the simulation takes is about the machine, not about the run")]
    let began = Instant::now();
    let next_seed = AtomicU64::new(arguments.first_seed);
    let end = arguments.first_seed + arguments.seeds;
    let total = Mutex::new(Total::default());
    let work = || -> io::Result<()> {
        loop {
            let seed = next_seed.fetch_add(1, Ordering::Relaxed);
            if seed >= end || (!arguments.keeps_going && total.lock().expect(UNPOISONED).failures > 0) {
                return Ok(());
            }
            let report = run_seed(arguments, seed);
            total.lock().expect(UNPOISONED).add(&report);
            if report.violation.is_some() {
                print_failure(&report)?;
            }
        }
    };
    let threads = if arguments.seeds == 1 { 1 } else { arguments.threads };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut outcome = work();
        for other in others {
            let other_outcome = other.join().expect("a worker reports panics of its runs");
            outcome = outcome.and(other_outcome);
        }
        outcome
    })?;
    #[expect(clippy::disallowed_methods, reason = "as above")]
    let took = began.elapsed();
    let total = total.into_inner().expect(UNPOISONED);
    let mut out = io::stdout().lock();
    write!(out, "{}", total.coverage)?;
    let simulated_seconds = total.simulated_us as f64 / 1e6;
    writeln!(
        out,
        "{} seeds, {} failed; {simulated_seconds:.0} simulated seconds in {:.1} s: {:.0} per second",
        total.seeds,
        total.failures,
        took.as_secs_f64(),
        simulated_seconds / took.as_secs_f64()
    )?;
    if arguments.seeds == 1 {
        writeln!(out, "trace hash {:016x}", total.last_hash)?;
    }
    Ok(total.failures == 0)
}

/// Why a lock is never found poisoned.
const UNPOISONED: &str = "nothing panics while it holds this lock";

#[derive(Default)]
struct Total {
    seeds: u64,
    failures: u64,
    simulated_us: u64,
    coverage: Coverage,
    last_hash: u64,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.failures += u64::from(report.violation.is_some());
        self.simulated_us += report.lasted.0;
        self.coverage.merge(&report.coverage);
        self.last_hash = report.trace_hash;
    }
}

fn run_seed(arguments: &Arguments, seed: u64) -> Report {
    let mut scenario = Scenario::from_seed(seed);
    if let Some(safety_ms) = arguments.safety_ms {
        scenario.safety_ms = safety_ms;
    }
    if let Some(mutation) = arguments.mutation {
        scenario = scenario.planting(mutation);
    }
    if !arguments.faults.is_empty() {
        scenario.faults.clone_from(&arguments.faults);
    }
    let sink: Option<quorate_sim::Sink> = if arguments.is_traced {
        Some(Box::new(|line| {
            let _ = writeln!(io::stdout(), "{line}");
        }))
    } else {
        None
    };
    run(scenario, sink)
}

fn print_failure(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in &report.last_lines {
        writeln!(out, "{line}")?;
    }
    if let Some(violation) = &report.violation {
        writeln!(out, "seed {} failed after {}: {violation}", report.seed, report.lasted)?;
    }
    writeln!(out, "again: cargo run --release -p quorate-sim --bin sim -- --seed {}", report.seed)
}
