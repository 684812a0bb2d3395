//! A tree of real files goes in through one node and comes back from another, after a third was killed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::TempDir;

use crate::support::{Cluster, Connection, Request, now, since, tell};

/// What most machines have, and what holds every kind of file.
const DOCUMENTS: &str = "/usr/share/doc";

/// Far more than a usual system has; a build machine with a million of them shall not run for an hour.
const MAX_FILES: usize = 20_000;

/// The default limit of a value.
const MAX_FILE_BYTES: u64 = 3 << 19;

const CLIENTS: usize = 16;

#[test]
fn every_file_comes_back_byte_for_byte() {
    let (_odd_folder, odd_root) = odd_files();
    let mut files = files_below(Path::new(DOCUMENTS));
    files.extend(files_below(&odd_root));
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();

    let mut cluster = Cluster::ready(3);
    let leader = cluster.leader();
    let entry = cluster.other_than(&[&leader]);
    let exit = cluster.other_than(&[&leader, &entry]);
    let start = now();
    at_once(
        &files,
        || cluster.connection(&entry),
        |connection, (path, bytes)| {
            connection.expect(201, &Request::put(path.as_os_str().as_bytes(), bytes.as_slice()).with_query("timeout=30s"));
        },
    );
    tell(format_args!("{} files, {bytes} bytes, in after {:?}", files.len(), since(start)));

    cluster.node_mut(&leader).kill();
    let start = now();
    at_once(
        &files,
        || cluster.connection(&exit),
        |connection, (path, bytes)| {
            let read = connection.expect(200, &Request::get(path.as_os_str().as_bytes()).with_query("timeout=30s"));
            assert!(read.body == *bytes, "{} came back otherwise", path.display());
        },
    );
    tell(format_args!("out of another node after {:?}, {leader} was killed", since(start)));
}

/// Does something with every file, with several clients at once.
fn at_once(
    files: &[(PathBuf, Vec<u8>)],
    connect: impl Fn() -> Connection + Sync,
    work: impl Fn(&mut Connection, &(PathBuf, Vec<u8>)) + Sync,
) {
    let queue: Mutex<VecDeque<_>> = Mutex::new(files.iter().collect());
    let next = || queue.lock().expect("nobody panics with it").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut connection = connect();
                while let Some(file) = next() {
                    work(&mut connection, file);
                }
            });
        }
    });
}

/// The first files by path that fit the limits; none if there is no such folder.
fn files_below(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) if metadata.is_file() && metadata.len() <= MAX_FILE_BYTES => paths.push(entry.path()),
                _ => {}
            }
        }
    }
    paths.sort();
    let readable = paths.into_iter().filter_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes)));
    readable.take(MAX_FILES).collect()
}

/// Files whose names no document has.
fn odd_files() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let root = folder.path().join("odd files");
    fs::create_dir(&root).expect("a folder can be made");
    let names: [&[u8]; 8] = [b"empty", b"a b+c%20d", b"...", b"\xff\xfe", b"new\nline", b"quo\"te'", b"#?&=;", b"caf\xc3\xa9"];
    for (number, name) in names.iter().enumerate() {
        let mut file = fs::File::create(root.join(OsString::from_vec(name.to_vec()))).expect("any name but / can be");
        let bytes: Vec<u8> = (0..=255).cycle().take(number * 40_000).collect();
        file.write_all(&bytes).expect("a file can be written");
    }
    (folder, root)
}
