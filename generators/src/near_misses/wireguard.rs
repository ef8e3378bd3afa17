//! WireGuard: messages of the whitepaper (Donenfeld, NDSS 2017), 5.4.2 to 5.4.7.

use vpn_classifier_core::fingerprint::{Confidence, Protocol};

use super::Rule;
use crate::flow::{Flow, SECOND};

const fn rule(
    name: &'static str,
    control: Confidence,
    fields: &'static [&'static str],
    generate: fn(&mut Flow),
) -> Rule {
    Rule { protocol: Protocol::WireGuard, name, control, fields, stream: None, generate }
}

pub(super) static RULES: &[Rule] = &[
    rule(
        "wireguard.initiation",
        Confidence::Confirmed,
        &["type", "reserved", "length", "public value", "mac1", "mac2"],
        initiation,
    ),
    rule(
        "wireguard.response",
        Confidence::Confirmed,
        &["type", "reserved", "length", "public value", "mac1", "mac2"],
        response,
    ),
    rule(
        "wireguard.initiation_retried",
        Confidence::Confirmed,
        &["type", "reserved", "length", "public value", "same index", "too soon"],
        initiation_retried,
    ),
    rule(
        "wireguard.response_paired",
        Confidence::Confirmed,
        &["reserved", "length", "public value", "small index", "receiver"],
        response_paired,
    ),
    rule(
        "wireguard.cookie_reply_paired",
        Confidence::Likely,
        &["type", "reserved", "length", "small index", "receiver"],
        cookie_reply_paired,
    ),
    rule(
        "wireguard.data_paired",
        Confidence::Confirmed,
        &["type", "reserved", "length", "small index", "receiver", "counter's upper half"],
        data_paired,
    ),
    rule(
        "wireguard.data_one",
        Confidence::Likely,
        &["type", "reserved", "length", "small index", "counter's upper half", "length in sixteens", "counter 0"],
        data_one,
    ),
    rule("wireguard.data_run", Confidence::Confirmed, RUN_FIELDS, data_run),
    rule("wireguard.data_run_both_ways", Confidence::Confirmed, RUN_FIELDS, data_run_both_ways),
];

const RUN_FIELDS: &[&str] = &[
    "type",
    "reserved",
    "length",
    "small index",
    "index changes",
    "counter constant",
    "counter falls",
    "counter jumps",
    "counter's upper half",
    "counter in network order",
];

/// Breaks what all messages have in common. `kinds` are types that do not belong to this length.
fn break_head(flow: &mut Flow, kinds: &[u8]) {
    if flow.breaks("type") {
        let kind = flow.random.pick(kinds);
        flow.put(0, &[kind]);
    }
    if flow.breaks("reserved") {
        let at = flow.random.size(1, 3);
        let value = flow.random.between(1, 255) as u8;
        flow.put(at, &[value]);
    }
    if flow.breaks("length") {
        flow.wrong_length();
    }
}

/// A handshake message: `last` is the offset of the public value's last byte, `mac1` of the first MAC.
fn handshake(flow: &mut Flow, kind: u8, length: usize, last: usize, mac1: usize, mac2_zero: bool) {
    flow.fill_fresh(length, length);
    flow.put(0, &[kind, 0, 0, 0]);
    let byte = flow.payload()[last];
    let top = if flow.breaks("public value") { 0x80 } else { 0 };
    flow.put(last, &[byte & 0x7f | top]);
    if flow.breaks("mac1") {
        // What is padded with zeros ends before the second MAC.
        let end = flow.random.size(mac1 - 32, mac1 + 12);
        flow.pad(end, 0);
    }
    if mac2_zero {
        flow.pad(mac1 + 16, 0);
        if flow.breaks("mac2") {
            let at = mac1 + 16 + flow.random.size(0, 15);
            let value = flow.random.between(1, 255) as u8;
            flow.put(at, &[value]);
        }
    }
}

fn write_initiation(flow: &mut Flow, sender: u32, mac2_zero: bool) {
    handshake(flow, 1, 148, 39, 116, mac2_zero);
    flow.put32_le(4, sender);
}

fn write_response(flow: &mut Flow, sender: u32, receiver: u32, mac2_zero: bool) {
    handshake(flow, 2, 92, 43, 60, mac2_zero);
    flow.put32_le(4, sender);
    flow.put32_le(8, receiver);
}

fn write_data(flow: &mut Flow, receiver: u32, counter: u64) {
    let blocks = flow.random.size(0, 88);
    flow.fill(32 + 16 * blocks);
    flow.put(0, &[4, 0, 0, 0]);
    flow.put32_le(4, receiver);
    if flow.breaks("counter in network order") {
        flow.put64(8, counter);
    } else {
        flow.put64_le(8, counter);
    }
    if flow.breaks("counter's upper half") {
        let upper = flow.random.between(1, 0xffff_ffff) as u32;
        flow.put32_le(12, upper);
    }
    if flow.breaks("length") {
        let length = flow.random.size(16, 31);
        flow.resize(length);
    } else {
        break_head(flow, &[0, 5, 6, 0x14, 0x84]);
    }
}

/// An index: random (whitepaper 5.4.2), and not one of the first 65,536 unless that is what is broken.
fn index(flow: &mut Flow) -> u32 {
    if flow.breaks("small index") {
        flow.random.between(0, 0xffff) as u32
    } else {
        flow.random.between(0x1_0000, 0xffff_ffff) as u32
    }
}

