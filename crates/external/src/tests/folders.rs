//! `fs` and its folder: who else is in it, what leads out of it, what a crash leaves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::KeyRange;
use serde_json::{Value, json};

use super::conformance::Time;
use super::lines::{object, opened, surroundings};
use crate::{Condition, ErrorKind, Put, Scan, Spec, Store, Surroundings, Written, open};

fn put(time: &Time, value: &str) -> Put {
    let stamp = time.clock.stamp();
    Put { value: Bytes::copy_from_slice(value.as_bytes()), expires_at_ms: None, condition: Condition::Always, stamp }
}

fn plain(folder: &Path) -> Value {
    json!({"type": "fs", "folder": folder, "path": "shared", "key_encoding": "path", "envelope": "none"})
}

/// A store as a keyspace is made on it.
async fn prepared(settings: Value, time: &Time) -> Arc<dyn Store> {
    let store = opened(settings, time);
    store.prepare().await.unwrap();
    store
}

async fn keys(store: &dyn Store) -> Vec<String> {
    let page = store.scan(&Scan::of(KeyRange::all())).await.unwrap();
    page.entries.into_iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
}

/// What other programs wrote is served, and they read what is written, byte for byte.
#[tokio::test]
async fn a_folder_of_others_is_served_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("photos")).unwrap();
    fs::write(folder.path().join("photos/one.txt"), "one").unwrap();
    fs::write(folder.path().join("read me.md"), "hello").unwrap();
    let time = Time::real();
    let store = opened(plain(folder.path()), &time);
    assert_eq!(keys(&store).await, ["photos/one.txt", "read me.md"]);
    assert_eq!(store.get(b"photos/one.txt").await.unwrap().unwrap().value, "one");
    assert_eq!(store.get(b"photos").await.unwrap(), None);

    store.put(b"photos/2026/two.txt", &put(&time, "two")).await.unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("photos/2026/two.txt")).unwrap(), "two");
    // A key is not another's folder.
    let error = store.put(b"photos", &put(&time, "x")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadKey, "{error}");
    let error = store.put(b"read me.md/x", &put(&time, "x")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadKey, "{error}");
    // A folder that is left empty goes.
    store.delete(b"photos/2026/two.txt", &Condition::Always).await.unwrap();
    assert!(!folder.path().join("photos/2026").exists() && folder.path().join("photos").exists());
}

/// With the envelope, what others wrote is an error of its own, and not listed as a key if it is none.
#[tokio::test]
async fn what_others_wrote_is_no_value_in_an_envelope() {
    let folder = tempfile::tempdir().unwrap();
    let time = Time::real();
    let store = prepared(json!({"type": "fs", "folder": folder.path(), "path": "shared"}), &time).await;
    store.put(b"a", &put(&time, "1")).await.unwrap();
    fs::write(folder.path().join("b"), "not ours").unwrap();
    fs::write(folder.path().join("no.key"), "not ours").unwrap();
    assert_eq!(keys(&store).await, ["a", "b"]);
    assert_eq!(store.get(b"b").await.unwrap_err().kind, ErrorKind::BadData);
    // Half a file is noticed.
    let file = folder.path().join("a");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(store.get(b"a").await.unwrap_err().kind, ErrorKind::BadData);
    store.put(b"a", &put(&time, "2")).await.unwrap();
    assert_eq!(store.get(b"a").await.unwrap().unwrap().value, "2");
}

