//! Ranges of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// It reads as nothing.
    #[error("`{0}` is no range of addresses: write 10.0.0.0/8, 2001:db8::/32 or one address")]
    NoRange(String),
    /// Bits behind the prefix are set: a slip in one of both.
    #[error("`{text}` has bits behind its prefix: the range is {range}")]
    Bits {
        /// As written.
        text: String,
        /// What it would be.
        range: String,
    },
}

impl Cidr {
    /// The range of one address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let address = canonical(address);
        Self {
            address,
            prefix: width(address),
        }
    }

    /// Whether `address` lies in it. An IPv4 address in IPv6's clothes is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        let masked = mask(address, self.prefix);
        address.is_ipv4() == self.address.is_ipv4() && masked == bits(self.address)
    }

    /// Whether it is small enough to say that its addresses are meant, each: what names `0.0.0.0/0`
    /// does not mean the host's own loopback.
    #[must_use]
    pub fn names_its_addresses(&self) -> bool {
        let least = if self.address.is_ipv4() { 8 } else { 7 };
        self.prefix >= least
    }
}

/// The address that is meant.
pub(super) fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u128::from(four.to_bits()),
        IpAddr::V6(six) => six.to_bits(),
    }
}

fn mask(address: IpAddr, prefix: u8) -> u128 {
    let behind = u32::from(width(address).saturating_sub(prefix));
    let kept = u128::MAX.checked_shl(behind).unwrap_or(0);
    bits(address) & kept
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || CidrError::NoRange(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = width(address);
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
            None => width,
        };
        if prefix > width || canonical(address) != address {
            return Err(wrong());
        }
        let masked = mask(address, prefix);
        let range = Self {
            address: match address {
                IpAddr::V4(_) => IpAddr::V4(u32::try_from(masked).unwrap_or(0).into()),
                IpAddr::V6(_) => IpAddr::V6(masked.into()),
            },
            prefix,
        };
        if masked != bits(address) {
            return Err(CidrError::Bits {
                text: text.to_owned(),
                range: range.to_string(),
            });
        }
        Ok(range)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> Self {
        range.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == width(self.address) {
            return write!(f, "{}", self.address);
        }
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
