//! Captures by construction: every variant of the formats written out byte by byte from their specifications
//! (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng, RFC 1952, RFC 8878), every fault, and random ones written
//! and read back.

#![allow(clippy::expect_used)] // a test may

use std::io::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use vpn_classifier_core::capture::{CaptureError, FrameBatch, FrameRef, LinkType, Reason, open};
use vpn_classifier_core::fuzzing::{Frame, capture, read_capture};

/// Small enough that every record below is split.
const TINY: usize = 7;
const LARGE: usize = 1 << 20;

const ETHERNET: u32 = 1;

/// Writes integers in the order of a machine.
#[derive(Clone, Copy, Debug)]
struct Writer {
    big: bool,
}

const LITTLE: Writer = Writer { big: false };
const BIG: Writer = Writer { big: true };

impl Writer {
    fn u16(self, value: u16) -> [u8; 2] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn u64(self, value: u64) -> [u8; 8] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn pcap_header(self, magic: u32, snaplen: u32, link: u32) -> Vec<u8> {
        self.pcap_header_of(magic, (2, 4), snaplen, link)
    }

    fn pcap_header_of(self, magic: u32, version: (u16, u16), snaplen: u32, link: u32) -> Vec<u8> {
        let mut out = self.u32(magic).to_vec();
        out.extend(self.u16(version.0));
        out.extend(self.u16(version.1));
        out.extend([0; 8]);
        out.extend(self.u32(snaplen));
        out.extend(self.u32(link));
        out
    }

    fn pcap_record(self, seconds: u32, subsecond: u32, bytes: &[u8], original: u32) -> Vec<u8> {
        let fields = [seconds, subsecond, bytes.len() as u32, original];
        let mut out: Vec<u8> = fields.into_iter().flat_map(|field| self.u32(field)).collect();
        out.extend(bytes);
        out
    }

    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padding = body.len().next_multiple_of(4) - body.len();
        let length = self.u32((12 + body.len() + padding) as u32);
        [&self.u32(kind)[..], &length, body, &vec![0; padding], &length].concat()
    }

    fn section(self) -> Vec<u8> {
        let magic = self.u32(0x1a2b_3c4d);
        // Section length -1: not known.
        self.block(0x0a0d_0d0a, &[&magic[..], &self.u16(1), &self.u16(0), &[0xff; 8]].concat())
    }

    fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let mut out = [self.u16(code), self.u16(value.len() as u16)].concat();
        out.extend(value);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn interface(self, linktype: u16, snaplen: u32, options: &[u8]) -> Vec<u8> {
        self.block(1, &[&self.u16(linktype)[..], &[0, 0], &self.u32(snaplen), options].concat())
    }

    fn packet_fields(self, time: u64, captured: u32, original: u32) -> Vec<u8> {
        let fields = [(time >> 32) as u32, time as u32, captured, original];
        fields.into_iter().flat_map(|field| self.u32(field)).collect()
    }

    fn enhanced(self, interface: u32, time: u64, bytes: &[u8], original: u32) -> Vec<u8> {
        let fields = self.packet_fields(time, bytes.len() as u32, original);
        self.block(6, &[&self.u32(interface)[..], &fields, bytes].concat())
    }

    fn old_packet(self, interface: u16, time: u64, bytes: &[u8], original: u32) -> Vec<u8> {
        let fields = self.packet_fields(time, bytes.len() as u32, original);
        // 0xffff: the number of drops is not known.
        self.block(2, &[&self.u16(interface)[..], &[0xff, 0xff], &fields, bytes].concat())
    }

    fn simple(self, original: u32, bytes: &[u8]) -> Vec<u8> {
        self.block(3, &[&self.u32(original)[..], bytes].concat())
    }
}

fn frame(time: i64, bytes: &[u8], original: u32, linktype: u16) -> Frame {
    let reference = FrameRef { time, offset: 0, captured: bytes.len() as u32, original, linktype: LinkType(linktype) };
    (reference, bytes.to_vec())
}

/// Reads in large blocks and in tiny ones, which must agree.
fn read(data: &[u8]) -> (Vec<Frame>, Result<(), CaptureError>) {
    let large = read_capture(data, LARGE);
    let tiny = read_capture(data, TINY);
    assert_eq!(large.1, tiny.1);
    assert!(large.0 == tiny.0, "{} and {} frames differ", large.0.len(), tiny.0.len());
    large
}

fn read_whole(data: &[u8]) -> Vec<Frame> {
    let (frames, ended) = read(data);
    assert_eq!(ended, Ok(()));
    frames
}

