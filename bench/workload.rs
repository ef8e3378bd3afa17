//! Makes the captures that the benchmarks read: the same bytes from the same arguments, everywhere.
//!
//! `workload SHAPE OUT.pcap [--packets N] [--flows N] [--size OCTETS] [--seed S]`
//!
//! - `mix`: an access network. By packets 85 % TCP with TLS in it, 13 % UDP (QUIC, DNS, RTP), 2 % VPN (WireGuard,
//!   OpenVPN over UDP and TCP, IKEv2, ESP in UDP, ESP); one flow in five is IPv6, frames have 770 octets on average,
//!   flow sizes follow a Zipf law, all flows run mixed together over 60 seconds.
//! - `elephants`: 50 long flows, a fifth of them VPN.
//! - `streams`: TCP only, half of it OpenVPN in full segments that cut its records anywhere.
//! - `uniform`: UDP frames of one size with random payload, 64 octets and one packet per flow unless told otherwise.
//!
//! What is ciphertext on a wire is random here. Nothing is lost, reordered or in fragments. Addresses are those of
//! documentation and private networks. Checksums are right: without one, a packet is told from its copy by its payload.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use vpn_classifier_generators::random::Random;

const USAGE: &str =
    "usage: workload mix|elephants|streams|uniform OUT.pcap [--packets N] [--flows N] [--size OCTETS] [--seed S]";
const START_S: u64 = 1_700_000_000;
/// Length of the capture in microseconds.
const SPAN: u64 = 60_000_000;
const ETHERNET: usize = 14;
const MOST_PAYLOAD: usize = 1_460;
const SYN: u8 = 2;
const PUSH: u8 = 8;
const ACK: u8 = 16;
const FIN: u8 = 1;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("workload: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let file = File::create(&options.out).map(|file| BufWriter::with_capacity(1 << 20, file));
    match file.and_then(|file| write(&options, file)) {
        Ok((packets, flows)) => {
            println!("{packets} packets, {flows} flows");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("workload: {}: {error}", options.out.display());
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Mix,
    Elephants,
    Streams,
    Uniform,
}

struct Options {
    shape: Shape,
    out: PathBuf,
    packets: u64,
    flows: u64,
    /// Octets of a frame, of the uniform shape.
    size: usize,
    seed: u64,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let shape = match arguments.next().as_deref() {
            Some("mix") => Shape::Mix,
            Some("elephants") => Shape::Elephants,
            Some("streams") => Shape::Streams,
            Some("uniform") => Shape::Uniform,
            other => return Err(format!("no shape {}", other.unwrap_or("given"))),
        };
        let out = arguments.next().ok_or("no file given")?.into();
        let (mut packets, mut flows, mut size, mut seed) = (2_000_000, None, 64, 1);
        while let Some(name) = arguments.next() {
            let text = arguments.next().ok_or_else(|| format!("{name} has no value"))?;
            let value: u64 = text.parse().map_err(|_| format!("{name} {text}: not a number"))?;
            match name.as_str() {
                "--packets" => packets = value,
                "--flows" => flows = Some(value),
                "--size" => size = value as usize,
                "--seed" => seed = value,
                _ => return Err(format!("no option {name}")),
            }
        }
        let flows = flows.unwrap_or(match shape {
            Shape::Mix | Shape::Streams => packets.div_ceil(20),
            Shape::Elephants => 50,
            Shape::Uniform => packets,
        });
        if !(50..=1 << 30).contains(&packets) || !(1..=packets).contains(&flows) {
            return Err("50 packets at least, and no more flows than packets".to_owned());
        }
        if !(64..=1_514).contains(&size) {
            return Err("a frame has 64 to 1,514 octets".to_owned());
        }
        Ok(Self { shape, out, packets, flows, size, seed })
    }
}

/// What a flow carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Tls,
    Quic,
    Dns,
    Rtp,
    Uniform,
    WireGuard,
    OpenVpnUdp,
    OpenVpnTcp,
    Ike,
    EspInUdp,
    Esp,
}

use Class::{Dns, Esp, EspInUdp, Ike, OpenVpnTcp, OpenVpnUdp, Quic, Rtp, Tls, Uniform, WireGuard};

