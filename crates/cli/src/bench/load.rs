//! Puts a load on some endpoints: every client has one request on its way at a time.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use quorate_client::Endpoint;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::pace::{Pace, Schedule};
use super::report::{self, Measured};
use super::tally::{Tally, is_success};
use super::workload::{Mix, Operation, Request, Requests, Workload};
use crate::exit::{Failure, note};
use crate::progress::Progress;

/// Before the measurement: connections are opened and caches filled.
const MAX_WARM_UP: Duration = Duration::from_secs(1);

/// How long after its end a measurement waits for answers, and for the requests of an open loop that are overdue.
const STRAGGLER_LIMIT: Duration = Duration::from_secs(10);

/// How long the keys to be read may take to be written.
const FILL_LIMIT: Duration = Duration::from_mins(30);

/// A client whose connection failed waits this long, so that a dead endpoint does not turn the load into a loop of connecting.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// Runs one measurement; clients are spread over the endpoints in turn. Returns the whole, and the parts of a mix.
pub(super) async fn run(workload: &Workload, endpoints: &[Endpoint]) -> Result<Vec<Measured>, Failure> {
    let warm_up = MAX_WARM_UP.min(workload.duration / 5);
    let begin = now();
    let (start, end) = (begin + warm_up, begin + warm_up + workload.duration);
    let pace = match workload.rate {
        None => Pace::Closed { end },
        Some(rate) => Pace::Open(
            Schedule::start(begin, end, rate, workload.clients)
                .map_err(|error| Failure::failed(format!("cannot start a thread: {error}")))?,
        ),
    };
    let run = Rc::new(Run { pace, start, tally: RefCell::new(Tally::new(workload)) });
    let local = LocalSet::new();
    let unanswered = local
        .run_until(async {
            let mut clients = JoinSet::new();
            for number in 0..workload.clients {
                let client = Client::new(workload, &endpoints[number % endpoints.len()], number);
                clients.spawn_local(client.put_load(Rc::clone(&run)));
            }
            let seconds = tokio::task::spawn_local(end_seconds(Rc::clone(&run), workload.clone()));
            let finished = async { while clients.join_next().await.is_some() {} };
            let limit = warm_up + workload.duration + STRAGGLER_LIMIT;
            let unanswered = if timeout(limit, finished).await.is_err() { clients.len() } else { 0 };
            clients.shutdown().await;
            // It ends with the duration, which is over; then all of it is in the tally.
            let _ = seconds.await;
            unanswered
        })
        .await;
    let tally = run.tally.borrow();
    Ok(tally.measured(workload, start, unanswered as u64, run.pace.never_begun()))
}

/// Writes every key once, so that reads find them.
pub(super) async fn fill(workload: &Workload, endpoints: &[Endpoint]) -> Result<(), Failure> {
    let workload = workload.with_mix(Mix::Only(Operation::Put));
    let progress = Rc::new(Progress::of_count(Some(workload.key_count), "keys to be read"));
    let local = LocalSet::new();
    let filled = local.run_until(async {
        let mut clients = JoinSet::new();
        for number in 0..workload.clients {
            let client = Client::new(&workload, &endpoints[number % endpoints.len()], number);
            let keys = (number as u64..workload.key_count).step_by(workload.clients);
            clients.spawn_local(client.fill_share(keys, Rc::clone(&progress)));
        }
        while let Some(finished) = clients.join_next().await {
            let result = finished.map_err(|error| Failure::failed(format!("a client of the bench failed: {error}")))?;
            result.map_err(|reason| Failure::failed(format!("cannot write the keys to be read: {reason}")))?;
        }
        Ok(())
    });
    let minutes = FILL_LIMIT.as_secs() / 60;
    let too_long = || {
        Failure::failed(format!("the keys to be read are not written after {minutes} minutes: take fewer --keys, or --no-fill"))
    };
    timeout(FILL_LIMIT, filled).await.unwrap_or_else(|_| Err(too_long()))
}

/// What the clients of one measurement share.
#[derive(Debug)]
struct Run {
    pace: Pace,
    /// Requests that begin, or are due, before it are the warm-up's.
    start: Instant,
    tally: RefCell<Tally>,
}

/// Closes the tally of every second of the window, and shows it where somebody looks on.
async fn end_seconds(run: Rc<Run>, workload: Workload) {
    let mut begin = run.start;
    let end = run.start + workload.duration;
    while begin < end {
        let next = begin + Duration::from_secs(1).min(end - begin);
        sleep(next.saturating_duration_since(now())).await;
        let ended = now();
        let mut tally = run.tally.borrow_mut();
        let second = tally.end_second(ended.saturating_duration_since(begin), run.pace.overdue());
        if workload.shows_seconds {
            note(report::line(second));
        }
        begin = ended;
    }
}

/// One client: its connection, and the requests that it writes.
#[derive(Debug)]
struct Client {
    authority: String,
    connection: Option<Connection>,
    requests: Requests,
}

impl Client {
    fn new(workload: &Workload, endpoint: &Endpoint, number: usize) -> Self {
        let requests = workload.requests(endpoint, number as u64);
        Self { authority: endpoint.authority().to_owned(), connection: None, requests }
    }

    async fn put_load(mut self, run: Rc<Run>) {
        while let Some(begun) = run.pace.next().await {
            let request = self.requests.next();
            let operation = request.operation;
            let answer = exchange(&mut self.connection, &self.authority, request).await;
            let ended = now();
            if begun >= run.start {
                run.tally.borrow_mut().record(operation, &answer, ended.saturating_duration_since(begun), ended);
            }
            if answer.is_err() {
                self.connection = None;
                sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }

    async fn fill_share(mut self, keys: impl Iterator<Item = u64>, progress: Rc<Progress>) -> Result<(), String> {
        for key in keys {
            let request = self.requests.write(0, key);
            match exchange(&mut self.connection, &self.authority, request).await {
                Ok(status) if is_success(status) => progress.add(1),
                Ok(status) => return Err(format!("http://{} answers {status}", self.authority)),
                Err(error) => return Err(format!("http://{}: {error}", self.authority)),
            }
        }
        Ok(())
    }
}

async fn exchange(connection: &mut Option<Connection>, authority: &str, request: Request<'_>) -> io::Result<u16> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(authority).await?),
    };
    connection.exchange(request.head, request.body).await
}

#[expect(clippy::disallowed_methods, reason = "measuring time is what a bench is for")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