fn read_fault(data: &[u8]) -> (Vec<Frame>, CaptureError) {
    let (frames, ended) = read(data);
    (frames, ended.expect_err("the capture has a fault"))
}

/// A capture of two frames of 5 and 4 bytes, with the offset of the second record.
fn two_frames() -> (Vec<u8>, usize) {
    let mut data = LITTLE.pcap_header(0xa1b2_c3d4, 65_535, ETHERNET);
    data.extend(LITTLE.pcap_record(1, 2, b"first", 5));
    let second = data.len();
    data.extend(LITTLE.pcap_record(3, 4, b"next", 60));
    (data, second)
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).expect("written to memory");
    encoder.finish().expect("written to memory")
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
    encoder.include_checksum(true).expect("a known parameter");
    encoder.write_all(data).expect("written to memory");
    encoder.finish().expect("written to memory")
}

// --- pcap ---------------------------------------------------------------------------------------------------

#[test]
fn pcap_as_bytes() {
    // As `tcpdump -w` writes on a little-endian machine; 1 January 2026, 00:00:00.000007.
    let data = [
        0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0, // file header
        0x00, 0xb9, 0x55, 0x69, 7, 0, 0, 0, 3, 0, 0, 0, 60, 0, 0, 0, 0xaa, 0xbb, 0xcc, // one record
    ];
    let expected = frame(1_767_225_600_000_007_000, &[0xaa, 0xbb, 0xcc], 60, 1);
    assert_eq!(read_whole(&data), [expected]);
}

#[test]
fn pcap_in_both_byte_orders_and_resolutions() {
    for writer in [LITTLE, BIG] {
        for (magic, unit) in [(0xa1b2_c3d4, 1_000), (0xa1b2_3c4d, 1)] {
            let mut data = writer.pcap_header(magic, 65_535, 101);
            data.extend(writer.pcap_record(10, 999_999, b"payload", 7));
            data.extend(writer.pcap_record(9, 0, b"", 0));
            let expected =
                [frame(10_000_000_000 + 999_999 * unit, b"payload", 7, 101), frame(9_000_000_000, b"", 0, 101)];
            assert_eq!(read_whole(&data), expected, "{writer:?} {magic:#x}");
        }
    }
}

#[test]
fn pcap_header_alone_is_a_capture_without_frames() {
    assert_eq!(read_whole(&LITTLE.pcap_header(0xa1b2_c3d4, 65_535, ETHERNET)), []);
}

#[test]
fn pcap_link_type_is_the_lower_half_of_its_field() {
    // Frame check sequence of 4 octets (bits 28 to 31), said to be present (bit 26).
    let mut data = BIG.pcap_header(0xa1b2_c3d4, 65_535, 0x4400_0114);
    data.extend(BIG.pcap_record(0, 0, b"x", 1));
    assert_eq!(read_whole(&data), [frame(0, b"x", 1, 276)]);
}

#[test]
fn pcap_odd_fields_are_read_the_same_way_always() {
    let mut data = LITTLE.pcap_header(0xa1b2_c3d4, 0, ETHERNET);
    // More than a second of microseconds is carried over; times are unsigned and end in 2106.
    data.extend(LITTLE.pcap_record(1, 2_500_000, b"a", 1));
    data.extend(LITTLE.pcap_record(u32::MAX, u32::MAX, b"b", 1));
    // An original length below the captured one is raised to it.
    data.extend(LITTLE.pcap_record(2, 0, b"abcdef", 3));
    let expected = [
        frame(3_500_000_000, b"a", 1, 1),
        frame(4_294_967_295_000_000_000 + 4_294_967_295_000, b"b", 1, 1),
        frame(2_000_000_000, b"abcdef", 6, 1),
    ];
    assert_eq!(read_whole(&data), expected);
}

#[test]
fn pcap_before_version_2_4_has_its_lengths_in_another_order() {
    // Captured 2, original 9. Before 2.3 the original length comes first; in 2.3 either may.
    for (version, first, second) in [((2, 1), 9_u32, 2_u32), ((2, 3), 9, 2), ((2, 3), 2, 9), ((2, 4), 2, 9)] {
        let mut data = LITTLE.pcap_header_of(0xa1b2_c3d4, version, 65_535, ETHERNET);
        data.extend([0; 8]);
        data.extend(LITTLE.u32(first));
        data.extend(LITTLE.u32(second));
        data.extend(b"ab");
        assert_eq!(read_whole(&data), [frame(0, b"ab", 9, 1)], "{version:?}");
    }
}

