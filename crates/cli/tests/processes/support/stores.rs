//! Stores outside, one of each kind that tests can have a real one of: with what a keyspace's settings need, and ways to take it
//! away and bring it back.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use quorate_test_servers::{AZURITE_KEY, ItemMap, Items, Server, azurite, free_ports, moto, moto_asks_who, postgres, webdav};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// No secret of these tests is told to anybody; each has this in it.
pub(crate) const HUSH: &str = "open-sesame";

/// A store that runs.
pub(crate) struct TestStore {
    /// Its kind, in settings.
    pub(crate) kind: &'static str,
    /// What its settings say beside kind, path and credentials.
    pub(crate) settings: Value,
    /// Settings of it that name a bucket, folder or database that is not there, and what an error tells of it.
    pub(crate) missing: Option<(Value, &'static str)>,
    /// Credentials that let in, and others.
    pub(crate) credentials: Option<[Value; 2]>,
    /// Keeps all that it has when it is killed.
    pub(crate) keeps: bool,
    running: Running,
}

enum Running {
    Server(Server),
    Moto(Server),
    Service(Service),
    File(PathBuf),
}

/// The HTTP service, in this process.
struct Service {
    runtime: Runtime,
    items: Arc<Mutex<ItemMap>>,
    port: u16,
    serving: Option<Items>,
    /// Nobody accepts what comes here.
    frozen: Option<TcpListener>,
}

impl TestStore {
    /// Of each kind; those whose server is not installed are left out, which is printed.
    pub(crate) fn all(folder: &Path) -> Vec<Self> {
        let by_server = [Self::s3(), Self::azblob(), Self::postgres(), Self::webdav()];
        let mut all: Vec<Self> = by_server.into_iter().flatten().collect();
        all.extend([Self::sqlite(folder), Self::service(&json!({})), Self::service(&json!({"conditions": "etag"}))]);
        all
    }

    fn s3() -> Option<Self> {
        let server = moto()?;
        let endpoint = format!("http://127.0.0.1:{}", server.port);
        let id = |id: &str| json!({"access_key_id": id, "secret_access_key": format!("{HUSH}-{id}")});
        Some(Self {
            kind: "s3",
            settings: json!({"url": "s3://bucket/pairs", "endpoint": endpoint}),
            missing: Some((json!({"url": "s3://nowhere", "endpoint": endpoint}), "nowhere")),
            credentials: Some([id("own"), id("stranger")]),
            keeps: false,
            running: Running::Moto(server),
        })
    }

    fn azblob() -> Option<Self> {
        let server = azurite()?;
        let endpoint = format!("http://127.0.0.1:{}/devstoreaccount1", server.port);
        let of = |url: &str| json!({"url": url, "endpoint": endpoint, "account": "devstoreaccount1"});
        Some(Self {
            kind: "azblob",
            settings: of("azblob://container/pairs"),
            missing: Some((of("azblob://nowhere"), "nowhere")),
            // The latter says the words, as keys do, in base 64.
            credentials: Some([json!({"account_key": AZURITE_KEY}), json!({"account_key": "b3Blbi1zZXNhbWU="})]),
            keeps: false,
            running: Running::Server(server),
        })
    }

    fn postgres() -> Option<Self> {
        let server = postgres(HUSH)?;
        let url = |database: &str| json!({"url": format!("postgres://127.0.0.1:{}/{database}", server.port)});
        Some(Self {
            kind: "postgres",
            settings: url("postgres"),
            missing: Some((url("nowhere"), "nowhere")),
            credentials: Some(passwords("quorate")),
            keeps: true,
            running: Running::Server(server),
        })
    }

    fn webdav() -> Option<Self> {
        let server = webdav("user", HUSH)?;
        fs::create_dir(server.folder.path().join("files/pairs")).expect("a folder can be made");
        let url = |folder: &str| json!({"url": format!("http://127.0.0.1:{}/{folder}", server.port)});
        Some(Self {
            kind: "webdav",
            settings: url("pairs"),
            missing: Some((url("nowhere"), "nowhere")),
            credentials: Some(passwords("user")),
            keeps: true,
            running: Running::Server(server),
        })
    }