#[tokio::test]
async fn nothing_leads_out_of_the_folder() {
    let (outside, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), folder.path().join("link")).unwrap();
    symlink(outside.path().join("secret"), folder.path().join("file")).unwrap();
    let time = Time::real();
    let store = opened(plain(folder.path()), &time);
    for key in [&b"link/secret"[..], b"file"] {
        assert_eq!(store.get(key).await.unwrap_err().kind, ErrorKind::Denied);
    }
    assert_eq!(store.put(b"link/new", &put(&time, "x")).await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(store.delete(b"link/secret", &Condition::Always).await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(keys(&store).await, Vec::<String>::new());
    // A link in a file's place is replaced, not followed.
    store.put(b"file", &put(&time, "mine")).await.unwrap();
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
    for key in [&b"../x"[..], b"a/../../x", b"/etc/passwd", b".quorate/tmp/x"] {
        assert_eq!(store.get(key).await.unwrap_err().kind, ErrorKind::BadKey);
    }
}

#[tokio::test]
async fn only_folders_that_were_given_are_used() {
    let (root, time) = (tempfile::tempdir().unwrap(), Time::real());
    let spec = |folder: &Path| Spec::parse(&object(json!({"type": "fs", "folder": folder, "path": "shared"}))).unwrap();
    let within = Surroundings { fs_roots: vec![root.path().to_owned()], ..surroundings(&time) };
    let none = Surroundings { fs_roots: Vec::new(), ..surroundings(&time) };
    let beside = root.path().with_file_name("elsewhere");
    assert_eq!(open(&spec(&beside), &within).unwrap_err().kind, ErrorKind::Denied);
    let error = open(&spec(root.path()), &none).unwrap_err();
    assert!(error.kind == ErrorKind::Denied && error.message.contains("--fs-root"), "{error}");
    // A disk that is not mounted is not replaced by an empty folder.
    let store = open(&spec(&root.path().join("disk")), &within).unwrap();
    assert_eq!(store.check().await.unwrap_err().kind, ErrorKind::NoContainer);
    assert_eq!(store.put(b"a", &put(&time, "1")).await.unwrap_err().kind, ErrorKind::NoContainer);
    assert!(!root.path().join("disk").exists());
    // Nor is the folder where it was mounted taken for it. It is used as soon as it is there, and a node's own folder is made.
    fs::create_dir(root.path().join("disk")).unwrap();
    let error = store.put(b"a", &put(&time, "1")).await.unwrap_err();
    assert!(error.kind == ErrorKind::NoContainer && error.message.contains(".quorate/store"), "{error}");
    assert_eq!(fs::read_dir(root.path().join("disk")).unwrap().count(), 0);
    store.prepare().await.unwrap();
    store.put(b"a", &put(&time, "1")).await.unwrap();
    let again = open(&spec(&root.path().join("disk")), &within).unwrap();
    assert_eq!(again.get(b"a").await.unwrap().unwrap().value, "1");
    fs::rename(root.path().join("disk"), root.path().join("away")).unwrap();
    fs::create_dir(root.path().join("disk")).unwrap();
    for store in [&store, &again] {
        assert_eq!(store.get(b"a").await.unwrap_err().kind, ErrorKind::NoContainer);
    }
    fs::remove_dir(root.path().join("disk")).unwrap();
    fs::rename(root.path().join("away"), root.path().join("disk")).unwrap();
    assert_eq!(store.get(b"a").await.unwrap().unwrap().value, "1");
    let own = json!({"type": "fs", "folder": root.path().join("disk/of-{node}")});
    let store = open(&Spec::parse(&object(own)).unwrap(), &within).unwrap();
    assert_eq!(store.put(b"a", &put(&time, "1")).await.unwrap_err().kind, ErrorKind::NoContainer);
    store.prepare().await.unwrap();
    store.put(b"a", &put(&time, "1")).await.unwrap();
    assert!(root.path().join("disk/of-n1/a").exists());
    // The name of a node leads nowhere either.
    let strange = Surroundings { node: "../..".to_owned(), ..within };
    assert_eq!(
        open(&Spec::parse(&object(json!({"type": "fs", "folder": root.path().join("{node}")}))).unwrap(), &strange)
            .unwrap_err()
            .kind,
        ErrorKind::Denied
    );
}

/// A folder that was moved away, or over which a disk was mounted, is no longer the one of that name.
#[tokio::test]
async fn a_folder_that_is_moved_while_it_is_used_takes_no_writes() {
    let (root, time) = (tempfile::tempdir().unwrap(), Time::real());
    let (disk, elsewhere) = (root.path().join("disk"), root.path().join("elsewhere"));
    fs::create_dir(&disk).unwrap();
    let within = Surroundings { fs_roots: vec![root.path().to_owned()], ..surroundings(&time) };
    let store = open(&Spec::parse(&object(plain(&disk))).unwrap(), &within).unwrap();
    store.put(b"a", &put(&time, "1")).await.unwrap();
    fs::rename(&disk, &elsewhere).unwrap();
    assert_eq!(store.put(b"a", &put(&time, "2")).await.unwrap_err().kind, ErrorKind::NoContainer);
    assert_eq!(store.get(b"a").await.unwrap_err().kind, ErrorKind::NoContainer);
    assert_eq!(store.delete(b"a", &Condition::Always).await.unwrap_err().kind, ErrorKind::NoContainer);
    assert_eq!(fs::read_to_string(elsewhere.join("a")).unwrap(), "1");
    // Another folder in its place is used from the next call on.
    fs::create_dir(&disk).unwrap();
    fs::write(disk.join("b"), "of the new one").unwrap();
    assert_eq!(keys(&store).await, ["b"]);
    store.put(b"a", &put(&time, "3")).await.unwrap();
    assert_eq!(fs::read_to_string(disk.join("a")).unwrap(), "3");
    assert_eq!(fs::read_to_string(elsewhere.join("a")).unwrap(), "1");
}

/// The same with a file that is a database.
#[tokio::test]
async fn a_database_that_is_moved_while_it_is_used_takes_no_writes() {
    let (root, time) = (tempfile::tempdir().unwrap(), Time::real());
    let (disk, elsewhere) = (root.path().join("disk"), root.path().join("elsewhere"));
    fs::create_dir(&disk).unwrap();
    let store = prepared(json!({"type": "sqlite", "file": disk.join("pairs.sqlite"), "path": "shared"}), &time).await;
    store.put(b"a", &put(&time, "1")).await.unwrap();
    fs::rename(&disk, &elsewhere).unwrap();
    assert_eq!(store.put(b"a", &put(&time, "2")).await.unwrap_err().kind, ErrorKind::NoContainer);
    assert_eq!(store.get(b"a").await.unwrap_err().kind, ErrorKind::NoContainer);
    assert_eq!(store.delete(b"a", &Condition::Always).await.unwrap_err().kind, ErrorKind::NoContainer);
    // Nor is one made where the disk was.
    fs::create_dir(&disk).unwrap();
    assert_eq!(store.put(b"a", &put(&time, "2")).await.unwrap_err().kind, ErrorKind::NoContainer);
    assert_eq!(fs::read_dir(&disk).unwrap().count(), 0);
    fs::remove_dir(&disk).unwrap();
    fs::rename(&elsewhere, &disk).unwrap();
    assert_eq!(store.get(b"a").await.unwrap().unwrap().value, "1");
    store.put(b"a", &put(&time, "3")).await.unwrap();
    let again = opened(json!({"type": "sqlite", "file": disk.join("pairs.sqlite"), "path": "shared"}), &time);
    assert_eq!(again.get(b"a").await.unwrap().unwrap().value, "3");
}

/// A file system that hangs holds up its own store and nobody else, and is told as slow.
#[tokio::test]
async fn a_folder_that_hangs_is_a_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let time = Time::real();
    let mut settings = object(json!({"type": "fs", "folder": folder.path(), "path": "shared", "timeout": "400ms"}));
    let store = prepared(Value::Object(settings.clone()), &time).await;
    store.put(b"a", &put(&time, "1")).await.unwrap();
    // Somebody holds all locks for ever, as a server of files does that is gone.
    let locks: Vec<_> = (0..64)
        .map(|number| {
            let path = folder.path().join(format!(".quorate/locks/{number:02}"));
            let lock = fs::File::options().create(true).truncate(false).write(true).open(path).unwrap();
            lock.lock().unwrap();
            lock
        })
        .collect();
    for _ in 0..3 {
        let error = store.put(b"a", &put(&time, "2")).await.unwrap_err();
        assert_eq!((error.kind, error.outcome), (ErrorKind::Timeout, crate::Outcome::Unknown));
    }
    let hanging = (0..20).map(|_| async { store.put(b"a", &put(&time, "2")).await.unwrap_err().kind });
    let kinds = futures_util::future::join_all(hanging).await;
    assert!(kinds.iter().all(|kind| kind.is_passing()), "{kinds:?}");
    // Another store in another folder.
    let other = tempfile::tempdir().unwrap();
    settings.insert("folder".to_owned(), json!(other.path()));
    let others = prepared(Value::Object(settings), &time).await;
    others.put(b"a", &put(&time, "1")).await.unwrap();
    drop(locks);
    for _ in 0..100 {
        if store.get(b"a").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not come back");
}

/// Names the folder to the process that is killed.
const FOLDER_VARIABLE: &str = "QUORATE_EXTERNAL_CRASH_FOLDER";

/// Killed at any time, a store has for each key the value that was acknowledged last, or the next.
#[tokio::test]
async fn a_kill_leaves_whole_values_and_loses_none() {
    for round in 1..=5_u64 {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "tests::folders::writes_until_it_is_killed", "--ignored", "--nocapture"]);
        let mut child = child.env(FOLDER_VARIABLE, folder.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(150 * round));
        child.kill().unwrap();
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let acknowledged = said.lines().filter_map(|line| line.strip_prefix("wrote ")?.parse::<u64>().ok()).max().unwrap_or(0);

        let time = Time::real();
        let store = prepared(json!({"type": "fs", "folder": folder.path(), "path": "shared"}), &time).await;
        let found = match store.get(b"counter").await.unwrap() {
            Some(stored) => std::str::from_utf8(&stored.value[..8]).unwrap().parse().unwrap(),
            None => 0,
        };
        assert!(found == acknowledged || found == acknowledged + 1, "{found} after {acknowledged}");
        assert_eq!(keys(&store).await.iter().filter(|key| *key != "counter").count(), 0);
        // What was left beside goes when it is old.
        let beside = || fs::read_dir(folder.path().join(".quorate/tmp")).unwrap().count();
        time.pass(2 * 60 * 60 * 1000);
        let again = opened(json!({"type": "fs", "folder": folder.path(), "path": "shared"}), &time);
        again.check().await.unwrap();
        assert_eq!(beside(), 0);
    }
}

#[tokio::test]
#[ignore = "a_kill_leaves_whole_values_and_loses_none starts it in a process of its own"]
async fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else { return };
    let time = Time::real();
    let store = opened(json!({"type": "fs", "folder": Path::new(&folder), "path": "shared"}), &time);
    for number in 1..100_000 {
        // Long enough to be cut in the middle.
        let value = format!("{number:08}{}", "x".repeat(100_000));
        assert!(matches!(store.put(b"counter", &put(&time, &value)).await.unwrap(), Written::Done(_)));
        println!("wrote {number}");
    }
}
