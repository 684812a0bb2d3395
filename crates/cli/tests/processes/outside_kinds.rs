//! Keyspaces on each kind of store outside, with real stores, through three nodes: what is read, written and listed, what is
//! refused, and what is told when the store turns us away, has no such bucket, is gone, or hangs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::outside::{LIMIT, NODES, cluster_with, create, keys, on, paged, problem, put, undisturbed, use_from_all_nodes};
use crate::support::{Cluster, Connection, HUSH, Request, TestStore, tell, until};

/// A cluster, and one keyspace on one store.
struct Trial<'a> {
    cluster: &'a Cluster,
    store: TestStore,
    keyspace: String,
    /// The file with its credentials.
    credentials: &'a Path,
    /// What it can do, by its own word.
    lists: bool,
    compares: bool,
    expires: bool,
}

#[test]
fn stores_of_every_kind_are_shared_and_their_troubles_are_told() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let cluster = cluster_with(folder.path());
    for (number, store) in TestStore::all(folder.path()).into_iter().enumerate() {
        tell(format_args!("--- {} {}", store.kind, store.settings));
        let credentials = folder.path().join(format!("credentials-{number}.json"));
        let mut trial = Trial::begin(&cluster, store, format!("on-{number}"), &credentials);
        trial.use_it();
        trial.miss_a_container();
        trial.is_read_by_http();
        trial.lose_it();
        trial.see_it_hang();
        trial.is_counted();
        trial.end();
    }
}