fn initiation(flow: &mut Flow) {
    flow.socket(&[51_820]);
    for _ in 0..flow.random.between(1, 8) {
        let sender = flow.random.u32();
        write_initiation(flow, sender, true);
        break_head(flow, &[0, 2, 3, 5, 0x81]);
        flow.send(0);
        // A retry after four seconds and more is another rule's.
        flow.wait(SECOND);
    }
}

fn response(flow: &mut Flow) {
    flow.socket(&[51_820]);
    for _ in 0..flow.random.between(1, 8) {
        let (sender, receiver) = (flow.random.u32(), flow.random.u32());
        write_response(flow, sender, receiver, true);
        break_head(flow, &[0, 1, 3, 5, 0x82]);
        flow.send(0);
        flow.wait(5 * SECOND);
    }
}

fn initiation_retried(flow: &mut Flow) {
    flow.socket(&[51_820]);
    let mut sender = flow.random.u32();
    for _ in 0..flow.random.between(2, 18) {
        write_initiation(flow, sender, false);
        break_head(flow, &[0, 2, 3, 5, 0x81]);
        flow.send(0);
        if !flow.breaks("same index") {
            sender = flow.random.u32();
        }
        if flow.breaks("too soon") {
            flow.wait(1_900 * crate::flow::MILLISECOND);
        } else {
            flow.time += 5 * SECOND;
        }
    }
}

fn response_paired(flow: &mut Flow) {
    flow.socket(&[51_820]);
    let sender = index(flow);
    handshake(flow, 1, 148, 39, 116, false);
    flow.put32_le(4, sender);
    flow.send(0);
    for _ in 0..flow.random.between(1, 4) {
        let own = index(flow);
        let receiver = if flow.breaks("receiver") { index(flow) } else { sender };
        write_response(flow, own, receiver, false);
        break_head(flow, &[0, 1, 3, 5, 0x82]);
        flow.send(1);
    }
}

fn cookie_reply_paired(flow: &mut Flow) {
    flow.socket(&[51_820]);
    let sender = index(flow);
    write_initiation(flow, sender, false);
    flow.send(0);
    for _ in 0..flow.random.between(1, 4) {
        flow.fill(64);
        flow.put(0, &[3, 0, 0, 0]);
        let receiver = if flow.breaks("receiver") { index(flow) } else { sender };
        flow.put32_le(4, receiver);
        break_head(flow, &[0, 1, 2, 5, 0x83]);
        flow.send(1);
    }
}

fn data_paired(flow: &mut Flow) {
    flow.socket(&[51_820]);
    let sender = index(flow);
    write_initiation_only(flow, sender);
    for _ in 0..flow.random.between(1, 4) {
        // Each with another index and a counter of its own, so that no run begins.
        let receiver = if flow.breaks("receiver") { index(flow) } else { sender };
        let counter = flow.random.between(0, 0xffff_ffff);
        write_data(flow, receiver, counter);
        flow.send(1);
    }
}

/// An initiation in which nothing is broken and nothing confirms.
fn write_initiation_only(flow: &mut Flow, sender: u32) {
    flow.fill_fresh(148, 148);
    flow.put(0, &[1, 0, 0, 0]);
    flow.put32_le(4, sender);
    let byte = flow.payload()[39];
    flow.put(39, &[byte & 0x7f]);
    flow.send(0);
}

fn data_one(flow: &mut Flow) {
    flow.socket(&[51_820]);
    let receiver = index(flow);
    let counter = if flow.breaks("counter 0") { 0 } else { flow.random.between(1, 1 << 30) };
    write_data(flow, receiver, counter);
    if flow.breaks("length in sixteens") {
        let length = flow.length() + flow.random.size(1, 15);
        flow.resize(length);
    }
    flow.send(0);
}

/// A direction's data: its index and the counter of the next packet.
struct Sender {
    index: u32,
    counter: u64,
}

impl Sender {
    fn new(flow: &mut Flow) -> Self {
        // Also mid-flow; upwards from 2^27, so that a falling counter has somewhere to fall.
        let counter =
            if flow.random.one_in(2) { flow.random.between(0, 20) } else { flow.random.between(1 << 27, 1 << 31) };
        Self { index: index(flow), counter }
    }

    fn send(&mut self, flow: &mut Flow, direction: u8) {
        write_data(flow, self.index, self.counter);
        flow.send(direction);
        if flow.breaks("index changes") {
            self.index = index(flow);
        }
        let step = flow.random.pick(&[1, 1, 1, 1, 2, 40]);
        if flow.breaks("counter falls") {
            self.counter = self.counter.saturating_sub(step);
        } else if flow.breaks("counter jumps") {
            self.counter += flow.random.between((1 << 13) + 1, 1 << 24);
        } else if !flow.breaks("counter constant") {
            self.counter += step;
        }
    }
}

fn data_run(flow: &mut Flow) {
    flow.socket(&[51_820]);
    let mut sender = Sender::new(flow);
    for _ in 0..flow.random.between(4, 64) {
        sender.send(flow, 0);
    }
}

fn data_run_both_ways(flow: &mut Flow) {
    flow.socket(&[51_820]);
    let mut senders = [Sender::new(flow), Sender::new(flow)];
    for turn in 0..flow.random.between(4, 64) {
        let direction = (turn & 1) as u8;
        senders[usize::from(direction)].send(flow, direction);
    }
}
