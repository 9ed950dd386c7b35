//! Restore, memory and throughput of sandboxes, printed with their conditions.
//!
//! `cargo bench -p mayfly-tests --bench restore [-- --json]`. Where the host has no usable KVM the
//! bench runs itself on the emulated machine and says so; then only ratios mean something.

use std::{
    fs,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mayfly::sandbox::microvm::MicroVm;
use mayfly_tests::{conditions::Conditions, ensure_kvm, guests::Guests, measured, spread::Spread};
use mayfly_vmm::config::MachineConfig;
use serde::Serialize;

/// Restores of which the median is told.
const ROUNDS: usize = 15;
/// The machine of design.md's reference figures.
const SIZE: MachineConfig = MachineConfig {
    vcpus: 1,
    memory_mib: 256,
};

#[derive(Debug, Serialize)]
struct Report {
    conditions: Conditions,
    snapshot_mib_on_disk: f64,
    spawn_to_first_instruction_ms: Spread,
    spawn_to_identity_ms: Spread,
    private_guest_mib_idle: f64,
    private_vmm_mib_idle: f64,
    sandboxes_per_second: Vec<Rate>,
}

#[derive(Debug, Serialize)]
struct Rate {
    at_once: usize,
    per_second: f64,
}

fn main() -> ExitCode {
    if let Err(why) = ensure_kvm() {
        eprintln!("not measured: {why}");
        return ExitCode::from(3);
    }
    measured::tell(measure(), print)
}

async fn measure() -> Result<Report> {
    let guests = Guests::open(SIZE).await?;
    // The first restore warms the page cache; its times are those of a cold one and left out.
    guests.restore().await?.end().await;
    let (mut first_instruction, mut identity) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let sandbox = guests.restore().await?;
        let entered = sandbox.statistics()?.first_entry_ns;
        first_instruction.push(Duration::from_nanos(
            entered.context("the VMM did not say when")?,
        ));
        identity.push(sandbox.ready_after);
        sandbox.end().await;
    }
    let (guest, vmm) = memory(&guests).await?;
    let mut rates = Vec::new();
    for at_once in [1, 4, 16] {
        let per_second = rate(&guests, at_once).await?;
        rates.push(Rate {
            at_once,
            per_second,
        });
    }
    Ok(Report {
        conditions: Conditions::here(SIZE, &guests),
        snapshot_mib_on_disk: mib(guests.template().snapshot.disk_bytes()),
        spawn_to_first_instruction_ms: Spread::of(first_instruction),
        spawn_to_identity_ms: Spread::of(identity),
        private_guest_mib_idle: guest,
        private_vmm_mib_idle: vmm,
        sandboxes_per_second: rates,
    })
}

/// Private memory of an idle sandbox: pages of the guest that it no longer shares with the
/// snapshot, and the VMM's own.
async fn memory(guests: &Guests) -> Result<(f64, f64)> {
    let sandbox = guests.restore().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let path = format!("/proc/{}/smaps", sandbox.vmm_process());
    let smaps = fs::read_to_string(&path).with_context(|| format!("{path} (needs root)"))?;
    sandbox.end().await;
    let (mut guest, mut vmm, mut is_guest) = (0, 0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Private_Dirty:" | "Private_Clean:") => {
                let kib: u64 = words.next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
                // Clean pages of the snapshot's file are page cache that every sandbox shares,
                // "private" only while a single one maps them.
                if is_guest && line.starts_with("Private_Dirty") {
                    guest += kib;
                } else if !is_guest {
                    vmm += kib;
                }
            }
            Some(range) if range.contains('-') && !range.ends_with(':') => {
                is_guest = line.contains("/snapshots/") && line.ends_with("/memory");
            }
            _ => {}
        }
    }
    Ok((mib(guest * 1024), mib(vmm * 1024)))
}

/// Sandboxes that are restored, identified and destroyed in a second, with so many at once.
async fn rate(guests: &Guests, at_once: usize) -> Result<f64> {
    let total = ROUNDS.max(at_once * 2);
    let begun = Instant::now();
    let mut done = 0;
    while done < total {
        let batch = at_once.min(total - done);
        for sandbox in restore_at_once(guests, batch).await? {
            sandbox.end().await;
        }
        done += batch;
    }
    Ok(total as f64 / begun.elapsed().as_secs_f64())
}

async fn restore_at_once(guests: &Guests, count: usize) -> Result<Vec<MicroVm>> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let guests = guests.clone();
        tasks.spawn(async move { guests.restore().await });
    }
    tasks.join_all().await.into_iter().collect()
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn print(report: &Report) {
    println!("{}", report.conditions);
    let spread = |what: &str, spread: &Spread| println!("{what:<48} {spread}");
    let size = |what: &str, mib: f64| println!("{what:<48} {mib:>8.1} MiB");
    spread(
        "VMM spawn to first guest instruction",
        &report.spawn_to_first_instruction_ms,
    );
    spread(
        "VMM spawn to acknowledged identity",
        &report.spawn_to_identity_ms,
    );
    size("snapshot on disk", report.snapshot_mib_on_disk);
    size(
        "idle sandbox: private guest memory",
        report.private_guest_mib_idle,
    );
    size("idle sandbox: VMM itself", report.private_vmm_mib_idle);
    for rate in &report.sandboxes_per_second {
        let what = format!("sandboxes restored and destroyed, {} at once", rate.at_once);
        println!("{what:<48} {:>8.2} /s", rate.per_second);
    }
}