/// Of a shape, each class's share of the flows and of the packets, in thousandths; TLS takes what is left.
fn shares(shape: Shape) -> &'static [(Class, u64, u64)] {
    match shape {
        Shape::Mix => &[
            (Dns, 200, 20),
            (Quic, 70, 100),
            (Rtp, 10, 10),
            (WireGuard, 7, 9),
            (OpenVpnUdp, 5, 5),
            (OpenVpnTcp, 2, 2),
            (Ike, 2, 1),
            (EspInUdp, 3, 2),
            (Esp, 1, 1),
        ],
        Shape::Elephants => &[
            (Quic, 180, 180),
            (Rtp, 20, 20),
            (WireGuard, 80, 100),
            (OpenVpnUdp, 40, 50),
            (OpenVpnTcp, 20, 25),
            (EspInUdp, 20, 25),
        ],
        Shape::Streams => &[(OpenVpnTcp, 500, 500)],
        Shape::Uniform => &[(Uniform, 1_000, 1_000)],
    }
}

/// Packets of a flow at the least, so that it can say what it is.
fn least(class: Class) -> u64 {
    match class {
        Uniform => 1,
        Dns => 2,
        Rtp | Ike => 4,
        Quic => 5,
        WireGuard | EspInUdp | Esp => 6,
        Tls => 8,
        OpenVpnUdp => 14,
        OpenVpnTcp => 17,
    }
}

#[derive(Clone)]
struct Flow {
    class: Class,
    packets: u32,
    sent: u32,
    /// Next sequence number of each direction.
    sequence: [u32; 2],
    /// Of a record that the last segment cut, the octets that are still to come, in each direction.
    cut: [u16; 2],
}

/// The flows of a shape, largest first within each class.
fn flows(options: &Options) -> Vec<Flow> {
    let mut flows = Vec::with_capacity(options.flows as usize);
    let mut classes: Vec<(Class, u64, u64)> = Vec::new();
    let (mut left_flows, mut left_packets) = (options.flows, options.packets);
    for &(class, of_flows, of_packets) in shares(options.shape) {
        let count = (options.flows * of_flows).div_ceil(1_000).min(left_flows);
        let packets = (options.packets * of_packets / 1_000).max(count * least(class));
        // Where there are few packets for many flows, TLS keeps one for each of its own.
        let packets = packets.min(left_packets.saturating_sub(left_flows - count)).max(count);
        classes.push((class, count, packets));
        left_flows -= count;
        left_packets -= packets;
    }
    if left_flows > 0 {
        classes.push((Tls, left_flows, left_packets));
    } else if let Some(last) = classes.last_mut() {
        last.2 += left_packets;
    }
    for (class, count, packets) in classes {
        // The least for each, and the rest by rank (Zipf and Mandelbrot), but for what is all alike.
        let least = least(class).min(packets / count.max(1));
        let weight = |rank: u64| if class == Uniform { 1.0 } else { 1.0 / (rank as f64 + 16.0) };
        let total: f64 = (0..count).map(weight).sum();
        let rest = packets - count * least;
        let (mut sum, mut given) = (0.0, 0);
        for rank in 0..count {
            sum += weight(rank);
            let upto = ((sum / total * rest as f64).round() as u64).min(rest);
            let packets = least + upto - given;
            given = upto;
            flows.push(Flow { class, packets: packets as u32, sent: 0, sequence: [1, 1], cut: [0, 0] });
        }
    }
    flows
}

/// When each packet comes: (microsecond, flow), in order. Those of one flow are spread over its own time.
fn schedule(options: &Options, flows: &[Flow]) -> Vec<(u32, u32)> {
    let mut random = Random::of(&[options.seed, 0x5c4e_d01e]);
    let mut times = Vec::with_capacity(options.packets as usize);
    for (number, flow) in flows.iter().enumerate() {
        let packets = u64::from(flow.packets);
        // From 80 milliseconds to five seconds and more: longer flows take longer.
        let octave = 1 << random.between(0, 5);
        let most = 80_000 * random.between(octave, 2 * octave) * (packets as f64).sqrt() as u64;
        let duration = most.min(SPAN * 9 / 10);
        let start = random.between(0, SPAN - 1 - duration);
        for packet in 0..packets {
            let part = packet as f64 + random.between(0, 900) as f64 / 1e3;
            times.push(((start as f64 + duration as f64 * part / packets as f64) as u32, number as u32));
        }
    }
    times.sort_unstable();
    times
}

