//! Network interfaces by their ioctls: loopback up, and the addresses and routes of this sandbox.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::wire::NetworkRequest;

/// How long the interface may take to see that its link is up.
const CARRIER: Duration = Duration::from_secs(5);

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

/// Gives an interface its addresses and routes, and waits until its link is up.
pub(super) fn configure(interface: &str, own: &NetworkRequest) -> io::Result<()> {
    let at = |step: &'static str| {
        move |error: io::Error| io::Error::new(error.kind(), format!("{step}: {error}"))
    };
    // Nothing else is on the link: no other router, and nobody who could have the address already.
    for (name, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/{name}");
        fs::write(path, value).map_err(at("settings of IPv6"))?;
    }
    let index = interface_index(interface).map_err(at("its index"))?;
    set_mtu(interface, own.mtu).map_err(at("its MTU"))?;
    set_address_v4(interface, own).map_err(at("its IPv4 address"))?;
    up(interface).map_err(at("up"))?;
    set_address_v6(index, own).map_err(at("its IPv6 address"))?;
    route_v4(own.gateway_v4).map_err(at("its IPv4 route"))?;
    route_v6(index, own.gateway_v6).map_err(at("its IPv6 route"))?;
    wait_for_carrier(interface).map_err(at("its link"))
}

fn interface_index(interface: &str) -> io::Result<libc::c_int> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?;
    text.trim().parse().map_err(io::Error::other)
}

fn set_mtu(interface: &str, mtu: u32) -> io::Result<()> {
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_mtu = mtu.try_into().map_err(io::Error::other)?;
    control(libc::SIOCSIFMTU, &mut request)
}

fn set_address_v4(interface: &str, own: &NetworkRequest) -> io::Result<()> {
    let mask = Ipv4Addr::from_bits(u32::MAX << (32 - u32::from(own.prefix_v4.clamp(1, 32))));
    for (number, address) in [
        (libc::SIOCSIFADDR, own.address_v4),
        (libc::SIOCSIFNETMASK, mask),
    ] {
        let mut request = request(interface)?;
        request.ifr_ifru.ifru_addr = socket_address(address);
        control(number, &mut request)?;
    }
    Ok(())
}

/// `struct sockaddr_in` as the generic one: port, then address.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

fn route_v4(gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: the structure is of integers, addresses made of them, and pointers; all zero is valid.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: SIOCADDRT of an IPv4 socket reads one `rtentry`, whose device name may be null.
    unsafe { call(AddressFamily::INET, libc::SIOCADDRT, &raw mut route) }
}

fn set_address_v6(index: libc::c_int, own: &NetworkRequest) -> io::Result<()> {
    let mut request = libc::in6_ifreq {
        ifr6_addr: in6(own.address_v6),
        ifr6_prefixlen: own.prefix_v6.into(),
        ifr6_ifindex: index,
    };
    // SAFETY: SIOCSIFADDR of an IPv6 socket reads one `in6_ifreq`.
    unsafe { call(AddressFamily::INET6, libc::SIOCSIFADDR, &raw mut request) }
}

/// The kernel's `struct in6_rtmsg`.
#[repr(C)]
struct RouteV6 {
    destination: libc::in6_addr,
    source: libc::in6_addr,
    gateway: libc::in6_addr,
    kind: u32,
    destination_length: u16,
    source_length: u16,
    metric: u32,
    info: libc::c_ulong,
    flags: u32,
    interface: libc::c_int,
}

fn route_v6(index: libc::c_int, gateway: Ipv6Addr) -> io::Result<()> {
    let mut route = RouteV6 {
        destination: in6(Ipv6Addr::UNSPECIFIED),
        source: in6(Ipv6Addr::UNSPECIFIED),
        gateway: in6(gateway),
        kind: 0,
        destination_length: 0,
        source_length: 0,
        metric: 1,
        info: 0,
        flags: u32::from(libc::RTF_UP | libc::RTF_GATEWAY),
        interface: index,
    };
    // SAFETY: SIOCADDRT of an IPv6 socket reads one `in6_rtmsg`, which this is.
    unsafe { call(AddressFamily::INET6, libc::SIOCADDRT, &raw mut route) }
}

fn in6(address: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr {
        s6_addr: address.octets(),
    }
}

/// The driver learns of the link by an interrupt, after the machine was restored.
fn wait_for_carrier(interface: &str) -> io::Result<()> {
    let file = format!("/sys/class/net/{interface}/carrier");
    let begun = Instant::now();
    while fs::read_to_string(&file)?.trim() != "1" {
        if begun.elapsed() > CARRIER {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn control(number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: `number` is one of the requests above of an interface by its name, which read (and may
    // write) one `ifreq`, and `request` is one that lives and is not shared during the call.
    unsafe { call(AddressFamily::INET, number, request) }
}

/// # Safety
/// `request` must be what the request `number` of a socket of that family reads and writes.
unsafe fn call<T>(family: AddressFamily, number: libc::c_ulong, request: *mut T) -> io::Result<()> {
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: the caller's promise.
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
