//! What is said about a flow: the rows of a batch.

use super::FlowKey;
use crate::decode::{Path, Vlans};
use crate::fingerprint::{EvidenceSet, Finding, Protocol};

/// Why a flow is reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Report {
    /// First report of the flow.
    Recognised,
    /// Confidence, phase or variant changed.
    Changed,
    /// A packet count or a duration that was asked for has been reached.
    Milestone,
    /// Another interval of packet time has passed.
    Update,
    /// Last report of the flow.
    Ended,
}

impl Report {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Recognised, Self::Changed, Self::Milestone, Self::Update, Self::Ended];

    /// Name in batches.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recognised => "recognised",
            Self::Changed => "changed",
            Self::Milestone => "milestone",
            Self::Update => "update",
            Self::Ended => "ended",
        }
    }
}

/// Why a flow ended (IPFIX flowEndReason, RFC 5102, 5.11.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndReason {
    /// No packet for the idle timeout.
    IdleTimeout,
    /// TCP FIN in both directions, or RST.
    EndOfFlow,
    /// The capture ended, or reading was stopped.
    ForcedEnd,
    /// Pushed out of a full pool.
    LackOfResources,
}

impl EndReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::IdleTimeout, Self::EndOfFlow, Self::ForcedEnd, Self::LackOfResources];

    /// Name used in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::IdleTimeout => "idle_timeout",
            Self::EndOfFlow => "end_of_flow",
            Self::ForcedEnd => "forced_end",
            Self::LackOfResources => "lack_of_resources",
        }
    }
}

/// One report about a recognised flow. Arrays by direction: 0 from the sender of the flow's first packet.
#[derive(Clone, Debug)]
pub struct FlowReport {
    /// Why.
    pub report: Report,
    /// Number of the frame that caused it.
    pub number: u64,
    /// Packet clock.
    pub time: i64,
    /// 63-bit name of the flow.
    pub flow_id: u64,
    /// Where the flow is kept, for tags.
    pub handle: u64,
    /// Tag last set.
    pub tag: u32,
    /// Flow key.
    pub key: FlowKey,
    /// The sender of the first packet is the key's `low` end.
    pub first_is_low: bool,
    /// VLAN ids of the first packet.
    pub vlans: Vlans,
    /// Layers of the first packet.
    pub path: Path,
    /// Protocol recognised.
    pub protocol: Protocol,
    /// What is held of it.
    pub finding: Finding,
    /// On which evidence.
    pub evidence: EvidenceSet,
    /// The stream goes through a proxy: the far end is the proxy.
    pub via_proxy: bool,
    /// Packets by direction.
    pub packets: [u64; 2],
    /// Octets of IP packets by direction.
    pub bytes: [u64; 2],
    /// Time of the first packet.
    pub start: i64,
    /// Time of the latest packet.
    pub end: i64,
    /// Set in the last report.
    pub end_reason: Option<EndReason>,
}

impl FlowReport {
    /// Direction of the initiator's packets: the handshake's, else the first packet's.
    pub fn initiator(&self) -> u8 {
        self.finding.initiator.unwrap_or(0) & 1
    }

    /// Packets were seen in one direction only.
    pub fn is_one_way(&self) -> bool {
        self.packets.contains(&0)
    }

    /// What a direction is called once the initiator is known.
    pub fn direction_name(&self, direction: u8) -> &'static str {
        if direction == self.initiator() { "to_server" } else { "to_client" }
    }

    /// Initiator's and responder's (address, port).
    pub fn ends(&self) -> [(&[u8], u16); 2] {
        let octets = if self.key.ip_version == 4 { 4 } else { 16 };
        let low = (&self.key.low[..octets], self.key.low_port);
        let high = (&self.key.high[..octets], self.key.high_port);
        if self.first_is_low == (self.initiator() == 0) { [low, high] } else { [high, low] }
    }
}
