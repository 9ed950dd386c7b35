//! What makes a restored sandbox this one and no other (design.md, border 3).

use rustix::rand::{GetRandomFlags, getrandom};

/// Random bytes for the kernel's pool: 512 bits, twice what its generator keys itself with.
pub const SEED_BYTES: usize = 64;

/// Values that no two sandboxes share.
#[derive(Clone)]
pub struct Uniqueness {
    /// Bytes for the guest's random pool.
    pub seed: [u8; SEED_BYTES],
    /// `/etc/machine-id`, 32 hex digits.
    pub machine_id: String,
    /// `/proc/sys/kernel/random/boot_id`, a version 4 UUID.
    pub boot_id: String,
    /// Locally administered unicast MAC address.
    pub mac: [u8; 6],
    /// vsock context identifier, 3 to 2^31.
    pub cid: u64,
    /// ACPI generation identifier, 32 hex digits.
    pub generation_id: String,
    /// Number that the guest must repeat in its acknowledgement, 32 hex digits.
    pub nonce: String,
}

impl std::fmt::Debug for Uniqueness {
    /// Leaves out the seed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uniqueness")
            .field("machine_id", &self.machine_id)
            .field("mac", &self.mac_text())
            .field("cid", &self.cid)
            .finish_non_exhaustive()
    }
}

impl Uniqueness {
    /// Draws everything from the host kernel's generator.
    ///
    /// # Errors
    /// Passes on that `getrandom` failed; no guessable value ever stands in for it.
    pub fn draw() -> std::io::Result<Self> {
        let mut seed = [0; SEED_BYTES];
        fill(&mut seed)?;
        let mut mac = [0; 6];
        fill(&mut mac)?;
        // IEEE 802: bit 1 of the first octet is "locally administered", bit 0 is "group".
        mac[0] = (mac[0] & 0xfc) | 0x02;
        let mut cid = [0; 4];
        fill(&mut cid)?;
        Ok(Self {
            seed,
            machine_id: random_hex()?,
            boot_id: uuid::Builder::from_random_bytes(random()?)
                .into_uuid()
                .to_string(),
            mac,
            cid: 3 + u64::from(u32::from_ne_bytes(cid) >> 1),
            generation_id: random_hex()?,
            nonce: random_hex()?,
        })
    }

    /// The MAC address as `02:00:00:00:00:01`.
    #[must_use]
    pub fn mac_text(&self) -> String {
        self.mac.map(|octet| format!("{octet:02x}")).join(":")
    }
}

fn random_hex() -> std::io::Result<String> {
    random().map(hex::encode)
}

fn random() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    fill(&mut bytes).map(|()| bytes)
}

fn fill(buffer: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        filled += getrandom(&mut buffer[filled..], GetRandomFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Uniqueness;

    #[test]
    fn two_draws_share_nothing() {
        let (a, b) = (Uniqueness::draw().unwrap(), Uniqueness::draw().unwrap());
        assert_ne!(a.seed, b.seed);
        assert_ne!(a.machine_id, b.machine_id);
        assert_ne!(a.boot_id, b.boot_id);
        assert_ne!(a.mac, b.mac);
        assert_ne!(a.generation_id, b.generation_id);
        assert_ne!(a.nonce, b.nonce);
    }

    #[test]
    fn every_value_has_the_form_that_its_reader_expects() {
        for _ in 0..100 {
            let drawn = Uniqueness::draw().unwrap();
            assert_eq!(drawn.mac[0] & 0b11, 0b10, "local and unicast");
            assert!((3..=1 << 31).contains(&(drawn.cid + 1)), "{}", drawn.cid);
            assert_eq!(drawn.machine_id.len(), 32);
            assert_eq!(drawn.boot_id.as_bytes()[14], b'4', "UUID version 4");
            assert!(!format!("{drawn:?}").contains(&hex::encode(drawn.seed)));
        }
    }
}
