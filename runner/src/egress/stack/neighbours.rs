//! Who has which address on the link: ARP and IPv6's neighbour discovery, answered for the gateway.

use std::net::{IpAddr, Ipv6Addr};

use super::address::Addresses;
use super::craft;
use super::packet::{ETHERNET, Packet};

/// Answers the guest's question for the gateway's IPv4 address.
pub(super) fn arp(addresses: &Addresses, message: &[u8]) -> Option<Vec<u8>> {
    const ETHERNET_AND_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let message: &[u8; 28] = message.first_chunk()?;
    let asks = message[..6] == ETHERNET_AND_IPV4 && message[6..8] == [0, 1];
    if !asks || message[24..] != addresses.gateway_v4.octets() {
        return None;
    }
    let mut frame = Vec::with_capacity(ETHERNET + 28);
    frame.extend(addresses.guest_mac);
    frame.extend(addresses.gateway_mac);
    frame.extend([0x08, 0x06]);
    frame.extend(ETHERNET_AND_IPV4);
    frame.extend([0, 2]);
    frame.extend(addresses.gateway_mac);
    frame.extend(&message[24..]);
    frame.extend(&message[8..18]);
    Some(frame)
}

/// Answers the guest's neighbour solicitation for the gateway's IPv6 address.
pub(super) fn solicitation(addresses: &Addresses, packet: &Packet<'_>) -> Option<Vec<u8>> {
    let message: &[u8; 24] = packet.payload.first_chunk()?;
    let target = Ipv6Addr::from_octets(*message[8..].first_chunk()?);
    // From nobody: the guest asks whether somebody has the address that it wants.
    let unnamed = packet.source == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    if message[0] != 135 || target != addresses.gateway_v6 || unnamed {
        return None;
    }
    const ROUTER_SOLICITED_OVERRIDE: u8 = 0xe0;
    let mut answer = vec![136, 0, 0, 0, ROUTER_SOLICITED_OVERRIDE, 0, 0, 0];
    answer.extend(target.octets());
    answer.extend([2, 1]);
    answer.extend(addresses.gateway_mac);
    craft::icmp_v6(addresses, (target.into(), packet.source), &answer)
}
