//! What is sent: which operations on which keys, and the bytes of each request.

use std::fmt;
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use quorate_api::key::encode_percent;
use quorate_client::Endpoint;
use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use super::args::{LoadArgs, ValueBytes};
use super::keys::Keys;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    Get,
    LocalGet,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::LocalGet => "local get",
        })
    }
}

/// What the requests of a load do: all the same, or some of them read and the others write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    Only(Operation),
    ReadsAndPuts { read: Operation, reads_percent: u8 },
}

impl Mix {
    /// The operations, in the order in which they are reported.
    pub(super) fn operations(self) -> Vec<Operation> {
        match self {
            Self::Only(operation) => vec![operation],
            Self::ReadsAndPuts { read, .. } => vec![read, Operation::Put],
        }
    }

    /// The next one, as its position in [`Self::operations`].
    fn draw(self, random: &mut SmallRng) -> usize {
        match self {
            Self::Only(_) => 0,
            Self::ReadsAndPuts { reads_percent, .. } => usize::from(random.random_range(0..100) >= reads_percent),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(operation) => operation.fmt(f),
            Self::ReadsAndPuts { read, reads_percent } => write!(f, "{reads_percent} % {read}, {} % put", 100 - reads_percent),
        }
    }
}

/// One measurement's load.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) mix: Mix,
    pub(crate) clients: usize,
    pub(crate) duration: Duration,
    /// Requests that begin each second; without it, each client begins one when it has the answer to the last.
    pub(crate) rate: Option<u64>,
    pub(crate) key_count: u64,
    pub(crate) values: Values,
    pub(super) keys: Rc<Keys>,
    pub(super) shows_seconds: bool,
    keyspace: String,
}

impl Workload {
    pub(crate) fn new(mix: Mix, keyspace: &str, load: &LoadArgs) -> Self {
        Self {
            mix,
            clients: load.clients as usize,
            duration: Duration::from_secs(load.seconds),
            rate: load.rate,
            key_count: load.keys,
            values: Values::new(load.value_bytes),
            keys: Rc::new(Keys::new(load)),
            shows_seconds: load.live,
            keyspace: keyspace.to_owned(),
        }
    }

    pub(crate) fn with_mix(&self, mix: Mix) -> Self {
        Self { mix, ..self.clone() }
    }

    pub(crate) fn with_clients(&self, clients: usize) -> Self {
        Self { clients, ..self.clone() }
    }

    /// What a client needs to write requests for one endpoint.
    pub(super) fn requests(&self, endpoint: &Endpoint, seed: u64) -> Requests {
        let path = |operation| {
            let method = if operation == Operation::Put { "PUT" } else { "GET" };
            format!("{method} /v1/kv/{}/bench/", encode_percent(self.keyspace.as_bytes()))
        };
        let after_key = |operation| {
            let query = if operation == Operation::LocalGet { "?consistency=local" } else { "" };
            format!("{query} HTTP/1.1\r\nhost: {}\r\n", endpoint.authority())
        };
        let form = |operation| Form { operation, path: path(operation), after_key: after_key(operation) };
        Requests {
            mix: self.mix,
            forms: self.mix.operations().into_iter().map(form).collect(),
            keys: Rc::clone(&self.keys),
            values: self.values.clone(),
            random: SmallRng::seed_from_u64(seed),
            head: Vec::new(),
        }
    }
}

/// Values of the sizes asked for, each another piece of the same bytes.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    sizes: ValueBytes,
    bytes: Bytes,
}

/// How far apart values may begin: far more than any block that a disk engine compresses, so that equal pieces do not meet.
const SPREAD_BYTES: u64 = 4 << 20;

impl Values {
    fn new(sizes: ValueBytes) -> Self {
        // Of no pattern that a disk or a compressor could make use of; the same on every run.
        let mut bytes = vec![0; (sizes.max + SPREAD_BYTES) as usize];
        SmallRng::seed_from_u64(sizes.max).fill_bytes(&mut bytes);
        Self { sizes, bytes: bytes.into() }
    }

    /// One of the middle size.
    pub(super) fn middle(&self) -> Bytes {
        self.bytes.slice(..self.sizes.min.midpoint(self.sizes.max) as usize)
    }

