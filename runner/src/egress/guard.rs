//! Which addresses are the host's side: what a sandbox must not reach unless a rule names it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Networks of IPv4 that are not the Internet's: private ones, those of providers behind which hosts
/// share an address, loopback, the link's (with the metadata service of clouds), and what is nobody's.
const NETWORKS_V4: [(Ipv4Addr, u32); 13] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    // With 169.254.169.254, where clouds tell a machine its credentials.
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
    // Azure's agent of the host.
    (Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// Networks of IPv6 of the same kinds.
const NETWORKS_V6: [(Ipv6Addr, u32); 9] = [
    // Unspecified, loopback, and IPv4 in its oldest form, of which none is routed.
    (Ipv6Addr::UNSPECIFIED, 96),
    // NAT64 of the own network (RFC 8215): where it leads, only that network knows.
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    // Teredo, which hides an IPv4 address and is no longer used.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    // With fd00:ec2::254, where a cloud tells a machine its credentials.
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16),
];

/// Whether `address` is the host's side: loopback, private, the link's, a metadata service, a group's,
/// one of the host's own, or any of these inside an IPv6 address.
#[must_use]
pub fn is_host_side(address: IpAddr) -> bool {
    let inner = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => embedded(address),
    };
    let one = |address: IpAddr| is_special(address) || is_own(address);
    one(address) || inner.is_some_and(|inner| one(inner.into()))
}

fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => NETWORKS_V4
            .iter()
            .any(|(network, length)| (address.to_bits() ^ network.to_bits()) >> (32 - length) == 0),
        IpAddr::V6(address) => {
            // The mapped form stands for its IPv4 address, which is looked at by itself.
            address.to_ipv4_mapped().is_none()
                && NETWORKS_V6.iter().any(|(network, length)| {
                    (address.to_bits() ^ network.to_bits()) >> (128 - length) == 0
                })
        }
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped, 6to4, NAT64 with its well-known prefix, or
/// ISATAP.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let last = Ipv4Addr::from_bits(address.to_bits() as u32);
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last),
        [0x2002, high, low, ..] => {
            Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
        }
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Some(last),
        _ => None,
    }
}

/// Whether `address` is one of the host's own: the kernel lets nobody else bind to it. A socket that
/// cannot be had counts as a yes.
fn is_own(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => {
            !matches!(
                error.kind(),
                // The kernel has no IPv6 at all, or not this address.
                io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
            ) && error.raw_os_error() != Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_host_side;

    fn host_side(address: &str) -> bool {
        is_host_side(address.parse().unwrap())
    }

    #[test]
    fn the_hosts_side_is_known_in_every_form() {
        for address in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "198.19.0.1",
            "192.0.0.8",
            "240.0.0.1",
            "::",
            "::1",
            "::127.0.0.1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2001:0:1::1",
            "2001:db8::5efe:10.0.0.1",
            "2001:db8::200:5efe:127.0.0.1",
        ] {
            assert!(host_side(address), "{address}");
        }
    }

    #[test]
    fn the_internet_is_not() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "169.253.255.255",
            "192.167.255.255",
            "192.0.2.1",
            "223.255.255.255",
            "168.63.129.17",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "2002:808:808::1",
            "64:ff9b::808:808",
            "2001:1::1",
        ] {
            assert!(!host_side(address), "{address}");
        }
    }

    #[test]
    fn what_the_host_itself_has_is_its_side() {
        // The address that the host would use towards the Internet, if it has one.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("198.51.100.1:9").is_ok() {
            assert!(is_host_side(socket.local_addr().unwrap().ip()));
            assert!(super::is_own(socket.local_addr().unwrap().ip()));
        }
        assert!(super::is_own("127.0.0.1".parse().unwrap()));
    }
}
