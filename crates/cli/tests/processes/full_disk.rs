//! A disk that fills up under a running node: writes are refused with 507, reads go on, and once there is room so do writes.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Cluster, Connection, READY_LIMIT, Request, tell, until};

const MIB: usize = 1 << 20;

/// Three segments of the log above its reserve; little enough to be filled soon.
const DISK_MIB: usize = 224;

/// How soon a node notices that its disk is full, or no longer is.
const NOTICE_LIMIT: Duration = Duration::from_secs(20);

/// A file system in memory, small, and for one test. Dropping it takes it away.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None`, with the reason printed, where nobody may mount one.
    fn mount() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("quorate-disk-").tempdir().expect("a temporary folder can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "tmpfs"]).arg(folder.path());
        let refused = match mount.output() {
            Ok(output) if output.status.success() => return Some(Self { folder }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        assert!(std::env::var_os("QUORATE_REQUIRE_SERVERS").is_none(), "a small disk cannot be mounted: {refused}");
        tell(format_args!("skipped: a small disk cannot be mounted: {refused}"));
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the room that is left; returns what to remove to give it back.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut ballast = File::create(&path).expect("a file can be made");
        let piece = vec![1; MIB];
        let mut written = 0;
        // The last piece is written as far as there is room.
        while let Ok(count @ 1..) = ballast.write(&piece) {
            written += count;
        }
        tell(format_args!("{} MiB were free", written / MIB));
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that was just killed may hold a file for a moment.
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "the small disk can be unmounted");
    }
}

/// A node with its data on the small disk, and what is to be taken away after it.
struct Scene {
    cluster: Cluster,
    disk: SmallDisk,
    keyspace: &'static str,
    /// Acknowledged so far.
    keys: usize,
}

impl Scene {
    /// With a keyspace on this engine.
    fn set(engine: &'static str) -> Option<Self> {
        let disk = SmallDisk::mount()?;
        let mut cluster = Cluster::empty();
        let name = cluster.add("n1");
        cluster.node_mut(&name).data_dir = disk.path().join(&name);
        cluster.node_mut(&name).start(&[]);
        cluster.until_ready();
        let settings = format!(r#"{{"engine": {{"type": "{engine}"}}}}"#);
        cluster.connection("n1").expect(201, &Request::json("PUT", &format!("/v1/keyspaces/{engine}"), settings));
        Some(Self { cluster, disk, keyspace: engine, keys: 0 })
    }

    fn connection(&self) -> Connection {
        self.cluster.connection("n1")
    }

    fn on_key(&self, method: &'static str, number: usize) -> Request {
        Request::new(method, format!("/v1/kv/{}/{number:06}", self.keyspace))
    }

    fn value(number: usize) -> Vec<u8> {
        // Nothing that could be compressed: each value is of its own bytes.
        let mut state = number as u64 + 1;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..MIB / 4).map(step).collect()
    }

    /// Writes one more; the status of the answer.
    #[track_caller]
    fn write(&mut self, connection: &mut Connection) -> u16 {
        let request = self.on_key("PUT", self.keys).with_body(Self::value(self.keys)).with_query("timeout=10s");
        let answer = connection.send(&request).unwrap_or_else(|error| panic!("the node is there: {error:?}"));
        match answer.status {
            201 => self.keys += 1,
            507 => assert!(answer.text().contains(r#""outcome":"not_applied""#), "{}", answer.text()),
            status => panic!("{status}: {}", answer.text()),
        }
        answer.status
    }

    /// Writes until it is refused because the disk is full.
    #[track_caller]
    fn write_until_full(&mut self) {
        let mut connection = self.connection();
        // Twice what fits, so that this ends.
        for _ in 0..2 * DISK_MIB * 4 {
            if self.write(&mut connection) == 507 {
                tell(format_args!("{}: full after {} MiB in {} writes", self.keyspace, self.keys / 4, self.keys));
                return;
            }
        }
        panic!("the disk never became full");
    }

    #[track_caller]
    fn until_written(&mut self) {
        let mut connection = self.connection();
        until("a write that is taken again", NOTICE_LIMIT, || match self.write(&mut connection) {
            201 => Ok(()),
            status => Err(status.to_string()),
        });
    }

    /// Holds that every value that was acknowledged is there, byte for byte, and that the list of keys can be read.
    #[track_caller]
    fn assert_all_is_there(&self) {
        let mut connection = self.connection();
        for number in (0..self.keys).step_by(7).chain(self.keys.checked_sub(1)) {
            let answer = connection.expect(200, &self.on_key("GET", number));
            assert!(answer.body == Self::value(number), "key {number} has another value");
        }
        let list = Request::new("GET", format!("/v1/kv/{}?limit=10000", self.keyspace));
        let list: serde_json::Value = connection.expect(200, &list).json();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(self.keys));
    }

    /// Everything that the file system can take is taken, by somebody else; then it is given back.
    #[track_caller]
    fn suffer_ballast(&mut self) {
        let ballast = self.disk.fill();
        let mut connection = self.connection();
        until("a write that is refused", NOTICE_LIMIT, || match self.write(&mut connection) {
            507 => Ok(()),
            status => Err(status.to_string()),
        });
        for _ in 0..20 {
            assert_eq!(self.write(&mut connection), 507, "as long as there is no room");
        }
        self.assert_all_is_there();
        let ready = connection.send(&Request::new("GET", "/livez")).expect("the node is there");
        assert_eq!(ready.status, 200, "alive: {}", ready.text());
        // With the node's next look at itself.
        until("operators are told", NOTICE_LIMIT, || {
            let metrics = connection.expect(200, &Request::new("GET", "/metrics")).text();
            if metrics.contains("quorate_node_is_disk_full 1\n") { Ok(()) } else { Err("0".to_owned()) }
        });
        // Not a single byte is free: it comes back all the same, for those who read.
        self.survive_a_restart();
        std::fs::remove_file(ballast).expect("the test's own file");
        self.until_written();
        self.assert_all_is_there();
    }

    /// The node's own data fill the disk, as far as it lets them.
    #[track_caller]
    fn suffer_data(&mut self) {
        self.write_until_full();
        self.assert_all_is_there();
    }

    #[track_caller]
    fn survive_a_restart(&mut self) {
        self.cluster.node_mut("n1").kill();
        self.cluster.restart("n1");
        // It is not ready while its disk is full: whoever sends it work is to send it elsewhere. It serves reads all the same.
        let mut connection = self.connection();
        until("reads after a restart", READY_LIMIT, || match connection.send(&self.on_key("GET", 0)) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        self.assert_all_is_there();
    }
}

#[track_caller]
fn a_full_disk_is_survived(engine: &'static str) {
    let Some(mut scene) = Scene::set(engine) else { return };
    let mut connection = scene.connection();
    (0..40).for_each(|_| assert_eq!(scene.write(&mut connection), 201));
    scene.suffer_ballast();
    scene.survive_a_restart();
    scene.suffer_data();
    // What is killed while its disk is as full as it lets it become comes back.
    scene.survive_a_restart();
}

#[test]
fn in_memory() {
    a_full_disk_is_survived("trie");
}

#[test]
fn in_btree() {
    a_full_disk_is_survived("btree");
}

#[test]
fn in_lsm() {
    a_full_disk_is_survived("lsm");
}