#[test]
fn pcap_of_another_version_is_refused() {
    let data = LITTLE.pcap_header_of(0xa1b2_c3d4, (1, 4), 65_535, ETHERNET);
    let (_, error) = read_fault(&data);
    assert_eq!((error.reason, error.offset), (Reason::Malformed, Some(4)));
    assert_eq!(error.found, "pcap version 1.4");
}

#[test]
fn pcap_record_longer_than_the_block_is_read_whole() {
    let bytes: Vec<u8> = (0..262_144_u32).map(|number| (number % 251) as u8).collect();
    let mut data = LITTLE.pcap_header(0xa1b2_c3d4, 65_535, ETHERNET);
    data.extend(LITTLE.pcap_record(1, 0, &bytes, 262_144));
    data.extend(LITTLE.pcap_record(2, 0, b"after", 5));
    let expected = [frame(1_000_000_000, &bytes, 262_144, 1), frame(2_000_000_000, b"after", 5, 1)];
    for block in [LARGE, 4_096] {
        assert!(read_capture(&data, block) == (expected.to_vec(), Ok(())));
    }
}

#[test]
fn pcap_record_beyond_the_limit_stops_there() {
    // The limit is 262144, or the file's snaplen where that is larger, up to 16 MiB.
    for (snaplen, claimed, limit) in [
        (65_535, 0xffff_fff0, "262144"),
        (65_535, 262_145, "262144"),
        (300_000, 300_001, "300000"),
        (u32::MAX, 16_777_217, "16777216"),
    ] {
        let mut data = LITTLE.pcap_header(0xa1b2_c3d4, snaplen, ETHERNET);
        data.extend(LITTLE.pcap_record(1, 0, b"whole", 5));
        data.extend([0; 8]);
        data.extend(LITTLE.u32(claimed));
        data.extend([0; 64]);
        let (frames, error) = read_fault(&data);
        assert_eq!(frames, [frame(1_000_000_000, b"whole", 5, 1)]);
        // 24 of the file header, 16 + 5 of the first record.
        assert_eq!((error.reason, error.offset), (Reason::Malformed, Some(45)));
        assert_eq!(error.found, format!("a record of {claimed} captured bytes"));
        assert_eq!(error.expected, format!("at most {limit}"));
    }
}

#[test]
fn pcap_cut_inside_a_record_gives_what_was_whole() {
    let (data, second) = two_frames();
    let (frames, error) = read_fault(&data[..second + 18]);
    assert_eq!(frames, [frame(1_000_002_000, b"first", 5, 1)]);
    assert_eq!(
        error.to_string(),
        "capture cut short at offset 45: found 18 bytes before the end, expected a record of 20 bytes"
    );
    let (frames, error) = read_fault(&data[..second + 3]);
    assert_eq!(frames.len(), 1);
    assert_eq!((error.reason, error.offset), (Reason::Truncated, Some(45)));
}

#[test]
fn after_an_error_comes_the_end() {
    let directory = Scratch::new("after-error");
    let (data, second) = two_frames();
    let path = directory.file("cut.pcap", &data[..second + 1]);
    let mut source = open(&path).expect("a capture");
    let mut batch = FrameBatch::new();
    assert_eq!(source.fill(&mut batch), Ok(true));
    assert_eq!(batch.frames().len(), 1);
    assert!(source.fill(&mut batch).is_err());
    assert_eq!(source.fill(&mut batch), Ok(false));
    assert!(batch.frames().is_empty());
}

// --- pcapng -------------------------------------------------------------------------------------------------

#[test]
fn pcapng_as_bytes() {
    let data = [
        &[0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 28, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0][..], // big-endian section
        &[0xff; 8],
        &[0, 0, 0, 28],
        &[0, 0, 0, 1, 0, 0, 0, 20, 0, 101, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20], // interface 0: raw IP, no snaplen
        &[0, 0, 0, 6, 0, 0, 0, 36, 0, 0, 0, 0],                            // enhanced packet of 36 bytes, interface 0
        &[0, 0, 0, 1, 0, 0, 0, 2],                                         // 2^32 + 2 microseconds
        &[0, 0, 0, 3, 0, 0, 0, 40, 0xaa, 0xbb, 0xcc, 0, 0, 0, 0, 36],      // 3 of 40 bytes, padded
    ]
    .concat();
    assert_eq!(read_whole(&data), [frame(4_294_967_298_000, &[0xaa, 0xbb, 0xcc], 40, 101)]);
}

