//! Resolvers that answer over HTTPS, by name and by address: a way around the gateway's DNS.
//!
//! The list cannot be whole. In `enforce` what no rule names is denied anyhow; the list keeps wide rules
//! (`host = "*"`), `audit` from letting the known ones through.

use std::net::IpAddr;

use super::cidr::canonical;

const NAMES: [&str; 24] = [
    "1dot1dot1dot1.cloudflare-dns.com",
    "chrome.cloudflare-dns.com",
    "cloudflare-dns.com",
    "dns.adguard-dns.com",
    "dns.alidns.com",
    "dns.cloudflare.com",
    "dns.google",
    "dns.google.com",
    "dns.mullvad.net",
    "dns.nextdns.io",
    "dns.quad9.net",
    "dns10.quad9.net",
    "dns11.quad9.net",
    "dns9.quad9.net",
    "doh.cleanbrowsing.org",
    "doh.dns.sb",
    "doh.opendns.com",
    "doh.pub",
    "doh.umbrella.com",
    "freedns.controld.com",
    "mozilla.cloudflare-dns.com",
    "one.one.one.one",
    "security.cloudflare-dns.com",
    "unfiltered.adguard-dns.com",
];

const ADDRESSES: [&str; 16] = [
    "1.0.0.1",
    "1.1.1.1",
    "8.8.4.4",
    "8.8.8.8",
    "9.9.9.9",
    "149.112.112.112",
    "208.67.220.220",
    "208.67.222.222",
    "94.140.14.14",
    "94.140.15.15",
    "2001:4860:4860::8844",
    "2001:4860:4860::8888",
    "2606:4700:4700::1001",
    "2606:4700:4700::1111",
    "2620:fe::9",
    "2620:fe::fe",
];

/// Whether a name is that of such a resolver.
pub(super) fn is_resolver(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether an address is that of such a resolver.
pub(super) fn is_resolver_address(address: IpAddr) -> bool {
    let address = canonical(address);
    let known = |text: &str| text.parse() == Ok(address);
    ADDRESSES.iter().any(|text| known(text))
}
