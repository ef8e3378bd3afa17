//! Blocks written down as the kernel writes them. What needs an interface is in tests/test_watch.py.

use super::*;

const START: usize = 96;

/// Of a frame: pkttype, status, tci, tpid, wire length, bytes.
type Written<'a> = (u8, u32, u32, u16, u32, &'a [u8]);

fn block(frames: &[Written<'_>]) -> Vec<u8> {
    let mut block = vec![0; 4096];
    let put = |block: &mut Vec<u8>, at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(&mut block, PACKETS, &(frames.len() as u32).to_ne_bytes());
    put(&mut block, FIRST, &48_u32.to_ne_bytes());
    let mut at = 48;
    for (number, (kind, status, tci, tpid, length, bytes)) in frames.iter().enumerate() {
        let next = (START + bytes.len()).next_multiple_of(16);
        let words = [next as u32, 1_700_000_000 + number as u32, 5, bytes.len() as u32, *length, *status];
        for (place, word) in words.into_iter().enumerate() {
            put(&mut block, at + 4 * place, &word.to_ne_bytes());
        }
        put(&mut block, at + 24, &(START as u16).to_ne_bytes());
        put(&mut block, at + 32, &tci.to_ne_bytes());
        put(&mut block, at + 36, &tpid.to_ne_bytes());
        put(&mut block, at + 48 + 10, &[*kind]);
        put(&mut block, at + START, bytes);
        at += next;
    }
    block
}

fn batch(block: &[u8], linktype: LinkType) -> FrameBatch {
    let (mut batch, mut filled) = (FrameBatch::new(), 0);
    batch.reserve(block.len());
    for found in Frames::new(block) {
        append(&mut batch, &mut filled, &found, linktype);
    }
    batch
}

#[test]
fn frames_come_as_they_were_on_the_wire() {
    let frame: Vec<u8> = (0..60).collect();
    let valid = libc::TP_STATUS_VLAN_VALID;
    let both = valid | libc::TP_STATUS_VLAN_TPID_VALID;
    let block =
        block(&[(0, 0, 7, 0x88a8, 60, &frame), (4, valid, 0x6007, 0, 1500, &frame), (0, both, 0, 0x88a8, 60, &frame)]);
    assert_eq!(Frames::new(&block).map(|found| found.kind).collect::<Vec<_>>(), [0, 4, 0]);
    let batch = batch(&block, LinkType(1));
    let seen: Vec<_> = batch.frames().iter().map(|frame| (frame.time, frame.captured, frame.original)).collect();
    let second = |number: i64| (1_700_000_000 + number) * 1_000_000_000 + 5;
    assert_eq!(seen, [(second(0), 60, 60), (second(1), 64, 1504), (second(2), 64, 64)]);
    assert_eq!(batch.bytes(&batch.frames()[0]), frame);
    for (place, tag) in [(1, [0x81, 0x00, 0x60, 0x07]), (2, [0x88, 0xa8, 0, 0])] {
        let bytes = batch.bytes(&batch.frames()[place]);
        assert_eq!((&bytes[..12], &bytes[12..16], &bytes[16..]), (&frame[..12], &tag[..], &frame[12..]));
    }
}

#[test]
fn tags_are_put_back_into_ethernet_alone() {
    let frame = [0x45; 40];
    let block = block(&[
        (0, libc::TP_STATUS_VLAN_VALID, 7, 0, 40, &frame),
        (0, libc::TP_STATUS_VLAN_VALID, 7, 0, 8, &frame[..8]),
    ]);
    assert_eq!(batch(&block, LinkType(101)).frames()[0].captured, 40);
    assert_eq!(batch(&block, LinkType(1)).frames()[1].captured, 8);
}

#[test]
fn no_block_leads_outside_of_it() {
    let good = block(&[(0, 0, 0, 0, 60, &[1; 60]), (0, 0, 0, 0, 60, &[2; 60])]);
    assert_eq!(Frames::new(&good).count(), 2);
    for at in 0..160 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            bad[PACKETS + 2] = 1;
            // Whatever it says, there is an end.
            assert!(Frames::new(&bad).count() <= bad.len());
        }
    }
    assert_eq!(Frames::new(&[]).count(), 0);
}

#[test]
fn settings_have_ranges() {
    let fault = |options: Options| options.fault().map(|(setting, _)| setting);
    assert_eq!(fault(Options::default()), None);
    assert_eq!(fault(Options { threads: 0, ..Options::default() }), Some("threads"));
    assert_eq!(fault(Options { threads: 17, ..Options::default() }), Some("threads"));
    assert_eq!(fault(Options { snap_length: 63, ..Options::default() }), Some("snap_length"));
    assert_eq!(fault(Options { block_size: 100_000, ..Options::default() }), Some("block_size"));
    assert_eq!(fault(Options { blocks: 1, ..Options::default() }), Some("blocks"));
    let huge = Options { block_size: 1 << 24, blocks: 1 << 16, ..Options::default() };
    assert_eq!(fault(huge), Some("block_size times blocks"));
}

#[test]
fn the_kernel_keeps_what_the_program_selects_and_what_has_a_tag() {
    use crate::capture::bpf::Instruction;
    let triples =
        |program: Vec<libc::sock_filter>| program.iter().map(|one| (one.code, one.jt, one.k)).collect::<Vec<_>>();
    let asked = Program::new(vec![
        Instruction { code: 0x15, jt: 0, jf: 1, k: 7 },
        Instruction { code: 6, jt: 0, jf: 0, k: 262_144 },
        Instruction { code: 6, jt: 0, jf: 0, k: 0 },
    ]);
    assert_eq!(triples(kernel_program(96, None)), [(6, 0, 96)]);
    assert_eq!(triples(kernel_program(0, asked.as_ref())), [(6, 0, 0)]);
    let whole = [(0x20, 0, 0xffff_f030), (0x15, 1, 0), (6, 0, 96), (0x15, 0, 7), (6, 0, 96), (6, 0, 0)];
    assert_eq!(triples(kernel_program(96, asked.as_ref())), whole);
}