#[test]
fn pcapng_blocks_of_packets_in_both_byte_orders() {
    for writer in [LITTLE, BIG] {
        let data = [
            writer.section(),
            writer.interface(1, 4, &[]),
            writer.interface(113, 0, &writer.option(9, &[9])),
            writer.simple(3, b"abc"),
            writer.enhanced(0, 5, b"enhanced", 90),
            writer.enhanced(1, 6, b"cooked", 6),
            writer.old_packet(1, 7, b"old", 3),
            // Interface 0 keeps 4 bytes; the packet before was at 7 nanoseconds.
            writer.simple(6, b"simp"),
            // Name resolution, statistics, a custom block and a type that nobody knows.
            writer.block(4, &[0; 8]),
            writer.block(5, &[0xff; 12]),
            writer.block(0x0bad, b"\0\0\0\0custom"),
            writer.block(0x7777_7777, b"?"),
            writer.enhanced(1, 8, b"", 0),
        ]
        .concat();
        let expected = [
            frame(0, b"abc", 3, 1),
            frame(5_000, b"enhanced", 90, 1),
            frame(6, b"cooked", 6, 113),
            frame(7, b"old", 3, 113),
            frame(7, b"simp", 6, 1),
            frame(8, b"", 0, 113),
        ];
        assert_eq!(read_whole(&data), expected, "{writer:?}");
    }
}

#[test]
fn pcapng_sections_forget_interfaces_and_may_change_order() {
    let data = [
        LITTLE.section(),
        LITTLE.interface(1, 0, &[]),
        LITTLE.interface(101, 0, &[]),
        LITTLE.enhanced(1, 1, b"a", 1),
        BIG.section(),
        BIG.interface(276, 0, &[]),
        BIG.simple(1, b"b"),
        BIG.enhanced(0, 2, b"c", 1),
    ]
    .concat();
    let expected = [frame(1_000, b"a", 1, 101), frame(0, b"b", 1, 276), frame(2_000, b"c", 1, 276)];
    assert_eq!(read_whole(&data), expected);

    let undefined = BIG.enhanced(1, 3, b"d", 1);
    let (frames, error) = read_fault(&[&data[..], &undefined].concat());
    assert_eq!(frames, expected);
    assert_eq!((error.reason, error.offset), (Reason::Malformed, Some(data.len() as u64)));
    assert_eq!(error.found, "a packet of interface 1");
    assert_eq!(error.expected, "one of the 1 interfaces of its section, from 0");
}

#[test]
fn pcapng_time_resolution_and_offset() {
    // (if_tsresol, if_tsoffset in seconds, time in units, nanoseconds)
    let cases: [(u8, i64, u64, i64); 13] = [
        (0, 0, 3, 3_000_000_000),
        (3, 0, 1_500, 1_500_000_000),
        (6, 100, 1, 100_000_001_000),
        (9, -1, 2_000_000_001, 1_000_000_001),
        (10, 0, 19, 1),
        (12, 0, 1_999, 1),
        (28, 0, u64::MAX, 1),
        (29, 0, u64::MAX, 0),
        (127, 0, u64::MAX, 0),
        (0x80, 0, 7, 7_000_000_000),
        (0x80 | 20, 0, 1 << 19, 500_000_000),
        // Saturates at either end.
        (0, 0, u64::MAX, i64::MAX),
        (9, i64::MIN, 0, i64::MIN),
    ];
    for (resolution, offset, units, nanoseconds) in cases {
        let options = [
            LITTLE.option(2, b"eth0"),
            LITTLE.option(9, &[resolution]),
            LITTLE.option(14, &LITTLE.u64(offset as u64)),
            LITTLE.option(0, &[]),
        ]
        .concat();
        let data = [LITTLE.section(), LITTLE.interface(1, 0, &options), LITTLE.enhanced(0, units, b"x", 1)].concat();
        let expected = frame(nanoseconds, b"x", 1, 1);
        assert_eq!(read_whole(&data), [expected], "{resolution} {offset} {units}");
    }
}

#[test]
fn pcapng_options_after_a_packet_are_no_part_of_it() {
    let body = [
        &LITTLE.u32(0)[..],
        &LITTLE.packet_fields(1, 3, 3),
        b"abc\0",
        &LITTLE.option(1, b"a comment"),
        &LITTLE.option(0, &[]),
    ]
    .concat();
    let data = [LITTLE.section(), LITTLE.interface(1, 0, &[]), LITTLE.block(6, &body)].concat();
    assert_eq!(read_whole(&data), [frame(1_000, b"abc", 3, 1)]);
}

