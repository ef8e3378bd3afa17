//! Runs: how many datagrams of one direction in a row have a constant word and a counter that rises.
//!
//! ESP in UDP, OpenVPN's P_DATA_V2 and P_DATA_V1 and its epoch format all show nothing else in clear. One
//! structure counts them all, since every UDP flow must keep it until something else decides.

/// How far a counter may move and still be the same run: loss ahead, reordering behind.
const WINDOW: i64 = 64;
/// Bytes at the head of a datagram that runs look at.
const HEAD: usize = 12;

/// The runs of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    head: [u8; HEAD],
    first_length: u16,
    /// Datagrams in a row whose first four bytes are the same while the u32 at 4 rises by at most 64.
    pub word: u16,
    /// The same for the u48 at 6, with the u16 at 4 constant and not zero.
    pub epoch: u16,
    /// Datagrams in a row whose first byte is the same while the u32 at 1 rises by at most 64.
    pub byte: u16,
    /// Lengths in the run differ.
    pub lengths_differ: bool,
    /// A length in the run of words is not a multiple of four.
    pub odd_length: bool,
    /// A UDP checksum in the run of words is not zero.
    pub checksummed: bool,
    /// A keepalive of OpenVPN's data formats was among them (40, 44 or 37 bytes).
    pub ping_length: bool,
}

impl Run {
    /// Takes note of a datagram. Those too short to judge, and exact repetitions, change nothing.
    pub fn update(&mut self, payload: &[u8], length: u32, checksum_zero: bool) {
        let Some(&head) = payload.first_chunk::<HEAD>() else { return };
        let known = self.word != 0;
        if known && head == self.head {
            return;
        }
        let word = step(u32_at(&self.head, 4), u32_at(&head, 4));
        let byte = step(u32_at(&self.head, 1), u32_at(&head, 1));
        let epoch = step48(&self.head, &head);
        let same_word = known && head[..4] == self.head[..4];
        let same_epoch = same_word && head[4..6] == self.head[4..6] && head[4..6] != [0, 0];
        let same_byte = known && head[0] == self.head[0];
        let (word_goes_on, epoch_goes_on, byte_goes_on) =
            (same_word && word.is_some(), same_epoch && epoch.is_some(), same_byte && byte.is_some());

        self.word = if word_goes_on { self.word.saturating_add(1) } else { 1 };
        self.epoch = if epoch_goes_on { self.epoch.saturating_add(1) } else { 1 };
        self.byte = if byte_goes_on { self.byte.saturating_add(1) } else { 1 };
        if !word_goes_on && !epoch_goes_on && !byte_goes_on {
            (self.lengths_differ, self.odd_length, self.checksummed, self.ping_length) = (false, false, false, false);
            self.first_length = length as u16;
        }
        self.lengths_differ |= length as u16 != self.first_length;
        self.odd_length |= !length.is_multiple_of(4);
        self.checksummed |= !checksum_zero;
        self.ping_length |= matches!(length, 40 | 44 | 37);

        // A datagram that comes late leaves the highest counter in place.
        let late =
            (word_goes_on && word < Some(0)) || (epoch_goes_on && epoch < Some(0)) || (byte_goes_on && byte < Some(0));
        if !late {
            self.head = head;
        }
    }

    /// The constant word.
    pub fn first_word(&self) -> u32 {
        u32_at(&self.head, 0)
    }
}

fn u32_at(head: &[u8; HEAD], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

/// By how much a 32-bit counter moved, wrapping, if that is within the window and not zero.
fn step(before: u32, after: u32) -> Option<i64> {
    let step = i64::from(after.wrapping_sub(before) as i32);
    (step != 0 && step.abs() <= WINDOW).then_some(step)
}

fn step48(before: &[u8; HEAD], after: &[u8; HEAD]) -> Option<i64> {
    let value = |head: &[u8; HEAD]| i64::from_be_bytes([0, 0, head[6], head[7], head[8], head[9], head[10], head[11]]);
    let step = value(after) - value(before);
    (step != 0 && step.abs() <= WINDOW).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(word: u32, counter: u32) -> Vec<u8> {
        [&word.to_be_bytes()[..], &counter.to_be_bytes(), &[0xa5; 32]].concat()
    }

    fn word_run(counters: &[u32]) -> u16 {
        let mut run = Run::default();
        for &counter in counters {
            run.update(&datagram(0xc0de_cafe, counter), 40, true);
        }
        run.word
    }

    #[test]
    fn loss_reordering_and_repetition_do_not_end_a_run() {
        assert_eq!(word_run(&[1, 2, 3, 4]), 4);
        assert_eq!(word_run(&[1, 2, 2, 3]), 3);
        assert_eq!(word_run(&[1, 3, 2, 4]), 4);
        assert_eq!(word_run(&[1, 65, 66]), 3);
        assert_eq!(word_run(&[u32::MAX, 0, 1]), 3);
    }

    #[test]
    fn jumps_and_other_words_do() {
        assert_eq!(word_run(&[1, 2, 67 + 64]), 1);
        let mut run = Run::default();
        run.update(&datagram(1, 1), 40, true);
        run.update(&datagram(2, 2), 40, true);
        assert_eq!(run.word, 1);
    }

    #[test]
    fn the_epoch_format_counts_in_48_bits() {
        let mut run = Run::default();
        for counter in 1..=12_u64 {
            let head = [&[0x48, 0, 0, 1, 0, 1][..], &counter.to_be_bytes()[2..], &[7; 30]].concat();
            run.update(&head, head.len() as u32, false);
        }
        assert_eq!((run.epoch, run.lengths_differ), (12, false));
    }

    #[test]
    fn data_v1_counts_behind_one_byte() {
        let mut run = Run::default();
        for counter in 1..=16_u32 {
            let head = [&[0x30][..], &counter.to_be_bytes(), &[counter as u8; 40]].concat();
            run.update(&head, head.len() as u32, false);
        }
        assert_eq!(run.byte, 16);
    }
}
