//! Turns a restored copy of the template into one sandbox (design: uniqueness), and reads back from
//! the system what it then is.
//!
//! The order matters: time first, as it was taken when the worker sent the request; then the random
//! pool, before anything could draw from the state that all copies share.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    mount::mount_bind,
    time::{ClockId, Timespec, clock_settime},
};
use thiserror::Error;
use zeroize::Zeroize;

use super::{network, settings};
use crate::wire::{IdentityProof, IdentityRequest, NetworkRequest};

/// 2020-01-01: an earlier clock is a mistake.
const EARLIEST_NS: u64 = 1_577_836_800 * 1_000_000_000;
/// 2100-01-01: a later clock is a mistake.
const LATEST_NS: u64 = 4_102_444_800 * 1_000_000_000;
const ENTROPY: std::ops::RangeInclusive<usize> = 64..=512;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why the identity was not taken. The sandbox must be destroyed then.
#[derive(Debug, Error)]
pub(super) enum IdentityError {
    /// The request itself is wrong.
    #[error("{0} is not acceptable")]
    Invalid(&'static str),
    /// A step failed.
    #[error("{0}: {1}")]
    Step(&'static str, io::Error),
}

/// Takes the identity and proves it.
pub(super) fn take(request: &IdentityRequest) -> Result<IdentityProof, IdentityError> {
    let mac = check(request)?;
    set_clock(request.clock_ns).map_err(at("setting the clock"))?;
    reseed(&request.entropy).map_err(at("reseeding the random pool"))?;
    set_names(request).map_err(at("writing the names"))?;
    set_boot_id(&request.boot_id).map_err(at("setting the boot id"))?;
    let mac = mac
        .map(set_mac)
        .transpose()
        .map_err(at("setting the MAC address"))?;
    if let Some(own) = &request.network {
        set_network(own).map_err(at("bringing the network up"))?;
    }
    read_back(request, mac).map_err(at("reading the identity back"))
}

fn at(step: &'static str) -> impl FnOnce(io::Error) -> IdentityError {
    move |error| IdentityError::Step(step, error)
}

fn check(request: &IdentityRequest) -> Result<Option<network::Mac>, IdentityError> {
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let name = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || c == '-';
    let uuid = |text: &str| {
        text.len() == 36
            && text.char_indices().all(|(at, c)| match at {
                8 | 13 | 18 | 23 => c == '-',
                _ => hex(c),
            })
    };
    let hostname = &request.hostname;
    if !ENTROPY.contains(&request.entropy.len()) {
        return Err(IdentityError::Invalid("the length of the entropy"));
    }
    if !(EARLIEST_NS..LATEST_NS).contains(&request.clock_ns) {
        return Err(IdentityError::Invalid("the time"));
    }
    if !(1..=63).contains(&hostname.len()) || !hostname.chars().all(name) {
        return Err(IdentityError::Invalid("the host name"));
    }
    if request.machine_id.len() != 32 || !request.machine_id.chars().all(hex) {
        return Err(IdentityError::Invalid("the machine id"));
    }
    if !uuid(&request.boot_id) {
        return Err(IdentityError::Invalid("the boot id"));
    }
    if request.nonce.is_empty() || request.nonce.len() > 128 || !request.nonce.chars().all(hex) {
        return Err(IdentityError::Invalid("the nonce"));
    }
    if let Some(own) = &request.network
        && !((1..=30).contains(&own.prefix_v4)
            && (1..=126).contains(&own.prefix_v6)
            && (1280..=65_535).contains(&own.mtu))
    {
        return Err(IdentityError::Invalid("the network"));
    }
    let mac = request.mac.as_deref();
    let mac =
        mac.map(|mac| network::parse_mac(mac).ok_or(IdentityError::Invalid("the MAC address")));
    mac.transpose()
}

fn set_clock(clock_ns: u64) -> io::Result<()> {
    // Checked above: both parts fit.
    let time = Timespec {
        tv_sec: (clock_ns / 1_000_000_000) as i64,
        tv_nsec: (clock_ns % 1_000_000_000) as i64,
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// The kernel's `struct rand_pool_info` with room for the largest entropy.
#[repr(C)]
struct PoolInfo {
    /// Bits that the pool may count.
    entropy_count: libc::c_int,
    /// Bytes in `buffer`.
    buffer_size: libc::c_int,
    buffer: [u8; 512],
}

/// Mixes the bytes into the pool (RNDADDENTROPY), and has the generator of each CPU keyed anew from
/// it (RNDRESEEDCRNG): without the second, a copy would go on with the shared key for a while.
fn reseed(entropy: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let mut info = PoolInfo {
        entropy_count: (entropy.len() * 8) as libc::c_int,
        buffer_size: entropy.len() as libc::c_int,
        buffer: [0; 512],
    };
    info.buffer[..entropy.len()].copy_from_slice(entropy);
    let random = File::options().write(true).open("/dev/urandom")?;
    // SAFETY: RNDADDENTROPY reads a `rand_pool_info`, whose `buf_size` bytes after the two numbers
    // are inside `info`, as `check` allowed no more entropy than the buffer holds.
    let added = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, &raw const info) };
    let added = if added < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    };
    info.buffer.zeroize();
    added?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    let reseeded = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _, 0) };
    if reseeded < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn set_names(request: &IdentityRequest) -> io::Result<()> {
    let hostname = &request.hostname;
    rustix::system::sethostname(hostname.as_bytes())?;
    settings::replace("/etc/hostname", &format!("{hostname}\n"))?;
    settings::replace("/etc/hosts", &settings::hosts(hostname))?;
    settings::replace("/etc/machine-id", &format!("{}\n", request.machine_id))
}