#[test]
fn pcapng_faults_stop_at_their_block() {
    let before = [LITTLE.section(), LITTLE.interface(1, 0, &[]), LITTLE.enhanced(0, 1, b"good", 4)].concat();
    let mut disagreeing = LITTLE.block(99, b"body");
    let last = disagreeing.len() - 4;
    disagreeing[last] = 20;
    let mut claims_much = LITTLE.enhanced(0, 1, b"abcd", 4);
    claims_much[20..24].copy_from_slice(&LITTLE.u32(0xffff_fff0));
    let mut other_version = LITTLE.section();
    other_version[12] = 2;
    let mut no_magic = LITTLE.section();
    no_magic[8] = 0;
    let with_length = |length: u32| [LITTLE.u32(99), LITTLE.u32(length), [0; 4], [0; 4]].concat();
    let options = |options: &[u8]| LITTLE.interface(1, 0, options);

    let cases: [(&str, Vec<u8>, &str); 15] = [
        ("lengths differ", disagreeing, "begins with length 16 and ends with 20"),
        ("length 0", with_length(0), "length 0"),
        ("length 8", with_length(8), "length 8"),
        ("not a multiple of 4", with_length(15), "length 15"),
        ("4 GB", with_length(0xffff_fffc), "length 4294967292"),
        ("captured beyond block", claims_much, "claims 4294967280 captured bytes"),
        ("short packet", LITTLE.block(6, &[0; 16]), "body of 16 bytes"),
        ("short simple packet", LITTLE.block(3, &[]), "body of 0 bytes"),
        ("short interface", LITTLE.block(1, &[0; 4]), "body of 4 bytes"),
        ("simple beyond block", LITTLE.simple(9, b"abcd"), "9 captured bytes"),
        ("other version", other_version, "pcapng version 2.0"),
        ("no byte-order magic", no_magic, "without a byte-order magic"),
        ("option beyond block", options(&[2, 0, 5, 0]), "option 2 of 5 bytes in 0"),
        ("short resolution", options(&LITTLE.option(9, &[])), "option 9 of 0 bytes"),
        ("short offset", options(&LITTLE.option(14, &[1; 4])), "option 14 of 4 bytes"),
    ];
    for (name, block, found) in cases {
        let (frames, error) = read_fault(&[&before[..], &block].concat());
        assert_eq!(frames, [frame(1_000, b"good", 4, 1)], "{name}");
        assert_eq!((error.reason, error.offset), (Reason::Malformed, Some(before.len() as u64)), "{name}");
        assert!(error.found.contains(found), "{name}: {error}");
    }
}

#[test]
fn pcapng_packet_before_any_interface_is_a_fault() {
    for block in [LITTLE.simple(1, b"a"), LITTLE.enhanced(0, 0, b"a", 1), LITTLE.old_packet(0, 0, b"a", 1)] {
        let (frames, error) = read_fault(&[LITTLE.section(), block].concat());
        assert_eq!(frames, []);
        assert_eq!((error.reason, error.offset), (Reason::Malformed, Some(28)));
        assert_eq!(error.expected, "an interface block before it");
    }
}

#[test]
fn pcapng_number_of_interfaces_is_bounded() {
    let interface = LITTLE.interface(1, 0, &[]);
    let allowed = [LITTLE.section(), interface.repeat(65_536)].concat();
    let last = [&allowed[..], &LITTLE.enhanced(65_535, 1, b"a", 1)].concat();
    assert_eq!(read_capture(&last, LARGE), (vec![frame(1_000, b"a", 1, 1)], Ok(())));
    let (_, ended) = read_capture(&[&allowed[..], &interface].concat(), LARGE);
    let error = ended.expect_err("one too many");
    assert_eq!((error.reason, error.offset), (Reason::Malformed, Some(allowed.len() as u64)));
}

// --- what is no capture -------------------------------------------------------------------------------------

#[test]
fn nothing_is_empty() {
    let (_, error) = read_fault(&[]);
    assert_eq!((error.reason, error.found.as_str()), (Reason::Empty, "0 bytes"));
    for (packed, found) in [(gzip(&[]), "0 bytes inside gzip"), (zstd(&[]), "0 bytes inside zstd")] {
        let (_, error) = read_fault(&packed);
        assert_eq!((error.reason, error.found.as_str()), (Reason::Empty, found));
    }
}