fn write(options: &Options, mut out: impl Write) -> io::Result<(usize, usize)> {
    let mut flows = flows(options);
    let times = schedule(options, &flows);
    let mut header = [0_u8; 24];
    header[..4].copy_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
    header[4..8].copy_from_slice(&[2, 0, 4, 0]);
    header[16..20].copy_from_slice(&262_144_u32.to_le_bytes());
    header[20..24].copy_from_slice(&1_u32.to_le_bytes());
    out.write_all(&header)?;
    let mut random = Random::of(&[options.seed, 0xda7a]);
    let mut frame = Vec::with_capacity(2_048);
    for &(time, number) in &times {
        let flow = &mut flows[number as usize];
        frame.clear();
        Ends::of(options, number, flow.class).packet(flow, options, &mut random, &mut frame);
        flow.sent += 1;
        let seconds = START_S as u32 + time / 1_000_000;
        let length = frame.len() as u32;
        for word in [seconds, time % 1_000_000, length, length] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(&frame)?;
    }
    out.flush()?;
    Ok((times.len(), flows.len()))
}

/// The Internet checksum (RFC 1071) of some octets, in which its own are zero, and of what was summed before.
fn checksum(before: u32, octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let sum = before + words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// What stays the same for all packets of a flow, drawn from its number.
struct Ends {
    /// Client and server; an IPv4 address is in the first four octets.
    addresses: [[u8; 16]; 2],
    ports: [u16; 2],
    v6: bool,
    /// Session identifiers.
    ids: [u64; 2],
}

impl Ends {
    fn of(options: &Options, number: u32, class: Class) -> Self {
        let mut own = Random::of(&[options.seed, u64::from(number)]);
        let v6 = own.one_in(5);
        let vpn = !matches!(class, Tls | Quic | Dns | Rtp | Uniform);
        // A dozen flows share a client; each VPN has one of its own.
        let mut host = Random::of(&[options.seed, u64::from(number) / 12, 1]);
        let client = if vpn { number } else { (host.word() >> 40) as u32 };
        let server = own.u32();
        let mut addresses = [[0_u8; 16]; 2];
        if v6 {
            for (end, address) in addresses.iter_mut().enumerate() {
                address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
                address[4] = [0x10, 0x80][end] | u8::from(vpn) << 2;
                let word = [u64::from(client), u64::from(server & 0xf_ffff)][end];
                address[8..].copy_from_slice(&word.to_be_bytes());
            }
        } else {
            let [_, a, b, c] = client.to_be_bytes();
            // 10.0.0.0/8, and 172.16.0.0/12 for VPNs.
            addresses[0][..4].copy_from_slice(&if vpn { [172, 16 | a & 15, b, c] } else { [10, a, b, c] });
            if vpn {
                addresses[0][1] = 16 | a & 15;
            }
            let [_, d, e, f] = server.to_be_bytes();
            addresses[1][..4].copy_from_slice(&[198, 18 | d & 1, e, f]);
        }
        let any = own.between(10_000, 49_999) as u16;
        let usual = own.between(0, 9) < 6;
        let client = own.between(32_768, 60_999) as u16;
        let ports = match class {
            Tls | Quic => [client, 443],
            Dns => [client, 53],
            Rtp | Uniform => [client, any],
            WireGuard => [client, if usual { 51_820 } else { any }],
            OpenVpnUdp => [client, if usual { 1_194 } else { any }],
            OpenVpnTcp => [client, if usual { 443 } else { 1_194 }],
            Ike => [500, 500],
            EspInUdp => [if usual { 4_500 } else { client }, 4_500],
            Esp => [0, 0],
        };
        Self { addresses, ports, v6, ids: [own.word() | 1, own.word() | 1] }
    }

    /// Appends the next packet of a flow.
    fn packet(&self, flow: &mut Flow, options: &Options, random: &mut Random, frame: &mut Vec<u8>) {
        let protocol = match flow.class {
            Tls | OpenVpnTcp => 6,
            Esp => 50,
            _ => 17,
        };
        let transport = match protocol {
            6 => 20,
            17 => 8,
            _ => 0,
        };
        let internet = if self.v6 { 40 } else { 20 };
        let before = ETHERNET + internet + transport;
        frame.resize(before + MOST_PAYLOAD, 0);
        let room = if self.v6 { MOST_PAYLOAD - 20 } else { MOST_PAYLOAD };
        let said = match flow.class {
            Uniform => Said { direction: 0, length: options.size - before.min(options.size), flags: 0 },
            _ => self.say(flow, options, random, &mut frame[before..before + room]),
        };
        if flow.class == Uniform {
            random.fill(&mut frame[before..before + said.length]);
        }
        frame.truncate(before + said.length);
        self.headers(flow, &said, (protocol, internet), random, frame);
    }

    fn headers(&self, flow: &mut Flow, said: &Said, of: (u8, usize), random: &mut Random, frame: &mut [u8]) {
        let (protocol, internet) = of;
        let (from, to) = (said.direction, 1 - said.direction);
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, to as u8]);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, from as u8]);
        let length = frame.len() - ETHERNET;
        let packet = &mut frame[ETHERNET..];
        if self.v6 {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
            packet[6] = protocol;
            packet[7] = 64;
            packet[8..24].copy_from_slice(&self.addresses[from]);
            packet[24..40].copy_from_slice(&self.addresses[to]);
        } else {
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            packet[4..6].copy_from_slice(&random.u16().to_be_bytes());
            packet[6] = 0x40;
            packet[8] = 64;
            packet[9] = protocol;
            packet[12..16].copy_from_slice(&self.addresses[from][..4]);
            packet[16..20].copy_from_slice(&self.addresses[to][..4]);
            let sum = checksum(0, &packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let ports = [self.ports[from].to_be_bytes(), self.ports[to].to_be_bytes()].concat();
        let (header, segment) = packet.split_at_mut(internet);
        // The addresses and what else is summed of the IP header (RFC 9293, 3.1; RFC 8200, 8.1).
        let summed = checksum(u32::from(protocol) + segment.len() as u32, &header[if self.v6 { 8 } else { 12 }..]);
        let summed = u32::from(!summed);
        match protocol {
            17 => {
                segment[..4].copy_from_slice(&ports);
                segment[4..6].copy_from_slice(&((length - internet) as u16).to_be_bytes());
                // Zero would say that there is none (RFC 768).
                let sum = Some(checksum(summed, segment)).filter(|&sum| sum != 0).unwrap_or(0xffff);
                segment[6..8].copy_from_slice(&sum.to_be_bytes());
            }
            6 => {
                segment[..4].copy_from_slice(&ports);
                segment[4..8].copy_from_slice(&flow.sequence[from].to_be_bytes());
                segment[8..12].copy_from_slice(&flow.sequence[to].to_be_bytes());
                segment[12] = 0x50;
                segment[13] = said.flags;
                segment[14..16].copy_from_slice(&[0xfa, 0xf0]);
                let bare = said.flags & (SYN | FIN) != 0;
                flow.sequence[from] = flow.sequence[from].wrapping_add(said.length as u32 + u32::from(bare));
                let sum = checksum(summed, segment);
                segment[16..18].copy_from_slice(&sum.to_be_bytes());
            }
            _ => {}
        }
        let ethertype: [u8; 2] = if self.v6 { [0x86, 0xdd] } else { [8, 0] };
        frame[12..14].copy_from_slice(&ethertype);
    }

    /// What the next packet of a flow says: fills `payload` as far as it goes.
    fn say(&self, flow: &mut Flow, options: &Options, random: &mut Random, payload: &mut [u8]) -> Said {
        let number = flow.sent;
        let last = number + 1 == flow.packets;
        let mut out = Out { payload, length: 0, random };
        let mut direction = usize::from(out.random.between(0, 99) < 58);
        let mut flags = 0;
        match flow.class {
            Tls | OpenVpnTcp if number < 3 => {
                // The handshake.
                direction = usize::from(number == 1);
                flags = [SYN, SYN | ACK, ACK][number as usize];
            }
            Tls => {
                flags = ACK | PUSH;
                direction = match number {
                    3 | 5 => 0,
                    4 => 1,
                    _ => direction,
                };
                match number {
                    _ if last => {
                        flags = ACK | FIN;
                        &mut out
                    }
                    3 => out.tls_hello(1, 512),
                    4 => out.tls_hello(2, 122),
                    5 => out.put(&[0x14, 3, 3, 0, 1, 1, 0x17, 3, 3, 0, 69]).random(69),
                    // Three of four packets to a client are full; three of four to a server only acknowledge.
                    _ if out.random.one_in(4) => {
                        let length = out.random.size(60, 1_300);
                        out.put(&[0x17, 3, 3]).put(&((length - 5) as u16).to_be_bytes()).random(length - 5)
                    }
                    _ if direction == 1 => {
                        let length = out.payload.len();
                        out.put(&[0x17, 3, 3]).put(&((length - 5) as u16).to_be_bytes()).random(length - 5)
                    }
                    _ => {
                        flags = ACK;
                        &mut out
                    }
                };
            }
            Quic => {
                direction = match number {
                    0 => 0,
                    1 | 2 => 1,
                    _ => direction,
                };
                match number {
                    0..=2 => {
                        // Long headers: an Initial each way, then a Handshake.
                        let first = if number == 2 { 0xe3 } else { 0xc3 };
                        out.put(&[first, 0, 0, 0, 1, 8]).put(&self.ids[1 - direction].to_be_bytes());
                        out.put(&[8]).put(&self.ids[direction].to_be_bytes());
                        if number < 2 {
                            out.put(&[0]);
                        }
                        let left = (1_200 - out.length - 2) as u16;
                        out.put(&(0x4000 | left).to_be_bytes()).random(usize::from(left))
                    }
                    _ => {
                        let long = out.random.between(0, 4) > 0;
                        let length = match (direction, long) {
                            (1, true) => 1_250,
                            (_, true) => 35,
                            _ => out.random.size(40, 1_200),
                        };
                        let first = 0x40 | out.random.u8() & 0x3f;
                        out.put(&[first]).put(&self.ids[1 - direction].to_be_bytes()).random(length - 9)
                    }
                };
            }
            Dns => {
                direction = (number & 1) as usize;
                let (bits, answers) = if direction == 0 { (0x0100_u16, 0) } else { (0x8180, 1) };
                out.put(&(self.ids[0] as u16).to_be_bytes()).put(&bits.to_be_bytes()).put(&[0, 1, 0, answers]);
                out.put(&[0, 0, 0, 0]).put(b"\x06host42\x07example\x03com\0\0\x01\0\x01");
                if direction == 1 {
                    out.put(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 198, 18, 0, 1]);
                }
            }
            Rtp => {
                let count = number.wrapping_add(self.ids[0] as u32);
                out.put(&[0x80, 0]).put(&(count as u16).to_be_bytes()).put(&count.wrapping_mul(160).to_be_bytes());
                out.put(&(self.ids[direction] as u32).to_be_bytes()).random(160);
            }
            WireGuard => {
                // Keys are renewed, under new indices.
                let session = u64::from(number / 3_000);
                let of = |end: usize| (Random::of(&[self.ids[end], session]).u32()).to_le_bytes();
                match number % 3_000 {
                    0 => {
                        direction = 0;
                        out.put(&[1, 0, 0, 0]).put(&of(0)).public_key().random(92).put(&[0; 16])
                    }
                    1 => {
                        direction = 1;
                        out.put(&[2, 0, 0, 0]).put(&of(1)).put(&of(0)).public_key().random(32).put(&[0; 16])
                    }
                    count => {
                        // Whole blocks of 16 octets; what goes to a client is mostly full.
                        let most = if direction == 1 && !out.random.one_in(4) { 89 } else { out.random.size(0, 20) };
                        out.put(&[4, 0, 0, 0]).put(&of(1 - direction)).put(&u64::from(count - 2).to_le_bytes());
                        out.random(16 + 16 * most.min(if self.v6 { 85 } else { 87 }))
                    }
                };
            }
            OpenVpnUdp => {
                if number < 12 {
                    direction = self.openvpn_opening(number, &mut out);
                } else {
                    out.openvpn_data(number, direction);
                }
            }
            OpenVpnTcp => {
                flags = ACK | PUSH;
                if last {
                    flags = ACK | FIN;
                } else if number < 15 {
                    out.put(&[0, 0]);
                    direction = self.openvpn_opening(number - 3, &mut out);
                    out.frame(0);
                } else if options.shape == Shape::Streams {
                    self.full_segment(flow, direction, &mut out);
                } else {
                    out.put(&[0, 0]);
                    out.openvpn_data(number, direction);
                    out.frame(0);
                }
            }
            Ike => {
                direction = (number & 1) as usize;
                let responder = if number == 0 { 0 } else { self.ids[1] };
                let flags = [0x08, 0x20][direction];
                let (exchange, body) = if number < 2 { (34, 404) } else { (35, 208) };
                let message = number / 2;
                out.put(&self.ids[0].to_be_bytes()).put(&responder.to_be_bytes());
                out.put(&[if number < 2 { 33 } else { 46 }, 0x20, exchange, flags]).put(&message.to_be_bytes());
                out.put(&(28 + body as u32).to_be_bytes());
                if number < 2 {
                    // SA with one proposal, key exchange of 256 octets, nonce.
                    out.put(&[34, 0, 0, 48, 0, 0, 0, 44, 1, 1, 0, 4, 3, 0, 0, 12, 1, 0, 0, 12, 0x80, 14, 1, 0]);
                    out.put(&[3, 0, 0, 8, 2, 0, 0, 5, 3, 0, 0, 8, 3, 0, 0, 12, 0, 0, 0, 8, 4, 0, 0, 14]);
                    out.put(&[40, 0, 1, 8, 0, 14, 0, 0]).random(256).put(&[0, 0, 0, 92]).random(88);
                } else {
                    out.put(&[36, 0, 0, 208]).random(204);
                }
            }
            EspInUdp | Esp => {
                let count = number + 1;
                out.put(&(self.ids[direction] as u32 | 0x0100_0000).to_be_bytes()).put(&count.to_be_bytes());
                let length = if direction == 1 { 1_376 } else { 16 * out.random.size(4, 40) };
                out.random(length + 24);
            }
            Uniform => {}
        }
        let length = out.length;
        Said { direction, length, flags }
    }

    /// A message of OpenVPN's opening: resets, then control and acknowledgements in turn; which end sends it.
    fn openvpn_opening(&self, number: u32, out: &mut Out) -> usize {
        let direction = (number & 1) as usize;
        let (mine, peer) = (self.ids[direction], self.ids[1 - direction]);
        match number {
            0 => out.put(&[7 << 3]).put(&mine.to_be_bytes()).put(&[0, 0, 0, 0, 0]),
            1 => {
                out.put(&[8 << 3]).put(&mine.to_be_bytes()).put(&[1, 0, 0, 0, 0]).put(&peer.to_be_bytes()).put(&[0; 4])
            }
            _ => {
                // The other end's last message is acknowledged in each.
                let count = number / 2;
                out.put(&[4 << 3]).put(&mine.to_be_bytes()).put(&[1]).put(&(count - 1 + (number & 1)).to_be_bytes());
                out.put(&peer.to_be_bytes()).put(&count.to_be_bytes());
                if count == 1 {
                    out.tls_hello(1 + direction as u8, 300)
                } else {
                    out.put(&[0x17, 3, 3, 1, 44]).random(300)
                }
            }
        };
        direction
    }

    /// Records of OpenVPN one after the other until the segment is full, the last one cut.
    fn full_segment(&self, flow: &mut Flow, direction: usize, out: &mut Out) {
        let room = out.payload.len();
        let rest = usize::from(flow.cut[direction]).min(room);
        out.random(rest);
        flow.cut[direction] -= rest as u16;
        while out.length < room {
            let whole = out.random.size(80, 1_400);
            let mut record = vec![0_u8; 2 + whole];
            record[..2].copy_from_slice(&(whole as u16).to_be_bytes());
            record[2..6].copy_from_slice(&[0x48, 0, 0, if direction == 0 { 7 } else { 0 }]);
            record[6..10].copy_from_slice(&(flow.sent * 16 + out.length as u32 / 100).to_be_bytes());
            out.random.fill(&mut record[10..]);
            // A header is not cut, so that what is cut is only counted.
            let fits = (room - out.length).min(record.len());
            if fits < 10 {
                break;
            }
            out.put(&record[..fits]);
            flow.cut[direction] = (record.len() - fits) as u16;
        }
    }
}

