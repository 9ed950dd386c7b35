//! The packet header (virtio 1.2, section 5.10.6) and its constants.

/// Bytes of a header.
pub(super) const HEADER_LEN: usize = 44;
/// The host's context identifier.
pub(super) const HOST_CID: u64 = 2;

/// The only type of socket here.
pub(super) const TYPE_STREAM: u16 = 1;

pub(super) const OP_REQUEST: u16 = 1;
pub(super) const OP_RESPONSE: u16 = 2;
pub(super) const OP_RST: u16 = 3;
pub(super) const OP_SHUTDOWN: u16 = 4;
pub(super) const OP_RW: u16 = 5;
pub(super) const OP_CREDIT_UPDATE: u16 = 6;
pub(super) const OP_CREDIT_REQUEST: u16 = 7;

/// The sender of `OP_SHUTDOWN` receives no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// The sender of `OP_SHUTDOWN` sends no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// Both.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// Event that makes the guest drop its connections and read its context identifier again.
pub(super) const EVENT_TRANSPORT_RESET: u32 = 0;

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) target_cid: u64,
    pub(super) source_port: u32,
    pub(super) target_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buffer_size: u32,
    pub(super) forwarded: u32,
}

impl Header {
    pub(super) fn parse(raw: &[u8; HEADER_LEN]) -> Self {
        let half = |at: usize| u16::from_le_bytes([raw[at], raw[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            source_cid: long(0),
            target_cid: long(8),
            source_port: word(16),
            target_port: word(20),
            len: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            buffer_size: word(36),
            forwarded: word(40),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut raw = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.source_cid.to_le_bytes());
        put(8, &self.target_cid.to_le_bytes());
        put(16, &self.source_port.to_le_bytes());
        put(20, &self.target_port.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.op.to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buffer_size.to_le_bytes());
        put(40, &self.forwarded.to_le_bytes());
        raw
    }

    /// The reset that answers this packet.
    pub(super) fn reset(&self) -> Self {
        Self {
            source_cid: self.target_cid,
            target_cid: self.source_cid,
            source_port: self.target_port,
            target_port: self.source_port,
            kind: self.kind,
            op: OP_RST,
            ..Self::default()
        }
    }
}
