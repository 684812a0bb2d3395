//! What came of a run.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::coverage::Coverage;
use crate::scenario::Scenario;
use crate::simulation::Simulation;
use crate::time::SimTime;
use crate::trace::Sink;
use crate::violation::Violation;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// Equal for equal runs.
    pub trace_hash: u64,
    /// The last lines of the trace, if a promise was broken.
    pub last_lines: Vec<String>,
    /// How long it lasted, in simulated time.
    pub lasted: SimTime,
    /// What happened how often.
    pub coverage: Coverage,
}

/// Runs a scenario. A panic of a node is a broken promise like any other.
pub fn run(scenario: Scenario, sink: Option<Sink>) -> Report {
    let seed = scenario.seed;
    let mut simulation = Simulation::new(scenario, sink);
    let outcome = catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let violation = match outcome {
        Ok(outcome) => outcome.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Some(Violation::new("nothing panics", text.unwrap_or("a panic without a message")))
        }
    };
    let last_lines = match violation {
        Some(_) => simulation.trace.recent().map(str::to_owned).collect(),
        None => Vec::new(),
    };
    simulation.coverage.add("events in traces", simulation.trace.line_count());
    Report {
        seed,
        violation,
        trace_hash: simulation.trace.hash(),
        last_lines,
        lasted: simulation.now,
        coverage: simulation.coverage,
    }
}
