//! Network interfaces by their ioctls: loopback up, and the Ethernet address of this sandbox.

use std::{fs, io, os::fd::AsRawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// Brings the loopback interface up; says so if that fails, as steps can do without.
pub(super) fn loopback_up() {
    if let Err(error) = up("lo") {
        eprintln!("mayfly-guest: bringing up the loopback interface: {error}");
    }
}

fn up(interface: &str) -> io::Result<()> {
    let mut request = request(interface)?;
    // Both flags fit a short.
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    control(libc::SIOCSIFFLAGS, &mut request)
}

/// The first interface that is not loopback.
pub(super) fn interface() -> Option<String> {
    let entries = fs::read_dir("/sys/class/net").ok()?;
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name != "lo").min()
}

/// Gives an interface an address.
pub(super) fn set_mac(interface: &str, mac: Mac) -> io::Result<()> {
    let mut request = request(interface)?;
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = libc::sockaddr {
        sa_family: libc::ARPHRD_ETHER,
        sa_data: data,
    };
    control(libc::SIOCSIFHWADDR, &mut request)
}

/// Reads an interface's address.
pub(super) fn mac(interface: &str) -> io::Result<String> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/address"))?;
    Ok(text.trim().to_owned())
}

/// Reads an address in its usual form.
pub(super) fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    // Bit 0 of the first byte marks a group, which no interface is.
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

fn request(interface: &str) -> io::Result<libc::ifreq> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(libc::ifreq {
        ifr_name: name,
        // SAFETY: the union is of integers, arrays of them and a pointer; all zero is valid.
        ifr_ifru: unsafe { std::mem::zeroed() },
    })
}

fn control(number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    // SAFETY: `number` is one of the two requests above, which read (and may write) one `ifreq`,
    // and `request` is one that lives and is not shared during the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), number as _, request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_address_is_read_and_a_wrong_one_is_not() {
        assert_eq!(parse_mac("02:00:00:00:0a:ff"), Some([2, 0, 0, 0, 10, 255]));
        for wrong in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "03:00:00:00:00:00",
            "+2:0::",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }
}