#[test]
fn other_formats_are_named_and_four_bytes_shown() {
    for (data, found) in [
        (&b"no capture, but words"[..], "first bytes 6e 6f 20 63"),
        (b"abc", "3 bytes"),
        (b"snoop\0\0\0\0\0\0\x02", "first bytes 73 6e 6f 6f, which is a snoop capture"),
        (b"\xa1\xb2\xcd\x34\0\x02\0\x04", "first bytes a1 b2 cd 34, which is a pcap variant by Alexey Kuznetsov"),
        (b"\x34\xcd\xb2\xa1\x02\0\x04\0", "first bytes 34 cd b2 a1, which is a pcap variant by Alexey Kuznetsov"),
        (b"\xfd7zXZ\0\0\0", "first bytes fd 37 7a 58, which is xz data"),
        (b"PK\x03\x04....", "first bytes 50 4b 03 04, which is a zip archive"),
        (b"\n\r\r\n\0\0\0\x1cwrong", "first bytes 0a 0d 0d 0a without a byte-order magic"),
    ] {
        let (frames, error) = read_fault(data);
        assert_eq!(frames, []);
        assert_eq!((error.reason, error.found.as_str()), (Reason::NotACapture, found));
    }
    let (_, error) = read_fault(&gzip(&gzip(&two_frames().0)));
    assert_eq!(error.reason, Reason::NotACapture);
    assert!(error.found.ends_with("inside gzip, which is gzip data"), "{error}");
    let (_, error) = read_fault(b"what a stranger wrote");
    assert_eq!(
        error.to_string(),
        "not a capture at offset 0: found first bytes 77 68 61 74, expected a pcap or pcapng capture, plain or \
         compressed with gzip or zstd"
    );
}

// --- gzip and zstd ------------------------------------------------------------------------------------------

#[test]
fn compressed_captures_read_like_plain_ones() {
    let (pcap, second) = two_frames();
    let pcapng = [LITTLE.section(), LITTLE.interface(1, 0, &[]), LITTLE.enhanced(0, 1, b"x", 1)].concat();
    // Magic number of a skippable frame, its length, its content (RFC 8878, 3.1.2).
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
    for plain in [&pcap[..], &pcapng] {
        let expected = read_whole(plain);
        let (front, back) = plain.split_at(second.min(30));
        for packed in [
            gzip(plain),
            [gzip(front), gzip(back)].concat(),
            // An empty member, as bgzip appends.
            [gzip(front), gzip(&[]), gzip(back), gzip(&[])].concat(),
            zstd(plain),
            [zstd(front), zstd(back)].concat(),
            [&skippable[..], &zstd(front), &skippable, &zstd(back), &skippable].concat(),
        ] {
            assert_eq!(read_whole(&packed), expected);
        }
    }
}

#[test]
fn gzip_header_with_every_field() {
    // RFC 1952, 2.3: flags FHCRC is left out, FEXTRA, FNAME and FCOMMENT are set.
    let (plain, _) = two_frames();
    let packed = gzip(&plain);
    let header = [&[0x1f, 0x8b, 8, 0b1_1100, 0, 0, 0, 0, 0, 3, 2, 0][..], b"xx", b"name\0", b"comment\0"].concat();
    assert_eq!(read_whole(&[&header[..], &packed[10..]].concat()), read_whole(&plain));
}

