//! Classes of flow reports: whoever judges reports by what is given here cannot tell two of one class apart.
//!
//! In: prefixes, ports and thresholds that reports are compared with. Out: for a report two short keys, one of its ends
//! and one of its state. Equal keys mean that each comparison comes out alike, so one judgement holds for all. What is
//! compared with what, and what follows, is not known here; the times of a report are left to who judges, but for the
//! flow's age.

use std::sync::Arc;

use crate::fingerprint::Phase;
use crate::flow::FlowReport;
use crate::line::has_ports;
use crate::prefixes::PrefixMap;

/// Of a report's ends.
pub type EndsClass = [u8; 23];
/// Of its state.
pub type StateClass = [u8; 20];

/// What reports are compared with.
#[derive(Debug, Default)]
pub struct Classes {
    /// Prefixes that either end is looked up among; the numbers are the caller's.
    pub maps: [Arc<PrefixMap>; 2],
    /// Destination ports that are told from others, ascending.
    pub ports: Vec<u16>,
    /// Numbers of packets, in both directions together, ascending.
    pub packets: Vec<u64>,
    /// Numbers of packets of one end, ascending.
    pub packets_of_one: Vec<u64>,
    /// Durations in nanoseconds, ascending.
    pub durations: Vec<i64>,
    /// It matters whether a flow began before this.
    pub first_record: i64,
    /// Flows are taken to have ended at this time.
    pub as_of: Option<i64>,
}

impl Classes {
    /// Of the ends, the protocol, and how the flow was seen.
    pub fn ends(&self, report: &FlowReport) -> EndsClass {
        let [(source, _), (destination, port)] = report.ends();
        let port = match has_ports(report) {
            false => u32::MAX,
            true if self.ports.binary_search(&port).is_ok() => u32::from(port),
            true => 0x1_0000,
        };
        let [first, second] = &self.maps;
        let mut key = Key::<23>::default();
        for address in [source, destination] {
            key.push(&first.number(address).to_be_bytes());
            key.push(&second.number(address).to_be_bytes());
        }
        key.push(&port.to_be_bytes());
        let joined = report.finding.phase == Phase::DataOnly;
        key.push(&[report.protocol as u8, u8::from(joined), u8::from(report.via_proxy)]);
        key.bytes
    }

    /// Of why the report is made, what is known of the flow, its packets and its age.
    pub fn state(&self, report: &FlowReport) -> StateClass {
        let (to_server, to_client) = (usize::from(report.initiator()), usize::from(report.initiator() ^ 1));
        let duration = report.end.saturating_sub(report.start);
        let start = self.as_of.map_or(report.start, |end| end.saturating_sub(duration));
        let mut key = Key::<20>::default();
        key.push(&[report.report as u8, report.finding.confidence as u8, report.finding.phase as u8]);
        key.push(&[u8::from(start < self.first_record)]);
        key.push(&reached(&self.packets, report.packets[0].saturating_add(report.packets[1])));
        key.push(&reached(&self.packets_of_one, report.packets[to_server]));
        key.push(&reached(&self.packets_of_one, report.packets[to_client]));
        key.push(&reached(&self.durations, duration));
        key.bytes
    }
}

/// How many of the thresholds are reached.
fn reached<T: Ord>(thresholds: &[T], value: T) -> [u8; 4] {
    (thresholds.partition_point(|threshold| *threshold <= value) as u32).to_be_bytes()
}

struct Key<const SIZE: usize> {
    bytes: [u8; SIZE],
    filled: usize,
}

impl<const SIZE: usize> Default for Key<SIZE> {
    fn default() -> Self {
        Self { bytes: [0; SIZE], filled: 0 }
    }
}

impl<const SIZE: usize> Key<SIZE> {
    fn push(&mut self, part: &[u8]) {
        self.bytes[self.filled..self.filled + part.len()].copy_from_slice(part);
        self.filled += part.len();
    }
}