/// The kernel's own boot id cannot be changed; a file in its place is what every reader of this
/// mount of /proc gets.
fn set_boot_id(boot_id: &str) -> io::Result<()> {
    let file = "/run/boot_id";
    settings::replace(file, &format!("{boot_id}\n"))?;
    fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o444))?;
    Ok(mount_bind(file, BOOT_ID)?)
}

fn set_mac(mac: network::Mac) -> io::Result<String> {
    let none = || io::Error::other("the machine has no network interface");
    let interface = network::interface().ok_or_else(none)?;
    network::set_mac(&interface, mac)?;
    network::mac(&interface)
}

fn set_network(own: &NetworkRequest) -> io::Result<()> {
    let none = || io::Error::other("the machine has no network interface");
    let interface = network::interface().ok_or_else(none)?;
    network::configure(&interface, own)?;
    settings::replace("/etc/resolv.conf", &settings::resolver(own.gateway_v4))
}

fn read_back(request: &IdentityRequest, mac: Option<String>) -> io::Result<IdentityProof> {
    let line = |path| fs::read_to_string(path).map(|text| text.trim_end().to_owned());
    let uname = rustix::system::uname();
    let hostname = uname.nodename().to_string_lossy().into_owned();
    let machine_id = line("/etc/machine-id")?;
    let boot_id = line(BOOT_ID)?;
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(IdentityProof {
        nonce: request.nonce.clone(),
        clock_ns: clock.as_nanos().try_into().unwrap_or(u64::MAX),
        hostname,
        machine_id,
        boot_id,
        mac,
        // Both calls above succeeded, or we were not here.
        reseeded: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> IdentityRequest {
        IdentityRequest {
            entropy: vec![1; 64],
            clock_ns: 1_700_000_000_000_000_000,
            hostname: "mayfly-1".into(),
            machine_id: "0".repeat(32),
            boot_id: "01234567-89ab-4cde-8f01-23456789abcd".into(),
            mac: Some("02:00:00:00:00:01".into()),
            network: None,
            nonce: "00ff".into(),
        }
    }

    #[test]
    fn a_right_identity_is_accepted() {
        assert_eq!(check(&request()).expect("right"), Some([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn each_wrong_part_of_an_identity_is_refused_before_anything_is_changed() {
        let spoil: [fn(&mut IdentityRequest); 10] = [
            |r| r.entropy.truncate(63),
            |r| r.entropy.resize(513, 1),
            |r| r.clock_ns = 5,
            |r| r.clock_ns = u64::MAX,
            |r| r.hostname = "a\nb".into(),
            |r| r.hostname.clear(),
            |r| r.machine_id = "0".repeat(31) + "G",
            |r| r.boot_id = "../../../etc/passwd".into(),
            |r| r.mac = Some("ff:ff:ff:ff:ff:ff".into()),
            |r| r.nonce = "x".into(),
        ];
        for spoil in spoil {
            let mut wrong = request();
            spoil(&mut wrong);
            assert!(
                matches!(check(&wrong), Err(IdentityError::Invalid(_))),
                "{wrong:?}"
            );
        }
    }
}
