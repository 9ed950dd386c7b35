//! What a sandbox asks for when it opens a connection.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The protocol that carries a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP; one flow is one pair of addresses and ports.
    Udp,
}

/// One connection that the sandbox asks for, before anything was sent outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Counts the flows of one sandbox.
    pub id: u64,
    /// What carries it.
    pub transport: Transport,
    /// Where it comes from inside the sandbox.
    pub source: SocketAddr,
    /// Where it wants to go. Hostile: nothing says that the address belongs to a name that was asked for.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
    /// The names that the gateway answered with this address, the latest first.
    pub names: Vec<String>,
}
