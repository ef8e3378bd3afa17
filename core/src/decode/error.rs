//! What stopped a decode, and where.

use std::fmt;

macro_rules! layers {
    ($($(#[$doc:meta])* $layer:ident = $name:literal,)*) => {
        /// The header being read when decoding stopped.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(u8)]
        pub enum Layer { $($(#[$doc])* $layer,)* }

        /// Names as they appear in counters, in the order of [`Layer`].
        const LAYERS: &[&str] = &[$($name,)*];
    };
}

layers! {
    /// The capture's link type.
    LinkType = "link_type",
    /// Ethernet II or 802.3.
    Ethernet = "ethernet",
    /// An 802.1Q or 802.1ad tag.
    Vlan = "vlan",
    /// Linux cooked capture, either version.
    LinuxSll = "linux_sll",
    /// BSD null or loop.
    Null = "null",
    /// IPv4.
    Ipv4 = "ipv4",
    /// IPv6 and its extension headers.
    Ipv6 = "ipv6",
    /// UDP.
    Udp = "udp",
    /// TCP.
    Tcp = "tcp",
    /// Encapsulating Security Payload.
    Esp = "esp",
    /// Authentication Header.
    Ah = "ah",
    /// MPLS.
    Mpls = "mpls",
    /// PPP, over Ethernet or not.
    Ppp = "ppp",
    /// Cisco's HDLC.
    CHdlc = "c_hdlc",
    /// GRE and what it carries.
    Gre = "gre",
    /// A tunnel in UDP.
    Tunnel = "tunnel",
}

/// Why decoding stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Cause {
    /// The header goes on behind the captured bytes, though not behind the frame's original length.
    Truncated,
    /// The header breaks its format: a length that cannot be, a wrong version.
    Malformed,
    /// Valid, but not something this decoder reads.
    Unsupported,
}

/// Names as they appear in counters, in the order of [`Cause`].
const CAUSES: [&str; 3] = ["truncated", "malformed", "unsupported"];

/// A frame that could not be decoded down to its transport header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DecodeError {
    /// Header being read.
    pub layer: Layer,
    /// Why it stopped.
    pub cause: Cause,
    /// Offset of that header in the frame.
    pub offset: usize,
}

impl DecodeError {
    /// How many different (layer, cause) pairs there are: the size of a table of counters.
    pub const KINDS: usize = LAYERS.len() * CAUSES.len();

    /// Index into a table of [`Self::KINDS`] counters.
    pub fn kind(self) -> usize {
        self.layer as usize * CAUSES.len() + self.cause as usize
    }

    /// Counter name of a [`Self::kind`], such as `ipv4_truncated`.
    pub fn kind_name(kind: usize) -> String {
        let layer = LAYERS.get(kind / CAUSES.len()).copied().unwrap_or("unknown");
        format!("{layer}_{}", CAUSES[kind % CAUSES.len()])
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", Self::kind_name(self.kind()), self.offset)
    }
}

impl std::error::Error for DecodeError {}