/// 200 frames of 1,000 bytes that do not compress, so that damage in the middle is in the middle of the frames.
fn long_capture() -> Vec<u8> {
    let mut data = LITTLE.pcap_header(0xa1b2_c3d4, 65_535, ETHERNET);
    let mut state = 1_u32;
    for number in 0..200 {
        let bytes: Vec<u8> = (0..1_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        data.extend(LITTLE.pcap_record(number, 0, &bytes, 1_000));
    }
    data
}

#[test]
fn cut_compressed_capture_gives_what_was_whole() {
    let plain = long_capture();
    let all = read_whole(&plain);
    // zstd gives whole blocks of 128 KiB.
    for (packed, quarters, at_least, piece) in
        [(gzip(&plain), 2, 95, "a gzip member"), (zstd(&plain), 3, 128, "a zstd frame")]
    {
        let cut = packed.len() * quarters / 4;
        let (frames, error) = read_fault(&packed[..cut]);
        assert!(frames.len() >= at_least && frames.len() < 200, "{} frames", frames.len());
        assert!(frames == all[..frames.len()]);
        assert_eq!(error.reason, Reason::Compression);
        assert_eq!(error.found, format!("the end of the file inside {piece}"));
        // The offset is in the decompressed capture, inside the record that is missing.
        let reached = error.offset.expect("an offset");
        let whole = 24 + 1_016 * frames.len() as u64;
        assert!((whole..whole + 1_016).contains(&reached), "{reached} {whole}");
    }
}

#[test]
fn damaged_checksum_is_told_after_all_frames() {
    let plain = long_capture();
    let mut packed = gzip(&plain);
    let crc = packed.len() - 8; // RFC 1952, 2.3.1: CRC-32 and length are the last eight bytes
    packed[crc] ^= 1;
    let mut zstd_packed = zstd(&plain);
    let checksum = zstd_packed.len() - 4; // RFC 8878, 3.1.1: the content checksum ends the frame
    zstd_packed[checksum] ^= 1;
    for (packed, found) in [(packed, "gzip: "), (zstd_packed, "zstd: ")] {
        let (frames, error) = read_fault(&packed);
        assert_eq!(frames.len(), 200);
        assert_eq!((error.reason, error.offset), (Reason::Compression, Some(plain.len() as u64)));
        assert!(error.found.starts_with(found), "{error}");
    }
}

#[test]
fn bytes_after_a_compressed_capture_are_told_after_all_frames() {
    let (plain, _) = two_frames();
    for packed in [gzip(&plain), zstd(&plain)] {
        let (frames, error) = read_fault(&[&packed[..], b"something else"].concat());
        assert_eq!(frames.len(), 2);
        assert_eq!((error.reason, error.offset), (Reason::Compression, Some(plain.len() as u64)));
    }
}

#[test]
fn zstd_window_is_bounded() {
    // RFC 8878, 3.1.1.1: no checksum, no single segment; window descriptor with exponent 18: 2^28 bytes.
    let (_, error) = read_fault(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 18 << 3, 0x01, 0x00, 0x00]);
    assert_eq!(error.reason, Reason::Compression);
    assert!(error.expected.contains("128 MiB"), "{error}");
    // One less is what is allowed: an empty last raw block, so an empty capture.
    let (_, error) = read_fault(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00]);
    assert_eq!(error.reason, Reason::Empty);
}

#[test]
fn batches_stay_small_however_far_a_capture_unpacks() {
    // 16 MiB of records without bytes: 16 zeros each.
    let mut plain = LITTLE.pcap_header(0xa1b2_c3d4, 65_535, ETHERNET);
    plain.resize(16 << 20, 0);
    let directory = Scratch::new("bomb");
    for packed in [gzip(&plain), zstd(&plain)] {
        assert!(packed.len() < plain.len() / 500);
        let path = directory.file("bomb", &packed);
        let mut source = open(&path).expect("a capture");
        assert_eq!(source.size(), Some(packed.len() as u64));
        let mut batch = FrameBatch::new();
        let (mut fills, mut frames) = (0, 0);
        loop {
            let more = source.fill(&mut batch);
            assert!(batch.frames().len() <= (1 << 20) / 16 + 1);
            frames += batch.frames().len();
            fills += 1;
            if !matches!(more, Ok(true)) {
                break;
            }
        }
        assert_eq!(frames, (plain.len() - 24) / 16);
        assert!(fills >= 16);
        assert_eq!(source.bytes_read(), packed.len() as u64);
    }
}

// --- files --------------------------------------------------------------------------------------------------

/// A directory that goes away with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("vpn-classifier-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn file(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, data).expect("a temporary file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open_fault(path: &Path) -> CaptureError {
    open(path).err().expect("no capture")
}

#[test]
fn files_are_told_by_their_first_bytes_and_not_by_name() {
    let directory = Scratch::new("files");
    let (plain, _) = two_frames();
    for packed in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let path = directory.file("capture.txt", &packed);
        let mut source = open(&path).expect("a capture");
        let mut batch = FrameBatch::new();
        assert_eq!(source.fill(&mut batch), Ok(true));
        assert_eq!(batch.frames().len(), 2);
        assert_eq!(batch.bytes(&batch.frames()[1]), b"next");
        assert_eq!(source.fill(&mut batch), Ok(false));
        assert_eq!(source.bytes_read(), packed.len() as u64);
        assert_eq!(source.size(), Some(packed.len() as u64));
    }
}

#[test]
fn files_that_cannot_be_read() {
    let directory = Scratch::new("unreadable");
    assert_eq!(open_fault(&directory.0.join("missing.pcap")).reason, Reason::NotFound);
    assert_eq!(open_fault(&directory.file("empty.pcap", &[])).reason, Reason::Empty);
    let error = open_fault(&directory.0);
    assert_eq!((error.reason, error.found.as_str()), (Reason::NotACapture, "a directory"));
}

