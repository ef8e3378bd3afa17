//! Helpers for the tests: reports of flows, as the engine makes them.

use std::net::{IpAddr, SocketAddr};

use crate::decode::Transport;
use crate::fingerprint::{Confidence, EvidenceSet, Finding, Phase, Protocol, Variant};
use crate::flow::{FlowKey, FlowReport, Report};

/// The first report of flow 7, from initiator to responder: WireGuard over UDP, which was just answered.
pub fn report(source: &str, destination: &str) -> FlowReport {
    let ends = [source, destination].map(|end| end.parse::<SocketAddr>().expect("an address with a port"));
    let [low, high] = if ends[0] < ends[1] { ends } else { [ends[1], ends[0]] };
    let key = FlowKey {
        low: octets(low),
        high: octets(high),
        low_port: low.port(),
        high_port: high.port(),
        transport: Transport::Udp,
        ip_version: if low.is_ipv4() { 4 } else { 6 },
        scope: 0,
    };
    let (confidence, phase, variant) = (Confidence::Likely, Phase::Handshake, Variant::WireGuard);
    FlowReport {
        report: Report::Recognised,
        number: 1,
        time: 0,
        flow_id: 7,
        handle: 7,
        tag: 0,
        key,
        first_is_low: ends[0] == low,
        vlans: Default::default(),
        path: Default::default(),
        protocol: Protocol::WireGuard,
        finding: Finding { confidence, phase, variant, initiator: None, midflow: false },
        evidence: EvidenceSet::default(),
        via_proxy: false,
        packets: [1, 1],
        bytes: [100, 100],
        start: 0,
        end: 0,
        end_reason: None,
    }
}

fn octets(end: SocketAddr) -> [u8; 16] {
    let mut octets = [0; 16];
    match end.ip() {
        IpAddr::V4(address) => octets[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => octets = address.octets(),
    }
    octets
}
