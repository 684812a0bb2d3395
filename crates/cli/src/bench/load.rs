//! The closed loop: every client has one request on its way, and sends the next when the answer is there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use quorate_client::Endpoint;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::report::Measured;
use super::workload::{Draw, Operation, Requests, Workload};
use crate::exit::Failure;

/// Before the measurement: connections are opened and caches filled.
const MAX_WARM_UP: Duration = Duration::from_secs(1);

/// How long after its end a measurement waits for answers.
const STRAGGLER_LIMIT: Duration = Duration::from_secs(10);

/// A client whose connection failed waits this long, so that a dead endpoint does not turn the load into a loop of connecting.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// Latencies from 1 us to 100 s, to three digits.
const MAX_LATENCY_US: u64 = 100_000_000;
const LATENCY_DIGITS: u8 = 3;

/// Different errors that are told apart.
const MAX_ERROR_KINDS: usize = 16;

/// Runs one measurement; clients are spread over the endpoints in turn.
pub(super) async fn run(workload: &Workload, endpoints: &[Endpoint]) -> Result<Measured, Failure> {
    let tally = Rc::new(RefCell::new(Tally::new()));
    let targets = targets(workload, endpoints);
    let warm_up = MAX_WARM_UP.min(workload.duration / 5);
    let start = now() + warm_up;
    let end = start + workload.duration;
    let local = LocalSet::new();
    let stragglers = local
        .run_until(async {
            let mut clients = JoinSet::new();
            for number in 0..workload.clients {
                let target = targets[number % targets.len()].clone();
                clients.spawn_local(one_client(number as u64, target, Window { start, end }, tally.clone()));
            }
            let finished = async { while clients.join_next().await.is_some() {} };
            let limit = warm_up + workload.duration + STRAGGLER_LIMIT;
            if timeout(limit, finished).await.is_err() { clients.len() } else { 0 }
        })
        .await;
    let elapsed = now().saturating_duration_since(start);
    let tally = tally.borrow();
    Ok(tally.measured(workload, elapsed, stragglers as u64))
}

/// Writes every key once, so that reads find them.
pub(super) async fn fill(workload: &Workload, endpoints: &[Endpoint]) -> Result<(), Failure> {
    let workload = workload.with_operation(Operation::Put);
    let targets = targets(&workload, endpoints);
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut clients = JoinSet::new();
            for number in 0..workload.clients {
                let target = targets[number % targets.len()].clone();
                clients.spawn_local(fill_share(number, workload.clients, target));
            }
            while let Some(finished) = clients.join_next().await {
                let result = finished.map_err(|error| Failure::failed(format!("a client of the bench failed: {error}")))?;
                result.map_err(|reason| Failure::failed(format!("cannot write the keys to be read: {reason}")))?;
            }
            Ok(())
        })
        .await
}

/// An endpoint and the requests for it.
#[derive(Debug)]
struct Target {
    authority: String,
    requests: Requests,
}

fn targets(workload: &Workload, endpoints: &[Endpoint]) -> Vec<Rc<Target>> {
    let target = |endpoint: &Endpoint| {
        Rc::new(Target { authority: endpoint.authority().to_owned(), requests: workload.requests(endpoint) })
    };
    endpoints.iter().map(target).collect()
}

/// When requests count.
#[derive(Clone, Copy, Debug)]
struct Window {
    start: Instant,
    end: Instant,
}

async fn one_client(number: u64, target: Rc<Target>, window: Window, tally: Rc<RefCell<Tally>>) {
    let mut draw = Draw::new(number);
    let mut connection = None;
    let mut begun = now();
    while begun < window.end {
        let head = &target.requests.heads[draw.below(target.requests.heads.len())];
        let answer = exchange(&mut connection, &target, head).await;
        let ended = now();
        if begun >= window.start {
            tally.borrow_mut().record(&answer, ended - begun);
        }
        begun = ended;
        if answer.is_err() {
            connection = None;
            sleep(PAUSE_AFTER_ERROR).await;
            begun = now();
        }
    }
}

async fn fill_share(first: usize, stride: usize, target: Rc<Target>) -> Result<(), String> {
    let mut connection = None;
    for head in target.requests.heads.iter().skip(first).step_by(stride) {
        match exchange(&mut connection, &target, head).await {
            Ok(status) if is_success(status) => {}
            Ok(status) => return Err(format!("http://{} answers {status}", target.authority)),
            Err(error) => return Err(format!("http://{}: {error}", target.authority)),
        }
    }
    Ok(())
}

async fn exchange(connection: &mut Option<Connection>, target: &Target, head: &bytes::Bytes) -> io::Result<u16> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(&target.authority).await?),
    };
    connection.exchange(head, &target.requests.body).await
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// What came back within the window.
#[derive(Debug)]
struct Tally {
    latencies_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    fn new() -> Self {
        let latencies_us = Histogram::new_with_bounds(1, MAX_LATENCY_US, LATENCY_DIGITS).expect("these bounds make a histogram");
        Self { latencies_us, errors: BTreeMap::new() }
    }

    fn record(&mut self, answer: &io::Result<u16>, latency: Duration) {
        match answer {
            Ok(status) if is_success(*status) => self.latencies_us.saturating_record(latency.as_micros() as u64),
            Ok(status) => self.count_error(format!("status {status}")),
            Err(error) => self.count_error(error.to_string()),
        }
    }

    fn count_error(&mut self, kind: String) {
        let has_room = self.errors.len() < MAX_ERROR_KINDS || self.errors.contains_key(&kind);
        *self.errors.entry(if has_room { kind } else { "other".to_owned() }).or_default() += 1;
    }

    fn measured(&self, workload: &Workload, elapsed: Duration, stragglers: u64) -> Measured {
        let mut errors = self.errors.clone();
        if stragglers > 0 {
            errors.insert("no answer".to_owned(), stragglers);
        }
        let ms = |quantile: f64| self.latencies_us.value_at_quantile(quantile) as f64 / 1000.0;
        Measured {
            what: workload.operation.to_string(),
            clients: workload.clients,
            requests: self.latencies_us.len(),
            rate_per_s: self.latencies_us.len() as f64 / elapsed.as_secs_f64(),
            p50_ms: ms(0.5),
            p90_ms: ms(0.9),
            p99_ms: ms(0.99),
            max_ms: self.latencies_us.max() as f64 / 1000.0,
            errors,
            ratio_to_bare: None,
            server_cpu_s_per_100k: None,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "measuring time is what a bench is for")]
fn now() -> Instant {
    Instant::now()
}
