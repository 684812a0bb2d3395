//! Connections: bodies in pieces, slow and vanishing clients, limits, shutdown.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::server::{Reply, Server};

const PUT: &str = "PUT /v1/kv/default/k HTTP/1.1\r\nHost: localhost\r\n";

/// Far below any default limit: what ends within it was ended by the limit that the test set.
const SOON: Duration = Duration::from_secs(4);

fn is_soon(begin: Instant) -> bool {
    begin.elapsed() < SOON
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    assert_eq!(connection.send("PUT", "/v1/kv/default/k", &[], b"v").await.status, 201);
    assert_eq!(connection.send("GET", "/v1/kv/default/", &[], b"").await.status, 400);
    assert_eq!(connection.send("PUT", "/v1/kv/default/k?x", &[], b"refused").await.status, 400);
    assert_eq!(connection.send("GET", "/v1/kv/default/k", &[], b"").await.text(), "v");
    connection
        .write(b"GET /v1/kv/default/k HTTP/1.1\r\nHost: localhost\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await;
    assert_eq!((connection.reply().await.text(), connection.reply().await.text()), ("v".to_owned(), "ok\n".to_owned()));
}

#[tokio::test]
async fn bodies_come_in_pieces() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    connection.write(format!("{PUT}Content-Length: 6\r\n\r\nab").as_bytes()).await;
    sleep(Duration::from_millis(20)).await;
    connection.write(b"cdef").await;
    assert_eq!(connection.reply().await.status, 201);
    connection.write(format!("{PUT}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").as_bytes()).await;
    sleep(Duration::from_millis(20)).await;
    connection.write(b"2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n").await;
    assert_eq!(connection.reply().await.status, 204);
    assert_eq!(connection.send("GET", "/v1/kv/default/k", &[], b"").await.text(), "abcde");
    connection.write(format!("{PUT}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").as_bytes()).await;
    assert_eq!(connection.reply().await.status, 204);
    assert_eq!(connection.send("GET", "/v1/kv/default/k", &[], b"").await.header("content-length"), "0");
    let large: Vec<u8> = (0..3 << 19).map(|index: u32| index as u8).collect();
    assert_eq!(connection.send("PUT", "/v1/kv/default/k", &[], &large).await.status, 204);
    assert!(connection.send("GET", "/v1/kv/default/k", &[], b"").await.body == large);
}