#[test]
fn link_types_have_names() {
    for (number, name) in [
        (0, "NULL"),
        (1, "ETHERNET"),
        (101, "RAW"),
        (108, "LOOP"),
        (113, "LINUX_SLL"),
        (127, "IEEE802_11_RADIOTAP"),
        (228, "IPV4"),
        (229, "IPV6"),
        (276, "LINUX_SLL2"),
        (65_535, "unassigned or unknown"),
    ] {
        assert_eq!(LinkType(number).name(), name);
    }
    assert_eq!(LinkType(276).to_string(), "276 (LINUX_SLL2)");
}

// --- anything -----------------------------------------------------------------------------------------------

/// A frame to write: seconds, microseconds, bytes, bytes that were not captured.
fn frames_to_write() -> impl Strategy<Value = Vec<(u32, u32, Vec<u8>, u32)>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    prop::collection::vec((any::<u32>(), 0..1_000_000_u32, bytes, 0..2_000_u32), 0..20)
}

/// The same frames as pcap (0, 1: little- and big-endian) or as pcapng (2, 3), and what reading must give.
fn written(kind: usize, frames: &[(u32, u32, Vec<u8>, u32)]) -> (Vec<u8>, Vec<Frame>) {
    let writer = if kind.is_multiple_of(2) { LITTLE } else { BIG };
    let mut data = if kind < 2 {
        writer.pcap_header(0xa1b2_c3d4, 65_535, ETHERNET)
    } else {
        [writer.section(), writer.interface(1, 0, &[])].concat()
    };
    let mut expected = Vec::new();
    for (seconds, micros, bytes, missing) in frames {
        let original = bytes.len() as u32 + missing;
        let time = u64::from(*seconds) * 1_000_000 + u64::from(*micros);
        data.extend(if kind < 2 {
            writer.pcap_record(*seconds, *micros, bytes, original)
        } else {
            writer.enhanced(0, time, bytes, original)
        });
        expected.push(frame(time as i64 * 1_000, bytes, original, 1));
    }
    (data, expected)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(frames in frames_to_write(), kind in 0..4_usize, block in 1..600_usize) {
        let (data, expected) = written(kind, &frames);
        prop_assert_eq!(read_capture(&data, block), (expected.clone(), Ok(())));
        prop_assert_eq!(read_capture(&gzip(&data), block), (expected.clone(), Ok(())));
        prop_assert_eq!(read_capture(&zstd(&data), block), (expected, Ok(())));
    }

    #[test]
    fn damage_never_panics_nor_depends_on_blocks(
        frames in frames_to_write(),
        kind in 0..4_usize,
        packing in 0..3_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (plain, _) = written(kind, &frames);
        let mut data = match packing {
            0 => plain,
            1 => gzip(&plain),
            _ => zstd(&plain),
        };
        for (place, value) in damage {
            let place = place.index(data.len());
            data[place] = value;
        }
        capture(&data);
    }
}

#[test]
fn every_truncation_gives_the_frames_before_it() {
    let frames = [(1, 2, b"first".to_vec(), 0), (3, 4, vec![], 7), (5, 6, b"the last".to_vec(), 1)];
    for kind in 0..4 {
        let (data, expected) = written(kind, &frames);
        let mut seen = vec![0_usize; expected.len() + 1];
        for length in 0..data.len() {
            let (frames, ended) = read(&data[..length]);
            assert_eq!(frames, expected[..frames.len()], "{kind} {length}");
            seen[frames.len()] += 1;
            match ended {
                // Cut exactly between two records.
                Ok(()) => assert!(length >= 24),
                Err(error) if length < 4 => {
                    assert!(matches!(error.reason, Reason::Empty | Reason::NotACapture))
                }
                Err(error) => {
                    assert_eq!(error.reason, Reason::Truncated, "{kind} {length}");
                    assert!(error.offset.is_some_and(|offset| offset < length as u64));
                }
            }
        }
        // Each record was cut at each of its bytes, after the file header or the two opening blocks.
        let record = if kind < 2 { [16 + 5, 16, 16 + 8] } else { [32 + 8, 32, 32 + 8] };
        let opening = if kind < 2 { 24 } else { 28 + 20 };
        assert_eq!(seen, [opening + record[0], record[1], record[2], 0], "{kind}");
    }
}
