//! What another process takes of the machine, as Linux tells it; `None` where it does not.

use std::fs::read_to_string;

/// Processor time since the process began, in seconds.
pub(super) fn cpu_s(pid: u32) -> Option<f64> {
    let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold anything; user and system time are fields 14 and 15.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory, in MiB.
pub(super) fn memory_mib(pid: u32) -> Option<f64> {
    let statm = read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some((pages * rustix::param::page_size() as u64) as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::{cpu_s, memory_mib};

    #[test]
    fn this_process_takes_something() {
        assert!(cpu_s(std::process::id()).is_some_and(|seconds| seconds >= 0.0));
        assert!(memory_mib(std::process::id()).is_some_and(|mib| mib > 0.1));
        assert_eq!(cpu_s(u32::MAX), None);
    }
}
