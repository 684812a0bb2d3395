//! The calls with which a process changes a folder, as strace notes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::script::FOLDER_VARIABLE;

/// Every call that makes, changes, syncs or removes, and those that would do so unseen.
const CALLS: &str = "open,openat,openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,\
    symlinkat,truncate,ftruncate,fallocate,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync,syncfs,sync_file_range,\
    msync,close,lseek,mmap,dup,dup2,dup3,copy_file_range,sendfile,splice,io_uring_setup";

/// Something that was done.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) done: Done,
    /// How many calls had ended when it began.
    pub(super) begun_at: usize,
}

/// What was done. Paths are absolute.
#[derive(Debug)]
pub(super) enum Done {
    /// Said a line to its parent.
    Said(String),
    /// Opened a file to write to it, and made it if it was not there.
    Opened {
        path: PathBuf,
        is_cut: bool,
    },
    MadeFolder(PathBuf),
    Removed(PathBuf),
    Renamed(PathBuf, PathBuf),
    Wrote {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    SetLen {
        path: PathBuf,
        len: usize,
    },
    Synced(PathBuf),
}

/// Runs the process to its end; `None` if there is no strace here.
pub(super) fn record(child: &Command, folder: &Path, scratch: &Path) -> Option<Vec<Call>> {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return None;
    }
    fs::create_dir_all(folder).expect("a folder");
    let notes = scratch.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-xx", "-s", "100000000", "-e", &format!("trace={CALLS}"), "-o"]).arg(&notes).arg("--");
    strace.arg(child.get_program()).args(child.get_args());
    for (name, value) in child.get_envs() {
        strace.env(name, value.unwrap_or_default());
    }
    let output = strace.env(FOLDER_VARIABLE, folder).output().expect("strace runs");
    assert!(output.status.success(), "the child failed: {}", String::from_utf8_lossy(&output.stderr));
    let notes = fs::read_to_string(notes).expect("strace's notes");
    let mut reader = Reader { folder: folder.to_owned(), begun: BTreeMap::new(), positions: BTreeMap::new(), calls: Vec::new() };
    notes.lines().for_each(|line| reader.read(line));
    Some(reader.calls)
}

struct Reader {
    folder: PathBuf,
    /// By thread: the beginning of a call that has not ended, and how many had ended then.
    begun: BTreeMap<String, (String, usize)>,
    /// Where the next write of an open file goes, by its number.
    positions: BTreeMap<String, usize>,
    calls: Vec<Call>,
}

