//! VMGENID: a 128-bit identifier in guest memory that differs in every machine, and the event that
//! tells a restored guest of its change.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::arch::layout;

/// Identifier of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationId([u8; 16]);

/// An identifier that is not 32 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("generation_id must be 32 hexadecimal digits, not {length} bytes of other text")]
pub struct GenerationIdError {
    length: usize,
}

impl std::str::FromStr for GenerationId {
    type Err = GenerationIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| GenerationIdError { length: text.len() })?;
        Ok(Self(bytes))
    }
}

impl GenerationId {
    /// Puts the identifier where the ACPI tables say it is.
    ///
    /// # Errors
    /// When guest memory does not reach that far.
    pub fn write(self, memory: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
        memory.write_slice(&self.0, GuestAddress(layout::GENERATION_ID))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identifier_is_where_the_dsdt_says() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let id: GenerationId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        id.write(&memory).unwrap();
        let mut found = [0; 16];
        memory
            .read_slice(&mut found, GuestAddress(0xd_0000))
            .unwrap();
        assert_eq!(found[15], 15);
    }

    #[test]
    fn other_text_is_refused() {
        assert!("0001".parse::<GenerationId>().is_err());
        assert!("g".repeat(32).parse::<GenerationId>().is_err());
    }
}