    fn sqlite(folder: &Path) -> Self {
        let (disk, missing) = (folder.join("sqlite"), folder.join("nowhere/pairs.sqlite"));
        fs::create_dir(&disk).expect("a folder can be made");
        Self {
            kind: "sqlite",
            settings: json!({"file": disk.join("pairs.sqlite")}),
            missing: Some((json!({"file": missing}), "nowhere")),
            credentials: None,
            keeps: true,
            running: Running::File(disk),
        }
    }

    fn service(more: &Value) -> Self {
        // The header of `user` with the right password.
        let items = ItemMap::guarded("Basic dXNlcjpvcGVuLXNlc2FtZQ==");
        let runtime = Runtime::new().expect("a runtime can be made");
        let (items, port) = (Arc::new(Mutex::new(items)), free_ports(1)[0]);
        let mut settings = json!({"url": format!("http://127.0.0.1:{port}/items/{{key}}")});
        settings.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let mut service = Service { runtime, items, port, serving: None, frozen: None };
        service.begin();
        Self {
            kind: "service",
            settings,
            missing: None,
            credentials: Some(passwords("user")),
            keeps: true,
            running: Running::Service(service),
        }
    }

    /// The object `engine` of a keyspace on it, with credentials in this file.
    pub(crate) fn engine(&self, settings: &Value, file: &Path) -> Value {
        let mut engine = settings.clone();
        engine["type"] = json!(self.kind);
        engine["path"] = json!("shared");
        engine["timeout"] = json!("1s");
        if self.credentials.is_some() {
            engine["credentials"] = json!({"file": file});
        }
        engine
    }

    /// Whether those with the second credentials are turned away.
    pub(crate) fn set_guarded(&self, is_guarded: bool) {
        if let Running::Moto(server) = &self.running {
            moto_asks_who(server, is_guarded);
        }
    }

    /// Nobody answers there any more.
    pub(crate) fn kill(&mut self) {
        match &mut self.running {
            Running::Server(server) | Running::Moto(server) => server.kill(),
            Running::Service(service) => service.end(),
            Running::File(disk) => fs::rename(&*disk, disk.with_extension("away")).expect("a folder can be moved"),
        }
    }

    /// The opposite.
    pub(crate) fn begin(&mut self) {
        match &mut self.running {
            Running::Server(server) | Running::Moto(server) => server.begin(),
            Running::Service(service) => service.begin(),
            Running::File(disk) => fs::rename(disk.with_extension("away"), &*disk).expect("a folder can be moved"),
        }
    }

    /// Whether it can hang.
    pub(crate) fn can_freeze(&self) -> bool {
        !matches!(self.running, Running::File(_))
    }

    /// Whether it is somewhere on a network, and so may not be reached; or a disk that may not be there.
    pub(crate) fn is_remote(&self) -> bool {
        self.can_freeze()
    }

    /// Takes connections, and answers nothing.
    pub(crate) fn freeze(&mut self) {
        match &mut self.running {
            Running::Server(server) | Running::Moto(server) => server.freeze(),
            Running::Service(service) => {
                service.end();
                service.frozen = Some(TcpListener::bind((Ipv4Addr::LOCALHOST, service.port)).expect("the port is free again"));
            }
            Running::File(_) => panic!("files do not hang"),
        }
    }

    /// The opposite.
    pub(crate) fn thaw(&mut self) {
        match &mut self.running {
            Running::Server(server) | Running::Moto(server) => server.thaw(),
            Running::Service(service) => service.begin(),
            Running::File(_) => panic!("files do not hang"),
        }
    }
}

impl Service {
    fn begin(&mut self) {
        self.frozen = None;
        self.serving = Some(self.runtime.block_on(Items::start_on(self.port, self.items.clone())));
    }

    fn end(&mut self) {
        if let Some(serving) = self.serving.take() {
            self.runtime.block_on(serving.end());
        }
    }
}

/// The right password for a user, and another.
fn passwords(user: &str) -> [Value; 2] {
    [json!({"username": user, "password": HUSH}), json!({"username": user, "password": format!("{HUSH}-please")})]
}