impl Reader {
    fn read(&mut self, line: &str) {
        let (thread, rest) = line.split_once(' ').expect("a thread");
        let rest = rest.trim_start();
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            self.begun.insert(thread.to_owned(), (begin.to_owned(), self.calls.len()));
        } else if let Some((_, end)) = rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            let (begin, begun_at) = self.begun.remove(thread).expect("a call that was begun");
            self.on_call(&format!("{begin}{end}"), begun_at);
        } else if !rest.starts_with("+++") && !rest.starts_with("---") {
            self.on_call(rest, self.calls.len());
        }
    }

    fn on_call(&mut self, text: &str, begun_at: usize) {
        let Some((call, result)) = text.rsplit_once(" = ") else { return };
        let (name, arguments) = call.split_once('(').expect("arguments");
        let arguments = arguments.trim_end().strip_suffix(')').unwrap_or(arguments);
        // A call that failed, or never ended.
        if result.starts_with('-') || result.starts_with('?') {
            return;
        }
        let arguments: Vec<&str> = arguments.split(", ").collect();
        if let Some(done) = self.done(name, &arguments, result) {
            self.calls.push(Call { done, begun_at });
        }
    }

    fn done(&mut self, name: &str, arguments: &[&str], result: &str) -> Option<Done> {
        let paths: Vec<PathBuf> = arguments.iter().filter_map(|argument| path_of(argument)).collect();
        match name {
            "openat" => {
                self.positions.insert(number_of(result).to_owned(), 0);
                let path = self.at(arguments[0], arguments[1])?;
                let flags = arguments[2];
                let is_written = flags.contains("O_WRONLY") || flags.contains("O_RDWR");
                assert!(!flags.contains("O_APPEND") && !flags.contains("O_TMPFILE"), "not understood: {name} with {flags}");
                is_written.then(|| Done::Opened { path, is_cut: flags.contains("O_TRUNC") })
            }
            // Its number may have been given to another file before the call's end is noted: opening begins anew.
            "close" => None,
            "write" => self.write(arguments, result),
            "pwrite64" => {
                let path = self.below(paths.first()?)?;
                let mut bytes = bytes_of(arguments[1]);
                bytes.truncate(result.parse().expect("a length"));
                Some(Done::Wrote { path, at: arguments[3].parse().expect("a place"), bytes })
            }
            "lseek" => {
                self.positions.insert(number_of(arguments[0]).to_owned(), result.parse().expect("a place"));
                None
            }
            "ftruncate" => Some(Done::SetLen { path: self.below(paths.first()?)?, len: arguments[1].parse().expect("a length") }),
            "fsync" | "fdatasync" => Some(Done::Synced(self.below(paths.first()?)?)),
            "mkdir" => Some(Done::MadeFolder(self.below(paths.first()?)?)),
            "mkdirat" => Some(Done::MadeFolder(self.at(arguments[0], arguments[1])?)),
            "unlink" | "rmdir" => Some(Done::Removed(self.below(paths.first()?)?)),
            "unlinkat" => Some(Done::Removed(self.at(arguments[0], arguments[1])?)),
            "rename" => Some(Done::Renamed(self.below(paths.first()?)?, self.below(paths.get(1)?)?)),
            "renameat" | "renameat2" => {
                Some(Done::Renamed(self.at(arguments[0], arguments[1])?, self.at(arguments[2], arguments[3])?))
            }
            // Only a mapping that is shared and written changes the file.
            "mmap" if !arguments.iter().any(|part| part.contains("PROT_WRITE")) || arguments.contains(&"MAP_PRIVATE") => None,
            _ => {
                let is_below = paths.iter().any(|path| self.below(path).is_some());
                assert!(!is_below && name != "io_uring_setup", "not understood: {name} of {paths:?}");
                None
            }
        }
    }

    fn write(&mut self, arguments: &[&str], result: &str) -> Option<Done> {
        let number = number_of(arguments[0]);
        if number == "1" {
            let said = String::from_utf8(bytes_of(arguments[1])).expect("text");
            return Some(Done::Said(said.trim_end().to_owned()));
        }
        let path = self.below(&path_of(arguments[0])?)?;
        let mut bytes = bytes_of(arguments[1]);
        bytes.truncate(result.parse().expect("a length"));
        let position = self.positions.get_mut(number).expect("an open file");
        let at = *position;
        *position += bytes.len();
        Some(Done::Wrote { path, at, bytes })
    }

    /// A path that is given relative to an open folder.
    fn at(&self, folder: &str, path: &str) -> Option<PathBuf> {
        self.below(&path_of(folder)?.join(path_of(path)?))
    }

    /// The path, if it is one of those to watch.
    fn below(&self, path: &Path) -> Option<PathBuf> {
        (path.starts_with(&self.folder)).then(|| path.to_owned())
    }
}

/// The number of an open file: what stands before its path.
fn number_of(argument: &str) -> &str {
    argument.split('<').next().unwrap_or(argument)
}

/// The path in `"..."`, or in `5<...>`. What was removed has none.
fn path_of(argument: &str) -> Option<PathBuf> {
    if argument.ends_with("(deleted)") {
        return None;
    }
    let quoted = argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let inside = quoted.or_else(|| argument.split_once('<')?.1.strip_suffix('>'))?;
    String::from_utf8(bytes_of(inside)).ok().map(PathBuf::from)
}

/// The bytes of `\x2f\x74`, with or without quotes.
fn bytes_of(text: &str) -> Vec<u8> {
    assert!(!text.ends_with("..."), "strace cut it short");
    let digits = text.trim_matches('"').split("\\x").skip(1);
    digits.map(|digits| u8::from_str_radix(digits, 16).expect("two digits")).collect()
}
