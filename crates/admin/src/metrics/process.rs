//! The process itself, by the names every Prometheus client library uses.
//!
//! Reads four files of `/proc`; what cannot be read is left out.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::{begin, catalogue};

/// `sysconf(_SC_CLK_TCK)`: 100 for user space on every architecture we build for, whatever the
/// kernel's own HZ. Source: proc_pid_stat(5), time(7).
const TICKS_PER_SECOND: f64 = 100.0;

/// What `/proc` said at one time. None: it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    cpu_seconds: Option<f64>,
    start_seconds: Option<f64>,
    threads: Option<u64>,
    virtual_bytes: Option<u64>,
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut process = Self::parse(
            &read("/proc/self/stat"),
            &read("/proc/self/status"),
            &read("/proc/self/limits"),
            &read("/proc/stat"),
        );
        // The descriptor by which the directory is read is listed too.
        process.open_fds =
            fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1));
        process
    }

    fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Self {
        // The second field is the program's name in brackets and may hold anything, so the others
        // are counted from the last bracket: the next field is the third of proc_pid_stat(5).
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let kilobytes = |key| status_kilobytes(status, key).map(|kb| kb.saturating_mul(1024));
        let booted = system.lines().find_map(|line| line.strip_prefix("btime "));
        let booted = booted.and_then(|seconds| seconds.trim().parse::<f64>().ok());
        let max_fds = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        Self {
            cpu_seconds: field(14)
                .zip(field(15))
                .map(|(user, system)| (user + system) as f64 / TICKS_PER_SECOND),
            start_seconds: booted
                .zip(field(22))
                .map(|(booted, ticks)| booted + ticks as f64 / TICKS_PER_SECOND),
            threads: field(20),
            virtual_bytes: kilobytes("VmSize:"),
            resident_bytes: kilobytes("VmRSS:"),
            open_fds: None,
            max_fds: max_fds.and_then(|line| line.split_whitespace().next()?.parse().ok()),
        }
    }
}

/// This process's memory in RAM that is of no file, and so cannot be taken back, in octets. None:
/// `/proc` does not say.
pub fn anonymous_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(status_kilobytes(&status, "RssAnon:")?.saturating_mul(1024))
}

fn status_kilobytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        if let Some(seconds) = self.cpu_seconds {
            begin(encoder, &catalogue::PROCESS_CPU)?.only().counter(seconds)?;
        }
        if let Some(seconds) = self.start_seconds {
            begin(encoder, &catalogue::PROCESS_START)?.only().gauge(seconds)?;
        }
        for (metric, value) in [
            (catalogue::PROCESS_OPEN_FDS, self.open_fds),
            (catalogue::PROCESS_MAX_FDS, self.max_fds),
            (catalogue::PROCESS_RESIDENT, self.resident_bytes),
            (catalogue::PROCESS_VIRTUAL, self.virtual_bytes),
            (catalogue::PROCESS_THREADS, self.threads),
        ] {
            if let Some(value) = value {
                begin(encoder, &metric)?.only().gauge(value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_and_spaces_shifts_no_field() {
        let stat = "77 (a) b) (c) S 1 77 77 0 -1 4194560 500 0 2 0 250 50 0 0 20 0 9 0 12345 1 2 3";
        let status = "Name:\ta\nVmSize:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        let limits = "Limit   Soft Limit  Hard Limit  Units\n\
                      Max open files            1024                 524288               files\n";
        let process = Process::parse(stat, status, limits, "cpu 1 2\nbtime 1700000000\n");
        let expected = Process {
            cpu_seconds: Some(3.0),
            start_seconds: Some(1_700_000_123.45),
            threads: Some(9),
            virtual_bytes: Some(2 << 20),
            resident_bytes: Some(1 << 20),
            open_fds: None,
            max_fds: Some(1024),
        };
        assert_eq!(process, expected);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(Process::parse("", "", "", ""), Process::default());
        let unlimited =
            "Max open files            unlimited            unlimited            files\n";
        assert_eq!(
            Process::parse("1 (x) S", "VmRSS: x kB", unlimited, "btime"),
            Process::default()
        );
    }

    #[test]
    fn this_process_is_read_whole() {
        let held = fs::File::open("/proc/self/stat").unwrap();
        let process = Process::read();
        drop(held);
        assert!(process.open_fds.is_some_and(|count| count >= 4), "{process:?}");
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100 << 10), "{process:?}");
        assert!(process.virtual_bytes >= process.resident_bytes, "{process:?}");
        assert!(process.threads.is_some_and(|count| count >= 1), "{process:?}");
        assert!(process.cpu_seconds.is_some() && process.max_fds.is_some(), "{process:?}");
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        assert!(process.start_seconds.is_some_and(|start| start <= now + 1.0), "{process:?}");
    }
}
