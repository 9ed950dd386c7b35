//! Addresses of the link between a sandbox and its worker. Each sandbox is alone on its link, so all
//! have the same ones; only the MAC address is its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Largest IP packet on the link: a multiple of eight that IPv4's 16 bits can count.
pub const DEFAULT_MTU: usize = 65_520;

/// Who is who on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The guest's Ethernet address.
    pub guest_mac: [u8; 6],
    /// The gateway's Ethernet address.
    pub gateway_mac: [u8; 6],
    /// The guest's IPv4 address.
    pub guest_v4: Ipv4Addr,
    /// The gateway's IPv4 address: router and name server.
    pub gateway_v4: Ipv4Addr,
    /// Length of the IPv4 network's prefix.
    pub prefix_v4: u8,
    /// The guest's IPv6 address. It is a unique local one, so that hosts with both kinds of address
    /// are reached over IPv4 first (RFC 6724), which more hosts of workers have.
    pub guest_v6: Ipv6Addr,
    /// The gateway's IPv6 address: router and name server.
    pub gateway_v6: Ipv6Addr,
    /// Length of the IPv6 network's prefix.
    pub prefix_v6: u8,
    /// Largest IP packet on the link.
    pub mtu: usize,
}

impl Addresses {
    /// The addresses of every sandbox, with the MAC address of this one.
    #[must_use]
    pub fn of(guest_mac: [u8; 6]) -> Self {
        Self {
            guest_mac,
            gateway_mac: [0x02, 0x4d, 0x61, 0x79, 0x66, 0x6c],
            guest_v4: Ipv4Addr::new(10, 0, 2, 15),
            gateway_v4: Ipv4Addr::new(10, 0, 2, 2),
            prefix_v4: 24,
            guest_v6: Ipv6Addr::new(0xfd4d, 0x6179, 0x666c, 0, 0, 0, 0, 15),
            gateway_v6: Ipv6Addr::new(0xfd4d, 0x6179, 0x666c, 0, 0, 0, 0, 2),
            prefix_v6: 64,
            mtu: DEFAULT_MTU,
        }
    }

    /// Whether `address` is the gateway's: what goes there is for the worker itself.
    #[must_use]
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.gateway_v4,
            IpAddr::V6(address) => address == self.gateway_v6,
        }
    }

    /// Whether `address` is the guest's.
    #[must_use]
    pub fn is_guest(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.guest_v4,
            IpAddr::V6(address) => address == self.guest_v6,
        }
    }

    /// Whether `address` is on the link: nothing but guest and gateway is there.
    #[must_use]
    pub fn is_on_link(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX << (32 - u32::from(self.prefix_v4.clamp(1, 32)));
                (address.to_bits() ^ self.guest_v4.to_bits()) & mask == 0
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX << (128 - u32::from(self.prefix_v6.clamp(1, 128)));
                (address.to_bits() ^ self.guest_v6.to_bits()) & mask == 0
            }
        }
    }
}
