//! What each layer of the jail costs at the start of a VMM, and what its end costs.
//!
//! `cargo bench -p mayfly-vmm --bench jail`. Each round is a forked child that jails itself. The
//! dearest part, the network namespace, is measured alone too.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Instant;

use mayfly_vmm::jail::{self, JailOptions, Outcome, ThreadKind};

const ROUNDS: usize = 200;
const KINDS: [ThreadKind; 3] = [ThreadKind::Main, ThreadKind::Devices, ThreadKind::Vcpu];

/// Named costs of one round, in microseconds.
type Costs = Vec<(String, u64)>;

fn main() {
    println!("jail: {ROUNDS} rounds each, microseconds");
    table("process", jail_process);
    table("seccomp, per thread", install_filters);
    table("user and network namespace alone", || {
        vec![unshare_network()]
    });
    table("for comparison: fork and exit alone", Vec::new);
}

fn jail_process() -> Costs {
    let options = JailOptions {
        max_file_bytes: 1 << 34,
        max_descriptors: 256,
        max_threads: 8,
    };
    let kept: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|m| !m.is_dir()))
        .collect();
    let start = Instant::now();
    let report = jail::enter_process(&kept, &options).expect("the jail closes");
    let total = micros(start);
    let mut costs: Costs = Vec::new();
    for line in report.layers {
        let missing = match line.outcome {
            Outcome::Applied(_) => String::new(),
            Outcome::Unavailable(why) => format!(" unavailable: {why}"),
        };
        costs.push((format!("{:?}{missing}", line.layer), line.microseconds));
    }
    costs.push(("all of enter_process".into(), total));
    costs
}

fn install_filters() -> Costs {
    let mut costs = Costs::new();
    for kind in KINDS {
        let start = Instant::now();
        jail::compile(kind).expect("compiles");
        costs.push((format!("compile {kind:?}"), micros(start)));
    }
    // The last filter of this thread must still let it report and exit.
    let start = Instant::now();
    jail::filter_thread(ThreadKind::Main).expect("installs");
    costs.push(("compile and install Main".into(), micros(start)));
    costs
}

fn unshare_network() -> (String, u64) {
    let start = Instant::now();
    // SAFETY: a fresh single-threaded child that does nothing else.
    let result = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) };
    (format!("unshare = {result}"), micros(start))
}

/// Runs `round` in children and prints the median and the 95th percentile of each cost, and of the
/// time that the child's end takes.
fn table(title: &str, round: impl Fn() -> Costs) {
    let mut columns: BTreeMap<(usize, String), Vec<u64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let (costs, end) = in_child(&round);
        let costs = costs
            .into_iter()
            .chain([("end of the process".to_owned(), end)]);
        for (index, (name, cost)) in costs.enumerate() {
            columns.entry((index, name)).or_default().push(cost);
        }
    }
    println!("\n{title:<40} {:>8} {:>8}", "median", "p95");
    for ((_, name), mut values) in columns {
        values.sort_unstable();
        println!(
            "  {name:<38} {:>8} {:>8}",
            values[values.len() / 2],
            values[values.len() * 95 / 100]
        );
    }
}

fn in_child(round: impl Fn() -> Costs) -> (Costs, u64) {
    let (mut from_child, mut to_parent) = std::io::pipe().expect("pipe");
    // SAFETY: this process has one thread, so the child may use everything.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let text = serde_json::to_vec(&round()).expect("plain data");
        let written = to_parent.write_all(&text).is_ok();
        // SAFETY: ends the child; nothing of the parent's is flushed twice.
        unsafe { libc::_exit(i32::from(!written)) };
    }
    drop(to_parent);
    let mut text = Vec::new();
    from_child.read_to_end(&mut text).expect("pipe is readable");
    let start = Instant::now();
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the child failed");
    (
        serde_json::from_slice(&text).expect("the child reports"),
        micros(start),
    )
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
