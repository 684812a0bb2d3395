//! What another process takes of the machine, as Linux tells it; `None` where it does not.

use std::fs::{read_dir, read_to_string};

use super::report::Measured;
use crate::exit::Failure;

/// Measures with the processor time that goes by meanwhile, by `cpu_s`; it is told with the whole, not with the parts of a mix.
pub(super) async fn with_cpu(
    cpu_s: impl Fn() -> Option<f64>,
    measured: impl Future<Output = Result<Vec<Measured>, Failure>>,
) -> Result<Vec<Measured>, Failure> {
    let before = cpu_s();
    let mut measured = measured.await?;
    // The warm-up's requests are paid for too, but not counted: the figure is a little too high rather than too low.
    // Threads that had not begun, or had no name yet, have taken none.
    let spent = cpu_s().map(|after| after - before.unwrap_or_default());
    if let [whole, ..] = measured.as_mut_slice() {
        whole.server_cpu_s_per_100k = spent.filter(|_| whole.requests > 0).map(|spent| spent * 100_000.0 / whole.requests as f64);
    }
    Ok(measured)
}

/// Processor time of several processes since each began, in seconds; `None` if one cannot be seen, or there is none.
pub(super) fn processes_cpu_s(pids: &[u32]) -> Option<f64> {
    pids.iter().map(|pid| cpu_s(&format!("/proc/{pid}/stat"))).reduce(|sum, each| Some(sum? + each?))?
}

/// Processor time of this process's threads of one name, in seconds.
pub(super) fn threads_cpu_s(name: &str) -> Option<f64> {
    let tasks = read_dir("/proc/self/task").ok()?.filter_map(Result::ok).map(|task| task.path());
    let is_named = |path: &std::path::PathBuf| read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name);
    tasks.filter(is_named).filter_map(|task| cpu_s(task.join("stat").to_str()?)).reduce(|sum, each| sum + each)
}

/// Resident memory, in MiB.
pub(super) fn memory_mib(pid: u32) -> Option<f64> {
    let statm = read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some((pages * rustix::param::page_size() as u64) as f64 / f64::from(1 << 20))
}

/// From the file `stat` of a process or of a thread.
fn cpu_s(stat: &str) -> Option<f64> {
    let stat = read_to_string(stat).ok()?;
    // The second field is the program's name in parentheses, which may hold anything; user and system time are fields 14 and 15.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::{memory_mib, processes_cpu_s, threads_cpu_s};

    #[test]
    fn this_process_takes_something() {
        let this = std::process::id();
        assert!(processes_cpu_s(&[this, this]).is_some_and(|seconds| seconds >= 0.0));
        assert!(memory_mib(this).is_some_and(|mib| mib > 0.1));
        assert_eq!(processes_cpu_s(&[this, u32::MAX]), None);
        assert_eq!(processes_cpu_s(&[]), None);
    }

    #[test]
    fn threads_are_told_by_their_name() {
        let seen = std::thread::Builder::new().name("usage-test".to_owned()).spawn(|| threads_cpu_s("usage-test")).unwrap();
        assert!(seen.join().unwrap().is_some_and(|seconds| seconds >= 0.0));
        assert_eq!(threads_cpu_s("no-such-thread"), None);
    }
}
