//! Web pages get nowhere.

use crate::server::{Headers, Server};

#[tokio::test]
async fn only_hosts_of_this_node_are_served() {
    let server = Server::start_with(|config| config.allowed_hosts = vec!["quorate.example:2379".to_owned()]).await;
    let own = server.address.to_string();
    for host in [own.as_str(), "localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:2379", "quorate.example"] {
        assert_eq!(server.send("GET", "/livez", &[("Host", host)], b"").await.status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "10.0.0.1", ""] {
        for target in ["/livez", "/v1/kv/default/k", "/nothing"] {
            let reply = server.send("GET", target, &[("Host", host)], b"").await;
            assert_eq!(reply.refusal(), (403, "host_not_allowed".to_owned()), "{host} {target}");
        }
        let compat = server.send("GET", "/key/k", &[("Host", host)], b"").await;
        assert!(compat.status == 403 && compat.json()["message"].is_string(), "{host}");
    }
    // The target's own authority goes before the header.
    assert_eq!(server.send("GET", "http://evil.example/livez", &[], b"").await.status, 403);
    assert_eq!(server.send("GET", "http://localhost/livez", &[("Host", "evil.example")], b"").await.status, 200);
}

#[tokio::test]
async fn the_host_must_be_told_once() {
    let server = Server::start().await;
    let cases = [
        ("GET /livez HTTP/1.1\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /livez HTTP/1.0\r\n\r\n", 200),
    ];
    for (request, status) in cases {
        let mut connection = server.connect().await;
        connection.write(request.as_bytes()).await;
        assert_eq!(connection.reply().await.status, status, "{request}");
    }
}

#[tokio::test]
async fn other_sites_change_nothing() {
    let server = Server::start().await;
    let own = server.address.to_string();
    let own_origin = format!("http://{own}");
    let cases: [(Headers<'_>, bool); 8] = [
        (&[("Sec-Fetch-Site", "cross-site")], false),
        (&[("Sec-Fetch-Site", "same-origin")], true),
        (&[("Sec-Fetch-Site", "none")], true),
        (&[("Origin", "http://evil.example")], false),
        (&[("Origin", "null")], false),
        (&[("Origin", "http://localhost:3000"), ("Host", "localhost:2379")], false),
        (&[("Origin", &own_origin), ("Host", &own)], true),
        (&[("Origin", "https://LOCALHOST"), ("Host", "localhost")], true),
    ];
    for (headers, is_allowed) in cases {
        for (method, target) in [("PUT", "/v1/kv/default/k"), ("DELETE", "/v1/kv/default/k")] {
            let reply = server.send(method, target, headers, b"").await;
            assert_eq!(reply.status < 300, is_allowed, "{method} {headers:?}");
            assert!(is_allowed || reply.refusal() == (403, "cross_site".to_owned()), "{method} {headers:?}");
        }
        let posted = server.send("POST", "/key", headers, br#"{"x": "1"}"#).await;
        assert_eq!(posted.status == 403, !is_allowed, "{headers:?}");
        assert_eq!(server.send("GET", "/livez", headers, b"").await.status, 200, "reads are kept apart by the browser");
    }
}
