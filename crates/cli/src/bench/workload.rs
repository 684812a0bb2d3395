//! What is sent: requests written out beforehand, so that sending one costs next to nothing.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use quorate_api::key::encode_percent;
use quorate_client::Endpoint;

use super::args::LoadArgs;

/// What each request does.
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

/// One measurement's load.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) operation: Operation,
    pub(crate) clients: usize,
    pub(crate) duration: Duration,
    pub(crate) key_count: usize,
    pub(crate) value: Bytes,
    keyspace: String,
}

impl Workload {
    pub(crate) fn new(operation: Operation, keyspace: &str, load: &LoadArgs) -> Self {
        // Bytes of no pattern that a disk or a compressor could make use of; the same on every run.
        let mut draw = Draw::new(load.value_bytes);
        let value = (0..load.value_bytes).map(|_| draw.next() as u8).collect::<Vec<u8>>().into();
        Self {
            operation,
            clients: load.clients as usize,
            duration: Duration::from_secs(load.seconds),
            key_count: load.keys as usize,
            value,
            keyspace: keyspace.to_owned(),
        }
    }

    pub(crate) fn with_operation(&self, operation: Operation) -> Self {
        Self { operation, ..self.clone() }
    }

    pub(crate) fn with_clients(&self, clients: usize) -> Self {
        Self { clients, ..self.clone() }
    }

    /// The requests for one endpoint.
    pub(super) fn requests(&self, endpoint: &Endpoint) -> Requests {
        let heads = (0..self.key_count).map(|number| self.head(number, endpoint.authority()).into()).collect();
        let body = if self.operation == Operation::Put { self.value.clone() } else { Bytes::new() };
        Requests { heads, body }
    }

    fn head(&self, number: usize, host: &str) -> String {
        let path = format!("/v1/kv/{}/bench/{number:010}", encode_percent(self.keyspace.as_bytes()));
        match self.operation {
            Operation::Put => format!("PUT {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n", self.value.len()),
            Operation::Get => format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"),
            Operation::LocalGet => format!("GET {path}?consistency=local HTTP/1.1\r\nhost: {host}\r\n\r\n"),
        }
    }
}

/// Requests as they go onto the wire: a head for each key, and the body that they all share.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) heads: Vec<Bytes>,
    pub(super) body: Bytes,
}

/// Numbers that look random, cheaply and the same on every run (a linear congruential generator, Knuth's constants).
#[derive(Debug)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        let mut draw = Self(seed);
        draw.next();
        draw
    }

    pub(super) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }
}

#[cfg(test)]
mod tests {
    use super::{LoadArgs, Operation, Workload};

    #[test]
    fn requests_are_whole_and_keys_have_16_bytes() {
        let load = LoadArgs { clients: 1, seconds: 1, value_bytes: 3, keys: 12 };
        let put = Workload::new(Operation::Put, "default", &load);
        let requests = put.requests(&"a:1".parse().unwrap());
        assert_eq!((requests.heads.len(), requests.body.len()), (12, 3));
        let head = "PUT /v1/kv/default/bench/0000000011 HTTP/1.1\r\nhost: a:1\r\ncontent-length: 3\r\n\r\n";
        assert_eq!(requests.heads[11], head);
        assert_eq!("bench/0000000011".len(), 16);
        let get = put.with_operation(Operation::LocalGet).requests(&"a:1".parse().unwrap());
        assert_eq!(get.heads[0], "GET /v1/kv/default/bench/0000000000?consistency=local HTTP/1.1\r\nhost: a:1\r\n\r\n");
        assert!(get.body.is_empty());
    }
}