#[tokio::test]
async fn chunks_are_counted_while_they_come() {
    let server = Server::start_with(|config| config.max_value_bytes = 1000).await;
    for chunks in [1_usize, 3, 40] {
        let mut connection = server.connect().await;
        let chunk = format!("{:x}\r\n{}\r\n", 5000, "x".repeat(5000));
        connection.write(format!("{PUT}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(chunks)).as_bytes()).await;
        assert_eq!(connection.reply().await.refusal(), (413, "value_too_large".to_owned()), "{chunks} chunks");
        // What was left of the body was dropped, so the connection goes on.
        assert_eq!(connection.send("GET", "/livez", &[], b"").await.status, 200, "{chunks} chunks");
    }
    assert_eq!(server.store.calls(), [""; 0]);
}

#[tokio::test]
async fn a_client_that_waits_for_permission_gets_it_or_the_refusal() {
    let server = Server::start_with(|config| config.max_value_bytes = 1000).await;
    let mut connection = server.connect().await;
    connection.write(format!("{PUT}Content-Length: 3\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await;
    assert_eq!(connection.reply().await.status, 100);
    connection.write(b"abc").await;
    assert_eq!(connection.reply().await.status, 201);

    let begin = Instant::now();
    connection.write(format!("{PUT}Content-Length: 3000000\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await;
    assert_eq!(connection.reply().await.refusal(), (413, "value_too_large".to_owned()));
    assert!(begin.elapsed() < Duration::from_millis(900), "a body that does not come is not waited for");
    assert!(connection.is_ended().await);
}

#[tokio::test]
async fn a_refused_body_is_dropped_so_that_the_answer_arrives() {
    let server = Server::start_with(|config| config.max_value_bytes = 1000).await;
    let mut connection = server.connect().await;
    let body = vec![0; 3 << 20];
    assert_eq!(connection.send("PUT", "/v1/kv/default/k", &[], &body).await.status, 413);
    assert_eq!(connection.send("PUT", "/v1/kv/_system/k", &[], &body).await.status, 403);
    assert_eq!(connection.send("POST", "/v1/cluster/nodes", &[], &body).await.status, 413);
    assert_eq!(connection.send("GET", "/livez", &[], b"").await.status, 200);
    // A body that is announced and does not come is waited for only so long.
    connection.write(format!("{PUT}Content-Length: 2000\r\n\r\n").as_bytes()).await;
    assert_eq!(connection.reply().await.status, 413);
    assert!(connection.is_ended().await);
}

#[tokio::test]
async fn half_and_malformed_requests_disturb_nobody() {
    let server = Server::start().await;
    let mut other = server.connect().await;
    let broken = [
        format!("{PUT}Content-Length: 10\r\n\r\nabc"),
        format!("{PUT}Transfer-Encoding: chunked\r\n\r\n5\r\nab"),
        format!("{PUT}Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n"),
        format!("{PUT}Content-Length: ten\r\n\r\n"),
        format!("{PUT}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        "PUT /v1/kv/default/k".to_owned(),
        "\r\n\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}".to_owned(),
        "GET /v1/kv/default/a b HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "PUT /v1/kv/default/k HTTP/3.0\r\nHost: localhost\r\n\r\n".to_owned(),
        format!("{PUT}No-Colon\r\n\r\n"),
        format!("{PUT}{}\r\n", "H: v\r\n".repeat(200)),
        format!("{PUT}H: {}\r\n\r\n", "v".repeat(200_000)),
        format!("GET /v1/kv/default/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(70_000)),
    ];
    for request in broken {
        let mut connection = server.connect().await;
        connection.write(request.as_bytes()).await;
        connection.close_write().await;
        let begin = Instant::now();
        let name: String = request.chars().take(100).collect();
        if connection.is_ended().await {
            assert!(is_soon(begin), "{name}");
        } else {
            let reply = connection.reply().await;
            assert!(matches!(reply.status, 400 | 414 | 431), "{reply:?} for {name}");
            assert_eq!(reply.header("content-type"), "application/problem+json", "{name}");
        }
        assert_eq!(other.send("GET", "/livez", &[], b"").await.status, 200, "{name}");
    }
    assert_eq!((server.store.revision("default"), server.store.calls().len()), (1, 0));
}

#[tokio::test]
async fn long_targets_and_heads_have_their_own_answers() {
    let server = Server::start().await;
    let target = format!("/v1/kv/default/{}", "x".repeat(70_000));
    let bare = |reply: &Reply| {
        assert_eq!((reply.header("connection"), reply.header("quorate-node")), ("close", "n1"));
        (reply.status, reply.json()["code"].as_str().unwrap().to_owned(), reply.json()["status"].as_u64().unwrap())
    };
    assert_eq!(bare(&server.get(&target).await), (414, "target_too_long".to_owned(), 414));
    let long_header = server.send("GET", "/livez", &[("H", &"v".repeat(140_000))], b"").await;
    assert_eq!(bare(&long_header), (431, "head_too_large".to_owned(), 431));
    let mut connection = server.connect().await;
    assert_eq!(connection.send("PUT", "/v1/kv/default/k", &[], b"HTTP/1.1 400 x").await.status, 201);
    assert_eq!(connection.send("GET", "/v1/kv/default/k", &[], b"").await.text(), "HTTP/1.1 400 x", "no refusal, a value");
    connection.write(b"nonsense\r\n\r\n").await;
    assert_eq!(bare(&connection.reply().await), (400, "malformed_request".to_owned(), 400));
    assert!(connection.is_ended().await);
    let almost = format!("/v1/kv/default/{}", "%41".repeat(4096));
    assert_eq!(server.get(&almost).await.status, 404);
}

#[tokio::test]
async fn long_heads_share_a_bounded_memory() {
    let server = Server::start_with(|config| config.max_head_memory_bytes = 100_000).await;
    let half_head = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}", "y".repeat(60_000));
    let mut halves = Vec::new();
    for _ in 0..4 {
        let mut connection = server.connect().await;
        connection.write(half_head.as_bytes()).await;
        // Two of them fit: each beyond its first 16 KiB.
        if halves.len() == 2 {
            assert!(connection.is_ended().await, "the memory is full");
        } else {
            sleep(Duration::from_millis(100)).await;
            halves.push(connection);
        }
    }
    assert_eq!(server.get("/livez").await.status, 200, "short heads are served");
    for mut connection in halves {
        connection.write(b"\r\n\r\n").await;
        assert_eq!(connection.reply().await.status, 200, "those that fit were kept");
    }
    assert_eq!(server.send("GET", "/livez", &[("X", &"y".repeat(90_000))], b"").await.status, 200, "there is room again");
}

#[tokio::test]
async fn slow_heads_are_cut_off() {
    let server = Server::start_with(|config| config.header_timeout = Duration::from_millis(200)).await;
    let begin = Instant::now();
    let (mut silent, mut half) = (server.connect().await, server.connect().await);
    half.write(b"GET /livez HTTP/1.1\r\nHo").await;
    assert!(silent.is_ended().await && half.is_ended().await);
    assert!(begin.elapsed() >= Duration::from_millis(190) && is_soon(begin));
}

#[tokio::test]
async fn idle_connections_outlive_slow_heads_and_end_too() {
    let server = Server::start_with(|config| {
        config.header_timeout = Duration::from_millis(100);
        config.idle_timeout = Duration::from_millis(600);
    })
    .await;
    let mut connection = server.connect().await;
    assert_eq!(connection.send("GET", "/livez", &[], b"").await.status, 200);
    sleep(Duration::from_millis(350)).await;
    assert_eq!(connection.send("GET", "/livez", &[], b"").await.status, 200, "idle, not slow");
    let begin = Instant::now();
    assert!(connection.is_ended().await);
    assert!(begin.elapsed() >= Duration::from_millis(500) && is_soon(begin));
}

#[tokio::test]
async fn bodies_that_stop_are_cut_off() {
    let server = Server::start_with(|config| config.body_progress_timeout = Duration::from_millis(200)).await;
    let mut connection = server.connect().await;
    let begin = Instant::now();
    connection.write(format!("{PUT}Content-Length: 10\r\n\r\nabc").as_bytes()).await;
    let reply = connection.reply().await;
    assert_eq!((reply.refusal(), reply.header("connection")), ((408, "body_timeout".to_owned()), "close"));
    assert!(connection.is_ended().await && is_soon(begin));
    assert_eq!(server.store.calls(), [""; 0]);
}

#[tokio::test]
async fn bodies_that_drip_are_cut_off() {
    let server = Server::start_with(|config| config.body_timeout = Duration::from_millis(500)).await;
    let mut connection = server.connect().await;
    let begin = Instant::now();
    connection.write(format!("{PUT}Content-Length: 1000\r\n\r\n").as_bytes()).await;
    for _ in 0..3 {
        connection.write(b"x").await;
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(connection.reply().await.status, 408);
    assert!(connection.is_ended().await && is_soon(begin));
    assert_eq!(server.store.calls(), [""; 0]);
}

#[tokio::test]
async fn large_bodies_share_a_bounded_memory() {
    let server = Server::start_with(|config| config.max_body_memory_bytes = 1 << 20).await;
    let mut slow = server.connect().await;
    slow.write(format!("{PUT}Content-Length: 1000000\r\n\r\nx").as_bytes()).await;
    sleep(Duration::from_millis(100)).await;
    let body = vec![1; 200_000];
    assert_eq!(server.put("/v1/kv/default/a", &body).await.status, 201, "what was only announced keeps nobody out");
    slow.write(&vec![b'x'; 899_999]).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(server.put("/v1/kv/default/b", &body).await.refusal(), (503, "overloaded".to_owned()));
    assert_eq!(server.put("/v1/kv/default/c", b"small").await.status, 201);
    slow.write(&vec![b'x'; 100_000]).await;
    assert_eq!(slow.reply().await.status, 201);
    assert_eq!(server.put("/v1/kv/default/b", &body).await.status, 201);
}

#[tokio::test]
async fn large_answers_share_a_bounded_memory() {
    let server = Server::start_with(|config| config.max_answer_memory_bytes = 16 << 20).await;
    let binary = vec![0xff; 3 << 19];
    for number in 0..5 {
        assert_eq!(server.put(&format!("/v1/kv/default/{number}"), &binary).await.status, 201);
    }
    // Ten MiB as base64: more than the sockets between take from the server if nobody reads.
    let list = "/v1/kv/default?values=true";
    let mut unread = server.connect().await;
    unread.write(format!("GET {list} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
    let begin = Instant::now();
    while server.get(list).await.status != 503 {
        assert!(begin.elapsed() < Duration::from_mins(1), "the first list holds its memory");
    }
    assert_eq!(server.get(list).await.refusal(), (503, "overloaded".to_owned()));
    assert_eq!(server.get("/v1/kv/default?limit=10").await.status, 200, "keys alone are little");
    drop(unread);
    while server.get(list).await.status != 200 {
        assert!(begin.elapsed() < Duration::from_mins(1), "the memory is given back");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let server = Server::start_with(|config| config.max_connections = 2).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    assert_eq!(first.send("GET", "/livez", &[], b"").await.status, 200);
    assert_eq!(second.send("GET", "/livez", &[], b"").await.status, 200);
    assert!(server.connect().await.is_ended().await);
    drop(first);
    let begin = Instant::now();
    while !server.connect().await.is_served().await {
        assert!(is_soon(begin), "a slot is free again");
        sleep(Duration::from_millis(10)).await;
    }
    let metrics = second.send("GET", "/metrics", &[], b"").await.text();
    assert!(!metrics.contains("quorate_rest_connections_refused_total 0\n"), "{metrics}");
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let mut server = Server::start().await;
    server.store.stall(Duration::from_millis(300));
    let (mut idle, mut busy) = (server.connect().await, server.connect().await);
    assert_eq!(idle.send("GET", "/livez", &[], b"").await.status, 200);
    busy.write(format!("{PUT}Content-Length: 1\r\n\r\nv").as_bytes()).await;
    sleep(Duration::from_millis(100)).await;
    server.shut_down().await;
    assert_eq!(busy.reply().await.status, 201);
    assert!(busy.is_ended().await && idle.is_ended().await);
    assert_eq!(server.store.revision("default"), 2);
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let mut server = Server::start_with(|config| config.shutdown_timeout = Duration::from_millis(200)).await;
    server.store.stall(Duration::from_mins(1));
    let mut busy = server.connect().await;
    busy.write(format!("{PUT}Content-Length: 1\r\n\r\nv").as_bytes()).await;
    sleep(Duration::from_millis(50)).await;
    let begin = Instant::now();
    server.shut_down().await;
    assert!(begin.elapsed() >= Duration::from_millis(190) && is_soon(begin));
    assert!(busy.is_ended().await);
}
