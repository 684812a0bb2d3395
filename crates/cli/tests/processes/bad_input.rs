//! Clients that speak badly, while others are served.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Cluster, Connection, Load, Request, now, tell};

#[test]
fn bad_clients_disturb_nobody() {
    let cluster = Cluster::ready(3);
    cluster.connection("n1").expect(201, &Request::put(b"victim", "whole"));
    let load = Load::start(&cluster);
    let start = now();
    // These say half of what they announced, and stay.
    let waiting: Vec<TcpStream> = cluster.addresses().iter().flat_map(|address| half_requests(address)).collect();
    std::thread::scope(|scope| {
        for name in cluster.running() {
            let node = cluster.node(&name);
            scope.spawn(|| {
                for (bytes, status) in bad_requests() {
                    assert_answered(&node.connection(), &bytes, status);
                }
                garbage_to_peers(&node.peer_address);
            });
        }
    });
    let silence = load.longest_silence(start, now());
    tell(format_args!("longest silence under bad input: {silence:?}"));
    assert!(silence < Duration::from_secs(1), "others were disturbed for {silence:?}");
    drop(waiting);
    for name in cluster.running() {
        assert_eq!(cluster.connection(&name).expect(200, &Request::get(b"victim")).body, b"whole");
    }
    let tally = load.finish(&cluster);
    assert_eq!((tally.refused, tally.unknown), (0, 0), "others were disturbed");
}

#[track_caller]
fn assert_answered(connection: &Connection, bytes: &[u8], status: u16) {
    let excerpt = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
    match connection.send_bytes(bytes) {
        Ok(answer) => assert_eq!(answer.status, status, "to {excerpt:?}: {}", answer.text()),
        Err(error) => panic!("to {excerpt:?}: {error}"),
    }
}

/// What is sent, and the status of the answer.
fn bad_requests() -> Vec<(Vec<u8>, u16)> {
    let with = |head: &str, body: &[u8]| [head.as_bytes(), body].concat();
    let long_path = format!("GET /v1/kv/default/{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "x".repeat(60_000));
    let many_headers = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x-a: b\r\n".repeat(40_000));
    let oversized =
        with("PUT /v1/kv/default/victim HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2000000\r\n\r\n", &vec![b'o'; 1_900_000]);
    let chunks = with("10000\r\n", &vec![b'c'; 0x10000]);
    let endless = with(
        "PUT /v1/kv/default/victim HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",
        &[chunks.as_slice(), b"\r\n"].concat().repeat(26),
    );
    vec![
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS handshake\r\n\r\n".to_vec(), 400),
        (b"EXPLODE\r\n\r\n".to_vec(), 400),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400),
        (b"GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n".to_vec(), 403),
        (long_path.into_bytes(), 414),
        (many_headers.into_bytes(), 431),
        (oversized, 413),
        (endless, 413),
        (
            b"PUT /v1/kv/default/victim HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n".to_vec(),
            400,
        ),
        (b"PUT /v1/kv/default/%zz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx".to_vec(), 400),
        (b"DELETE /v1/kv/default HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), 400),
        (b"PUT /v1/kv/_system/cluster HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx".to_vec(), 403),
        (b"GET /v1/kv/default?cursor=forged HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), 400),
    ]
}

/// Connections on which a request begins and does not go on.
fn half_requests(address: &str) -> Vec<TcpStream> {
    let halves: [&[u8]; 3] = [
        b"",
        b"PUT /v1/kv/default/victim HT",
        b"PUT /v1/kv/default/victim HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nhalf",
    ];
    let mut streams = Vec::new();
    for half in halves.into_iter().cycle().take(30) {
        let mut stream = TcpStream::connect(address).expect("the node takes connections");
        stream.write_all(half).expect("the node reads");
        streams.push(stream);
    }
    streams
}

fn garbage_to_peers(address: &str) {
    let pieces: [&[u8]; 4] = [b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", &[0xff; 4096], &[0; 64], b""];
    for piece in pieces {
        let mut stream = TcpStream::connect(address).expect("the node takes connections");
        // It may close before it has read everything.
        let _ = stream.write_all(piece);
    }
}
