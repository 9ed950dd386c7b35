//! smoltcp's side of the link: one packet in, and frames out as they are made.

use std::cell::RefCell;

use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken,
};
use smoltcp::time::Instant;

use super::craft;
use super::link::Sent;
use super::packet::ETHERNET;
use super::shared::Shared;

thread_local! {
    /// Where frames are made: one place for all connections.
    static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a connection keeps of the link between calls.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// A frame for which there was no room.
    pub(super) frame: Option<Vec<u8>>,
}

impl Kept {
    /// Tries the kept frame again; whether there is none any more.
    pub(super) fn flush(&mut self, shared: &Shared) -> bool {
        if let Some(frame) = self.frame.take()
            && shared.link.send(&frame) == Sent::Later
        {
            self.frame = Some(frame);
        }
        self.frame.is_none()
    }
}

/// The link for the time of one call.
#[derive(Debug)]
pub(super) struct Wire<'a> {
    pub(super) shared: &'a Shared,
    pub(super) packet: Option<&'a [u8]>,
    pub(super) kept: &'a mut Kept,
}

impl Device for Wire<'_> {
    type RxToken<'a>
        = In<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Out<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(In<'_>, Out<'_>)> {
        let packet = self.packet.take()?;
        let out = Out {
            shared: self.shared,
            kept: self.kept,
        };
        Some((In(packet), out))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        self.kept.frame.is_none().then_some(Out {
            shared: self.shared,
            kept: self.kept,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.shared.addresses.mtu;
        // What the guest sends comes over memory, which does not turn bits.
        let mut checksum = ChecksumCapabilities::default();
        checksum.ipv4 = Checksum::Tx;
        checksum.tcp = Checksum::Tx;
        capabilities.checksum = checksum;
        capabilities
    }
}

/// The packet that came.
#[derive(Debug)]
pub(super) struct In<'a>(&'a [u8]);

impl RxToken for In<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a packet to the guest.
#[derive(Debug)]
pub(super) struct Out<'a> {
    shared: &'a Shared,
    kept: &'a mut Kept,
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        FRAME.with_borrow_mut(|frame| {
            if frame.len() < ETHERNET + length {
                frame.resize(ETHERNET + length, 0);
            }
            let frame = &mut frame[..ETHERNET + length];
            let (header, packet) = frame.split_at_mut(ETHERNET);
            let result = f(packet);
            let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
            header.copy_from_slice(&craft::ethernet_header(&self.shared.addresses, v6));
            if self.shared.link.send(frame) == Sent::Later {
                // An answer beside a kept frame is lost, which TCP mends.
                self.kept.frame.get_or_insert_with(|| frame.to_vec());
            } else {
                self.shared.count_out(frame.len());
            }
            result
        })
    }
}
