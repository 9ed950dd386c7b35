//! The supervisor's own process: what every Prometheus client says of itself, read from `/proc`.

use std::fs;

use prometheus::{CounterVec, GaugeVec, IntGaugeVec};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

use super::family::Registrar;

const NONE: &[&str] = &[];

/// Handles of the process metrics.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    cpu: CounterVec,
    start: GaugeVec,
    resident: IntGaugeVec,
    virtual_memory: IntGaugeVec,
    descriptors: IntGaugeVec,
    most_descriptors: IntGaugeVec,
    threads: IntGaugeVec,
}

impl ProcessMetrics {
    pub(super) fn new(to: &mut Registrar) -> Self {
        Self {
            cpu: to.counter_f64(
                "process_cpu_seconds_total",
                "User and system CPU time of the supervisor.",
                NONE,
            ),
            start: to.gauge_f64(
                "process_start_time_seconds",
                "When the supervisor was started, in seconds since 1970.",
                NONE,
            ),
            resident: to.gauge(
                "process_resident_memory_bytes",
                "Memory of the supervisor that is in RAM.",
                NONE,
            ),
            virtual_memory: to.gauge(
                "process_virtual_memory_bytes",
                "Address space of the supervisor.",
                NONE,
            ),
            descriptors: to.gauge(
                "process_open_fds",
                "File descriptors that the supervisor has open.",
                NONE,
            ),
            most_descriptors: to.gauge(
                "process_max_fds",
                "File descriptors that the supervisor may have open.",
                NONE,
            ),
            threads: to.gauge("process_threads", "Threads of the supervisor.", NONE),
        }
    }

    /// Reads the figures anew. What cannot be read keeps its last value.
    pub(super) fn refresh(&self) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat")
            .ok()
            .and_then(|text| Stat::parse(&text))
        {
            self.set(&stat);
        }
        if let Ok(folder) = fs::read_dir("/proc/self/fd") {
            // The descriptor of the folder itself is not one that stays.
            let open = folder.count().saturating_sub(1);
            one_i64(&self.descriptors).set(saturated(open as u64));
        }
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        one_i64(&self.most_descriptors).set(saturated(most));
    }

    fn set(&self, stat: &Stat) {
        let ticks = clock_ticks_per_second() as f64;
        let cpu = self.cpu.with_label_values::<&str>(&[]);
        let more = stat.cpu as f64 / ticks - cpu.get();
        if more > 0.0 {
            cpu.inc_by(more);
        }
        if let Some(boot) = boot_time() {
            let start = boot as f64 + stat.start as f64 / ticks;
            self.start.with_label_values::<&str>(&[]).set(start);
        }
        let pages = stat.resident.saturating_mul(page_size() as u64);
        one_i64(&self.resident).set(saturated(pages));
        one_i64(&self.virtual_memory).set(saturated(stat.virtual_memory));
        one_i64(&self.threads).set(saturated(stat.threads));
    }
}

/// What is taken of `/proc/self/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Clock ticks in user and kernel mode.
    cpu: u64,
    threads: u64,
    /// Clock ticks after boot.
    start: u64,
    virtual_memory: u64,
    /// Pages.
    resident: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name is in brackets and may hold spaces and brackets itself.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of `rest` is field 3 of proc(5).
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu: field(14)?.checked_add(field(15)?)?,
            threads: field(20)?,
            start: field(22)?,
            virtual_memory: field(23)?,
            resident: field(24)?,
        })
    }
}

fn boot_time() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn one_i64(gauge: &IntGaugeVec) -> prometheus::IntGauge {
    gauge.with_label_values::<&str>(&[])
}

fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Stat;

    #[test]
    fn fields_are_counted_from_behind_the_name() {
        let text = "7 (may) fly) S 1 7 7 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 5 0 900 2097152 64 18446744073709551615";
        let stat = Stat::parse(text).unwrap();
        let expected = Stat {
            cpu: 42,
            threads: 5,
            start: 900,
            virtual_memory: 2_097_152,
            resident: 64,
        };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse("7 (mayfly) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