    fn draw(&self, random: &mut SmallRng) -> Bytes {
        let (begin, size) = (random.random_range(0..SPREAD_BYTES), random.random_range(self.sizes.min..=self.sizes.max));
        self.bytes.slice(begin as usize..(begin + size) as usize)
    }
}

/// Writes the requests of one client, as they go onto the wire.
#[derive(Debug)]
pub(super) struct Requests {
    mix: Mix,
    forms: Vec<Form>,
    keys: Rc<Keys>,
    values: Values,
    random: SmallRng,
    head: Vec<u8>,
}

/// What all requests of one operation have in common.
#[derive(Debug)]
struct Form {
    operation: Operation,
    path: String,
    after_key: String,
}

/// One request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// The operation's position in [`Mix::operations`].
    pub(super) operation: usize,
    pub(super) head: &'a [u8],
    pub(super) body: Bytes,
}

impl Requests {
    /// The next request.
    pub(super) fn next(&mut self) -> Request<'_> {
        let operation = self.mix.draw(&mut self.random);
        let key = self.keys.next(&mut self.random);
        self.write(operation, key)
    }

    /// A request for one key, by its number; the operation by its position.
    pub(super) fn write(&mut self, operation: usize, key: u64) -> Request<'_> {
        let form = &self.forms[operation];
        let has_body = form.operation == Operation::Put;
        let body = if has_body { self.values.draw(&mut self.random) } else { Bytes::new() };
        let length = if has_body { format!("content-length: {}\r\n", body.len()) } else { String::new() };
        self.head.clear();
        write!(self.head, "{}{key:010}{}{length}\r\n", form.path, form.after_key).expect("memory takes what is written");
        Request { operation, head: &self.head, body }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{LoadArgs, Mix, Operation, Workload};
    use crate::bench::args::{Pick, ValueBytes};

    /// A small load.
    pub(in crate::bench) fn load() -> LoadArgs {
        LoadArgs {
            clients: 1,
            seconds: 1,
            rate: None,
            value_bytes: ValueBytes { min: 3, max: 3 },
            keys: 12,
            pick: Pick::Uniform,
            exponent: 0.99,
            live: false,
        }
    }

    fn text(head: &[u8]) -> &str {
        std::str::from_utf8(head).unwrap()
    }

    #[test]
    fn requests_are_whole_and_keys_have_16_bytes() {
        let endpoint = "a:1".parse().unwrap();
        let put = Workload::new(Mix::Only(Operation::Put), "default", &load());
        let mut requests = put.requests(&endpoint, 0);
        let request = requests.write(0, 11);
        let head = "PUT /v1/kv/default/bench/0000000011 HTTP/1.1\r\nhost: a:1\r\ncontent-length: 3\r\n\r\n";
        assert_eq!((text(request.head), request.body.len()), (head, 3));
        assert_eq!("bench/0000000011".len(), 16);
        let mut requests = put.with_mix(Mix::Only(Operation::LocalGet)).requests(&endpoint, 0);
        let request = requests.write(0, 0);
        assert_eq!(text(request.head), "GET /v1/kv/default/bench/0000000000?consistency=local HTTP/1.1\r\nhost: a:1\r\n\r\n");
        assert!(request.body.is_empty());
    }

    #[test]
    fn a_mix_reads_as_often_as_asked_and_values_have_all_sizes() {
        let load = LoadArgs { value_bytes: ValueBytes { min: 1, max: 4 }, ..load() };
        let mix = Mix::ReadsAndPuts { read: Operation::Get, reads_percent: 70 };
        let mut requests = Workload::new(mix, "ks", &load).requests(&"a:1".parse().unwrap(), 1);
        let (mut reads, mut sizes) = (0, [0; 5]);
        for _ in 0..10_000 {
            let request = requests.next();
            reads += usize::from(request.operation == 0);
            assert_eq!(text(request.head).starts_with("GET"), request.operation == 0);
            sizes[request.body.len()] += 1;
        }
        assert!((6700..7300).contains(&reads), "{reads}");
        assert_eq!(sizes[0], reads, "reads have no body");
        assert!(sizes[1..].iter().all(|count| (600..900).contains(count)), "{sizes:?}");
    }
}