struct Said {
    /// 0 from the client.
    direction: usize,
    /// Octets of payload.
    length: usize,
    flags: u8,
}

/// A payload that is being written.
struct Out<'a> {
    payload: &'a mut [u8],
    length: usize,
    random: &'a mut Random,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.payload[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
        self
    }

    /// At most as many as fit.
    fn random(&mut self, octets: usize) -> &mut Self {
        let octets = octets.min(self.payload.len() - self.length);
        self.random.fill(&mut self.payload[self.length..self.length + octets]);
        self.length += octets;
        self
    }

    /// A point on Curve25519, below 2^255.
    fn public_key(&mut self) -> &mut Self {
        self.random(32);
        self.payload[self.length - 1] &= 0x7f;
        self
    }

    /// A record with a client's (1) or server's (2) hello of so many octets.
    fn tls_hello(&mut self, kind: u8, octets: u16) -> &mut Self {
        self.put(&[0x16, 3, 1]).put(&octets.to_be_bytes()).put(&[kind, 0]).put(&(octets - 4).to_be_bytes());
        self.put(&[3, 3]).random(usize::from(octets) - 6)
    }

    /// A data packet with its counter.
    fn openvpn_data(&mut self, number: u32, direction: usize) {
        let length = if direction == 1 { 1_360 } else { self.random.size(60, 700) };
        self.put(&[0x48, 0, 0, if direction == 0 { 7 } else { 0 }]).put(&number.to_be_bytes()).random(length);
    }

    /// Writes the length of what follows into the two octets at `at`.
    fn frame(&mut self, at: usize) {
        let length = (self.length - at - 2) as u16;
        self.payload[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(arguments: &[&str]) -> (Vec<u8>, usize, usize) {
        let options = Options::parse(arguments.iter().map(|&text| text.to_owned())).unwrap();
        let mut bytes = Vec::new();
        let (packets, flows) = write(&options, &mut bytes).unwrap();
        (bytes, packets, flows)
    }

    /// FNV-1a.
    fn hash(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    /// Committed instruction counts are those of these bytes: whoever changes them rewrites the counts.
    #[test]
    fn the_same_arguments_give_the_same_bytes_everywhere() {
        for (shape, expected) in [("mix", MIX), ("elephants", ELEPHANTS), ("streams", STREAMS), ("uniform", UNIFORM)] {
            let (bytes, packets, _) = made(&[shape, "-", "--packets", "2000"]);
            assert_eq!(packets, 2_000);
            assert_eq!(hash(&bytes), expected, "{shape}");
        }
        assert_ne!(hash(&made(&["mix", "-", "--packets", "2000", "--seed", "2"]).0), MIX);
    }

    const MIX: u64 = 0x4b74_488d_8a20_37eb;
    const ELEPHANTS: u64 = 0xb357_6bbc_a4a4_7614;
    const STREAMS: u64 = 0xa8e3_e377_4b0c_d9a0;
    const UNIFORM: u64 = 0x0f95_747c_eafc_6535;

    #[test]
    fn there_are_as_many_packets_and_flows_as_asked_for() {
        for (shape, packets, flows) in
            [("mix", 5_000, 50), ("mix", 5_000, 250), ("mix", 5_000, 2_500), ("streams", 900, 9), ("uniform", 70, 70)]
        {
            let (packets_text, flows_text) = (packets.to_string(), flows.to_string());
            let (_, made_packets, made_flows) = made(&[shape, "-", "--packets", &packets_text, "--flows", &flows_text]);
            assert_eq!((made_packets, made_flows), (packets, flows), "{shape}");
        }
    }

    #[test]
    fn frames_of_one_size_have_it() {
        for size in [64, 128, 1_500] {
            let (bytes, packets, _) = made(&["uniform", "-", "--packets", "60", "--size", &size.to_string()]);
            assert_eq!(bytes.len(), 24 + packets * (16 + size));
        }
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        for arguments in [
            &["small", "-"][..],
            &["mix"],
            &["mix", "-", "--packets"],
            &["mix", "-", "--packets", "many"],
            &["mix", "-", "--packets", "49"],
            &["mix", "-", "--packets", "100", "--flows", "101"],
            &["uniform", "-", "--size", "63"],
            &["uniform", "-", "--colour", "1"],
        ] {
            assert!(Options::parse(arguments.iter().map(|&text| text.to_owned())).is_err(), "{arguments:?}");
        }
    }
}
