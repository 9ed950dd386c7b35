//! Messages between a VMM and its parent, and the socket that carries them.
//!
//! One JSON document per packet of a `SOCK_SEQPACKET` socket. The parent sends [`Request`], the VMM
//! answers each with one [`Message::Reply`] in order, and sends one [`Message::Exited`] before it
//! ends. Files travel beside a request as descriptors.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{exit::ExitReason, snapshot::digest::ContentDigest, statistics::Statistics};

/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 64 << 10;
/// Most descriptors beside one message.
pub const DESCRIPTORS_MAX: usize = 4;

/// What the parent asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Repeated in the answer.
    pub id: u64,
    /// What to do.
    pub command: Command,
}

/// Commands of the parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Stops all vCPUs and devices; answered when they stand still.
    Pause,
    /// Lets a paused machine go on.
    Resume,
    /// Writes the paused machine into three empty files beside this message: memory, state, and
    /// the writable disk merged over its base.
    Snapshot,
    /// Ends the machine without asking the guest.
    Shutdown,
    /// Asks for [`Statistics`].
    Statistics,
}

/// What the VMM sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The answer to a request.
    Reply {
        /// The request's.
        id: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// The machine ended; the last message.
    Exited {
        /// Why.
        reason: ExitReason,
    },
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done and there is nothing to tell.
    Done,
    /// The machine was written.
    Snapshot(SnapshotParts),
    /// The figures.
    Statistics(Statistics),
    /// It was not done.
    Failed {
        /// Why.
        message: String,
    },
}

/// The files of a snapshot that the VMM wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotParts {
    /// Guest memory.
    pub memory: ContentDigest,
    /// Everything else.
    pub state: ContentDigest,
    /// The writable disk, private blocks merged over its base.
    pub disk: ContentDigest,
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The other side is gone.
    #[error("the other side closed the control socket")]
    Closed,
    /// The socket failed.
    #[error("control socket: {0}")]
    Socket(#[from] io::Error),
    /// A message is not what it should be. The cause may quote it, and so is escaped.
    #[error("malformed control message: {}", .0.to_string().escape_debug())]
    Malformed(#[from] serde_json::Error),
    /// A message is longer than [`MESSAGE_MAX`] or carries too many descriptors.
    #[error("a control message is too long")]
    TooLong,
}

/// One end of the control socket.
#[derive(Debug)]
pub struct ControlSocket(OwnedFd);

impl ControlSocket {
    /// Speaks over `socket`, which is of type `SOCK_SEQPACKET`.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Sends one message with descriptors beside it.
    ///
    /// # Errors
    /// [`ControlError::Closed`] when nobody can receive it any more.
    pub fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ControlError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(ControlError::TooLong);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let data = [IoSlice::new(&bytes)];
        loop {
            match sendmsg(&self.0, &data, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => {
                    return Err(ControlError::Closed);
                }
                Err(error) => return Err(ControlError::Socket(error.into())),
            }
        }
    }

    /// Waits for one message and the descriptors beside it.
    ///
    /// # Errors
    /// [`ControlError::Closed`] at the end of the conversation.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ControlError> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut data = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut data, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Err(ControlError::Closed),
                other => break other.map_err(io::Error::from)?,
            }
        };
        let descriptors = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Err(ControlError::Closed);
        }
        let cut = rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC;
        if received.flags.intersects(cut) {
            return Err(ControlError::TooLong);
        }
        Ok((
            serde_json::from_slice(&bytes[..received.bytes])?,
            descriptors,
        ))
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connected pair of control sockets.
///
/// # Errors
/// When no descriptor is left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Seek, Write},
    };

    use super::*;

    fn sockets() -> (ControlSocket, ControlSocket) {
        let (a, b) = pair().unwrap();
        (ControlSocket::new(a), ControlSocket::new(b))
    }

    #[test]
    fn a_request_arrives_with_its_files() {
        let (parent, vmm) = sockets();
        let mut file = tempfile::tempfile().unwrap();
        let request = Request {
            id: 7,
            command: Command::Snapshot,
        };
        parent.send(&request, &[file.as_fd()]).unwrap();
        let (received, descriptors) = vmm.receive::<Request>().unwrap();
        assert_eq!(received, request);
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        File::from(descriptor).write_all(b"through").unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn the_end_of_the_other_side_is_told_apart_from_errors() {
        let (parent, vmm) = sockets();
        drop(parent);
        assert!(matches!(
            vmm.receive::<Request>(),
            Err(ControlError::Closed)
        ));
        assert!(matches!(
            vmm.send(&Command::Pause, &[]),
            Err(ControlError::Closed)
        ));
    }

    #[test]
    fn a_message_that_is_none_is_an_error() {
        let (parent, vmm) = sockets();
        parent.send(&"reboot", &[]).unwrap();
        assert!(matches!(
            vmm.receive::<Request>(),
            Err(ControlError::Malformed(_))
        ));
        parent.send(&"\x1b[2J", &[]).unwrap();
        let error = vmm.receive::<Command>().unwrap_err().to_string();
        assert!(error.contains("[2J") && !error.contains('\x1b'), "{error}");
    }
}