impl<'a> Trial<'a> {
    /// Makes the keyspace, with wrong credentials first, if there are any.
    fn begin(cluster: &'a Cluster, store: TestStore, keyspace: String, credentials: &'a Path) -> Self {
        let write = |which: usize| {
            if let Some(both) = &store.credentials {
                fs::write(credentials, both[which].to_string()).expect("a file can be written");
            }
        };
        write(1);
        store.set_guarded(true);
        create(cluster, &keyspace, &store.engine(&store.settings, credentials));
        let mut nodes = NODES.map(|name| cluster.connection(name));
        if store.credentials.is_some() {
            for request in [on("GET", &keyspace, "a"), put(&keyspace, "a", "1"), on("DELETE", &keyspace, "a")] {
                let (code, outcome, detail) = problem(&mut nodes[0], 502, &request);
                assert_eq!(code, "store_denied", "{detail}");
                assert!(outcome.is_null() || outcome == "not_applied", "{outcome}");
                assert!(detail.contains(store.kind) && !detail.contains(HUSH), "{detail}");
            }
            let stats: Value = nodes[0].expect(200, &Request::new("GET", format!("/v1/keyspaces/{keyspace}/stats"))).json();
            assert!(stats["outside"]["is_reachable"] == false && !stats.to_string().contains(HUSH), "{stats}");
        }
        store.set_guarded(false);
        write(0);
        for node in &mut nodes {
            until("the credentials are read anew", LIMIT, || match node.send(&on("GET", &keyspace, "a")) {
                Ok(answer) if answer.status == 404 => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        let told: Value = nodes[0].expect(200, &Request::new("GET", format!("/v1/keyspaces/{keyspace}"))).json();
        let can = |name: &str| told["capabilities"][name] == true;
        let (lists, compares, expires) = (can("prefix"), can("cas"), can("ttl_per_key"));
        Self { cluster, store, keyspace, credentials, lists, compares, expires }
    }

    fn nodes(&self) -> [Connection; 3] {
        NODES.map(|name| self.cluster.connection(name))
    }

    fn list(&self) -> Request {
        Request::new("GET", format!("/v1/kv/{}", self.keyspace))
    }

    fn use_it(&self) {
        let keyspace = &self.keyspace;
        if self.lists && self.compares {
            use_from_all_nodes(self.cluster, keyspace);
        } else {
            self.use_plainly();
        }
        let mut nodes = self.nodes();
        let short = put(keyspace, "short", "v").with_query("ttl=1ms");
        if !self.expires {
            assert_eq!(problem(&mut nodes[0], 422, &short).0, "unsupported_capability");
            return;
        }
        nodes[0].expect(204, &put(keyspace, "short", "v").with_query("ttl=1h"));
        assert!(nodes[1].expect(200, &on("GET", keyspace, "short")).header("quorate-ttl").is_some());
        nodes[1].expect(204, &short);
        until("it is over", LIMIT, || match nodes[2].send(&on("GET", keyspace, "short")) {
            Ok(answer) if answer.status == 404 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        nodes[2].expect(204, &on("DELETE", keyspace, "short"));
    }

    /// What is there without lists, or without conditions; what is not is refused, and never done in another way.
    fn use_plainly(&self) {
        let keyspace = &self.keyspace;
        let mut nodes = self.nodes();
        for (number, key) in ["a", "list/1/x", "list/1/y", "list/2/x"].into_iter().enumerate() {
            nodes[number % 3].expect(204, &put(keyspace, key, key));
            for node in &mut nodes {
                assert_eq!(node.expect(200, &on("GET", keyspace, key)).text(), key);
            }
        }
        nodes[1].expect(204, &put(keyspace, "a", "2"));
        assert_eq!(nodes[2].expect(200, &on("GET", keyspace, "a")).text(), "2");
        self.compare(&mut nodes);
        for node in &mut nodes {
            if self.lists {
                assert_eq!(keys(node, keyspace, "prefix=list/"), ["list/1/x", "list/1/y", "list/2/x"]);
                assert_eq!(paged(node, keyspace, "limit=1&values=true"), ["a", "list/1/x", "list/1/y", "list/2/x"]);
            } else {
                assert_eq!(problem(node, 422, &self.list()).0, "unsupported_capability");
                assert_eq!(problem(node, 422, &self.list().with_query("prefix=list/")).0, "unsupported_capability");
            }
        }
        assert_eq!(nodes[1].expect(204, &on("DELETE", keyspace, "list/1/y")).header("quorate-deleted"), Some("1"));
        nodes[2].expect(404, &on("GET", keyspace, "list/1/y"));
        assert_eq!(nodes[0].expect(204, &on("DELETE", keyspace, "list/1/y")).header("quorate-deleted"), Some("0"));
    }

    fn compare(&self, nodes: &mut [Connection; 3]) {
        let keyspace = &self.keyspace;
        let seen = nodes[0].expect(200, &on("GET", keyspace, "a"));
        let tag = seen.header("etag").expect("a tag").to_owned();
        let if_same = |tag: &str| put(keyspace, "a", "3").with_header("if-match", tag);
        let if_new = put(keyspace, "a", "3").with_header("if-none-match", "*");
        if self.compares {
            nodes[1].expect(204, &if_same(&tag));
            nodes[2].expect(412, &if_same(&tag));
            nodes[2].expect(412, &if_new);
            assert_eq!(nodes[0].expect(200, &on("GET", keyspace, "a")).text(), "3");
            return;
        }
        for request in [if_same(&tag), if_new, on("DELETE", keyspace, "a").with_header("if-match", tag.clone())] {
            let (code, outcome, detail) = problem(&mut nodes[1], 422, &request);
            assert_eq!((code.as_str(), outcome), ("unsupported_capability", json!("not_applied")), "{detail}");
            assert!(detail.contains("cas"), "{detail}");
        }
        assert_eq!(nodes[0].expect(200, &on("GET", keyspace, "a")).text(), "2");
        // A read is none of the store's conditions.
        nodes[0].expect(304, &on("GET", keyspace, "a").with_header("if-none-match", tag));
    }

    /// No such bucket, folder or database.
    fn miss_a_container(&self) {
        let Some((settings, told)) = &self.store.missing else { return };
        let keyspace = format!("{}-missing", self.keyspace);
        create(self.cluster, &keyspace, &self.store.engine(settings, self.credentials));
        let mut node = self.cluster.connection("n2");
        for request in [put(&keyspace, "a", "1"), on("GET", &keyspace, "a"), Request::new("GET", format!("/v1/kv/{keyspace}"))] {
            let (code, outcome, detail) = problem(&mut node, 502, &request);
            assert_eq!(code, "store_missing", "{detail}");
            assert!(outcome.is_null() || outcome == "not_applied", "{outcome}");
            assert!(detail.contains(self.store.kind) && detail.contains(told), "{detail}");
            assert!(detail.contains("make it"), "no way out: {detail}");
        }
        node.expect(204, &Request::new("DELETE", format!("/v1/keyspaces/{keyspace}")));
    }

    /// What is behind a web server can be read by who may not write there.
    fn is_read_by_http(&self) {
        if self.store.kind != "service" {
            return;
        }
        let keyspace = format!("{}-read", self.keyspace);
        let mut engine = self.store.engine(&json!({"url": self.store.settings["url"]}), self.credentials);
        engine["type"] = json!("http");
        create(self.cluster, &keyspace, &engine);
        let mut nodes = self.nodes();
        nodes[0].expect(204, &put(&self.keyspace, "read", "by all"));
        for node in &mut nodes {
            assert_eq!(node.expect(200, &on("GET", &keyspace, "read")).text(), "by all");
            node.expect(404, &on("GET", &keyspace, "nothing"));
            for request in [put(&keyspace, "read", "x"), Request::new("GET", format!("/v1/kv/{keyspace}"))] {
                assert_eq!(problem(node, 422, &request).0, "unsupported_capability");
            }
        }
        assert_eq!(nodes[1].expect(200, &on("GET", &self.keyspace, "read")).text(), "by all");
        nodes[0].expect(204, &Request::new("DELETE", format!("/v1/keyspaces/{keyspace}")));
    }

    /// Nobody answers there for a while: that is told, and nobody else notices.
    fn lose_it(&mut self) {
        let keyspace = self.keyspace.clone();
        let mut nodes = self.nodes();
        nodes[0].expect(204, &put(&keyspace, "kept", "1"));
        for node in &mut nodes {
            assert_eq!(node.expect(200, &on("GET", &keyspace, "kept")).text(), "1");
        }
        self.store.kill();
        // A disk that is not there is somebody's to mount; a server may be back any time.
        let (status, expected) = if self.store.is_remote() { (503, "store_unreachable") } else { (502, "store_missing") };
        for node in &mut nodes {
            let (code, _, detail) = problem(node, status, &on("GET", &keyspace, "kept"));
            assert_eq!(code, expected, "{detail}");
            assert!(detail.contains(self.store.kind) && !detail.contains(HUSH), "{detail}");
            let (code, outcome, detail) = problem(node, status, &put(&keyspace, "kept", "2"));
            assert_eq!((code.as_str(), outcome), (expected, json!("not_applied")), "{detail}");
            if self.lists {
                assert_eq!(problem(node, status, &self.list()).0, expected);
            }
            if self.compares {
                let (code, outcome, _) = problem(node, status, &put(&keyspace, "kept", "2").with_header("if-none-match", "*"));
                assert_eq!((code.as_str(), outcome), (expected, json!("not_applied")));
            }
            undisturbed(node);
        }
        let stats: Value = nodes[1].expect(200, &Request::new("GET", format!("/v1/keyspaces/{keyspace}/stats"))).json();
        assert_eq!((&stats["outside"]["is_open"], &stats["outside"]["is_reachable"]), (&json!(true), &json!(false)), "{stats}");
        self.store.begin();
        for node in &mut nodes {
            until("it is found again", LIMIT, || match node.send(&on("GET", &keyspace, "kept")) {
                Ok(answer) if answer.status == 200 || answer.status == 404 && !self.store.keeps => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        nodes[2].expect(204, &put(&keyspace, "kept", "3"));
        assert_eq!(nodes[0].expect(200, &on("GET", &keyspace, "kept")).text(), "3");
    }

    /// It takes what is sent, and answers nothing: a read takes too long, and of a write nobody knows.
    fn see_it_hang(&mut self) {
        if !self.store.can_freeze() {
            return;
        }
        let keyspace = self.keyspace.clone();
        let mut nodes = self.nodes();
        self.store.freeze();
        for node in &mut nodes[..2] {
            let (code, _, detail) = problem(node, 504, &on("GET", &keyspace, "kept"));
            assert_eq!(code, "store_timed_out", "{detail}");
            let (code, outcome, detail) = problem(node, 504, &put(&keyspace, "hung", "1"));
            assert_eq!((code.as_str(), outcome), ("outcome_unknown", json!("unknown")), "{detail}");
            assert!(detail.contains(self.store.kind) && !detail.contains(HUSH), "{detail}");
            undisturbed(node);
        }
        self.store.thaw();
        for node in &mut nodes {
            until("it answers again", LIMIT, || match node.send(&on("GET", &keyspace, "kept")) {
                Ok(answer) if answer.status == 200 && answer.text() == "3" => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        nodes[0].expect(204, &put(&keyspace, "hung", "2"));
        assert_eq!(nodes[1].expect(200, &on("GET", &keyspace, "hung")).text(), "2");
    }

    /// What was asked of it, and how that ended.
    fn is_counted(&self) {
        let (keyspace, mut node) = (&self.keyspace, self.cluster.connection("n1"));
        let lost = if self.store.is_remote() { "store_unreachable" } else { "store_missing" };
        node.expect(204, &on("DELETE", keyspace, "kept"));
        let stats: Value = node.expect(200, &Request::new("GET", format!("/v1/keyspaces/{keyspace}/stats"))).json();
        let calls = |call: &str| {
            let calls = stats["outside"]["calls"].as_array().expect("calls").iter();
            calls.clone().find(|found| found["call"] == call).expect("one of each sort").clone()
        };
        for call in ["get", "put", "delete", "scan", "check"] {
            assert!(calls(call)["ended"].as_u64() > Some(0) && calls(call)["in_flight"] == 0, "{call}: {stats}");
        }
        assert!(calls("get")["total_us"].as_u64() > Some(0) && calls("get")["failed"][lost].as_u64() > Some(0), "{stats}");
        assert!(calls("put")["failed"][lost].as_u64() > Some(0), "{stats}");
        if self.store.can_freeze() {
            let (get, put) = (calls("get"), calls("put"));
            assert!(
                get["failed"]["store_timed_out"].as_u64() > Some(0) && put["failed"]["outcome_unknown"].as_u64() > Some(0),
                "{stats}"
            );
        }
        if self.store.credentials.is_some() {
            assert!(calls("get")["failed"]["store_denied"].as_u64() > Some(0), "{stats}");
        }
        let metrics = node.expect(200, &Request::new("GET", "/metrics")).text();
        let value = |line: String| metrics.lines().find_map(|found| found.strip_prefix(&line)).map(str::to_owned);
        let of_gets = format!("keyspace=\"{keyspace}\",call=\"get\"");
        let count = value(format!("quorate_store_call_seconds_count{{{of_gets}}} "));
        assert!(count.is_some() && count == value(format!("quorate_store_call_seconds_bucket{{{of_gets},le=\"+Inf\"}} ")));
        assert_eq!(count, Some(calls("get")["ended"].to_string()));
        let failed = value(format!("quorate_store_failed_calls_total{{{of_gets},code=\"{lost}\"}} "));
        assert_eq!(failed, Some(calls("get")["failed"][lost].to_string()));
        assert_eq!(value(format!("quorate_store_is_open{{keyspace=\"{keyspace}\"}} ")).as_deref(), Some("1"));
        let told = String::from_utf8(self.cluster.must_call("n1", &["keyspace", "stats", keyspace])).expect("text");
        assert!(told.contains("get: ") && told.contains(&format!("{lost} ")), "{told}");
    }

    fn end(self) {
        let mut node = self.cluster.connection("n3");
        node.expect(204, &Request::new("DELETE", format!("/v1/keyspaces/{}", self.keyspace)));
    }
}
