//! Runs: how many datagrams of one direction in a row have a constant word and a counter that rises.
//!
//! ESP in UDP, OpenVPN's P_DATA_V2 and P_DATA_V1 and its epoch format all show nothing else in clear. One
//! structure counts them all, since every UDP flow must keep it until something else decides.

/// How far a counter may move and still be the same run: loss ahead, reordering behind.
const WINDOW: i64 = 64;
/// Bytes at the head of a datagram that runs look at: the longest counter and the word behind it.
pub const HEAD: usize = 16;

/// By how much two words that were drawn at random differ at the least, but for one pair in 128.
const RANDOM_STEP: u32 = 1 << 24;

/// The runs of one direction. Counts stay at 255.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    head: [u8; HEAD],
    /// Datagrams in a row whose first four bytes are the same while the u32 at 4 rises by at most 64.
    pub word: u8,
    /// The same for the u48 at 6, with the u16 at 4 constant and not zero.
    pub epoch: u8,
    /// Datagrams in a row whose first byte is the same while the u32 at 1 rises by at most 64.
    pub byte: u8,
    /// Datagrams in a row whose first byte (with opcode 9 of OpenVPN: the first four) is the same, while the next four
    /// look drawn at random and the length leaves the same remainder by eight.
    pub random: u8,
    /// First length of the run.
    first_length: u16,
    /// Of the run, datagrams of which a word behind the counter hardly moved: a tag or ciphertext stands there.
    still: u8,
    flags: u8,
}

/// Of [`Run`]: lengths differ.
const LENGTHS_DIFFER: u8 = 1;
/// Of [`Run`]: a length is not a multiple of four.
const ODD_LENGTH: u8 = 2;
/// Of [`Run`]: a UDP checksum is not zero.
const CHECKSUMMED: u8 = 4;
/// Of [`Run`]: a keepalive's length.
const PING_LENGTH: u8 = 8;
/// Of [`Run`]: bytes behind the counters that no text has.
const NO_TEXT: u8 = 16;
/// Of [`Run::word`]: the counter rose by one somewhere.
const BY_ONE: u8 = 32;

impl Run {
    /// Nothing was seen.
    pub const NONE: Self =
        Self { head: [0; HEAD], word: 0, epoch: 0, byte: 0, random: 0, first_length: 0, still: 0, flags: 0 };

    /// Takes note of a datagram. Those too short to judge, and exact repetitions, change nothing.
    pub fn update(&mut self, payload: &[u8], length: u32, checksum_zero: bool) {
        let Some(&head) = payload.first_chunk::<HEAD>() else { return };
        let known = self.word != 0;
        if known && head == self.head {
            return;
        }
        let before = self.head;
        if head[0] != before[0] {
            // Every run ends; most traffic comes no further.
            (self.word, self.epoch, self.byte, self.random) = (1, 1, 1, 1);
            return self.begin(head, length, checksum_zero);
        }
        let same_word = known && head[..4] == before[..4];
        let same_byte = known && head[0] == before[0];
        let same_epoch = same_word && head[4..6] == before[4..6] && head[4..6] != [0, 0];
        let word = step(u32_at(&before, 4), u32_at(&head, 4)).filter(|_| same_word);
        let byte = step(u32_at(&before, 1), u32_at(&head, 1)).filter(|_| same_byte);
        let epoch = step48(&before, &head).filter(|_| same_epoch);
        // A datagram that comes late neither counts nor ends the run under way: nothing that counts only falls.
        let longest = self.word.max(self.byte).max(self.epoch);
        let is_late = |count: u8, step: Option<i64>| count > 1 && count == longest && step.is_some_and(|step| step < 0);
        if is_late(self.word, word) || is_late(self.byte, byte) || is_late(self.epoch, epoch) {
            return;
        }
        let rises = |step: &i64| *step > 0;
        let (word, byte, epoch) = (word.filter(rises), byte.filter(rises), epoch.filter(rises));
        // OpenVPN's P_DATA_V2 has a constant peer id before what is random.
        let at = if head[0] >> 3 == 9 { 4 } else { 1 };
        let random = known && head[..at] == before[..at] && (length ^ u32::from(self.first_length)).is_multiple_of(8);

        let count = |count: u8, goes_on: bool| if goes_on { count.saturating_add(1) } else { 1 };
        self.word = count(self.word, word.is_some());
        self.byte = count(self.byte, byte.is_some());
        self.epoch = count(self.epoch, epoch.is_some());
        // Two words that hardly differ neither count nor end it: one pair in 128 of random ones does not.
        if !random {
            self.random = 1;
        } else if moved(u32_at(&before, at), u32_at(&head, at)) {
            self.random = self.random.saturating_add(1);
        }
        if word.is_none() && byte.is_none() && epoch.is_none() && !random {
            return self.begin(head, length, checksum_zero);
        }
        self.note(&head, length, checksum_zero);
        match word {
            Some(1) => self.flags |= BY_ONE,
            Some(_) => {}
            None => self.flags &= !BY_ONE,
        }
        let behind: &[usize] = match () {
            () if word.is_some() => &[8, 12],
            () if byte.is_some() => &[5, 9],
            () if epoch.is_some() => &[12],
            () => &[],
        };
        if behind.iter().any(|&at| !moved(u32_at(&before, at), u32_at(&head, at))) {
            self.still = self.still.saturating_add(1);
        }
        self.head = head;
    }

    /// The first datagram of a run.
    fn begin(&mut self, head: [u8; HEAD], length: u32, checksum_zero: bool) {
        (self.first_length, self.still, self.flags) = (length as u16, 0, 0);
        self.note(&head, length, checksum_zero);
        self.head = head;
    }

    fn note(&mut self, head: &[u8; HEAD], length: u32, checksum_zero: bool) {
        if !checksum_zero {
            self.flags |= CHECKSUMMED;
        }
        // The top bits of the last four bytes: at least two.
        let high = u32_at(head, 12) & 0x8080_8080;
        if high & high.wrapping_sub(1) != 0 {
            self.flags |= NO_TEXT;
        }
        if length as u16 != self.first_length {
            self.flags |= LENGTHS_DIFFER;
        }
        if !length.is_multiple_of(4) {
            self.flags |= ODD_LENGTH;
        }
        if matches!(length, 40 | 44 | 37) {
            self.flags |= PING_LENGTH;
        }
    }

    /// The latest datagram continues none.
    #[inline(always)]
    pub fn is_new(&self) -> bool {
        [self.word, self.epoch, self.byte, self.random] == [1; 4]
    }

    /// The constant word.
    pub fn first_word(&self) -> u32 {
        u32_at(&self.head, 0)
    }

    /// What stands behind the counter looks drawn at random, as a tag or ciphertext does.
    pub fn is_scrambled(&self) -> bool {
        let longest = self.word.max(self.byte).max(self.epoch);
        self.still <= longest / 4 && (longest < 6 || self.flags & NO_TEXT != 0)
    }

    /// The latest datagrams of both directions begin with the same bytes: the other end sends back what it gets.
    pub fn is_echo_of(&self, other: &Self) -> bool {
        self.word > 0 && other.word > 0 && self.head == other.head
    }

    /// In the run of [`Self::word`] the counter rose by one somewhere: between datagrams of which none follow one another
    /// nothing was lost, it was never there.
    pub fn counts_by_one(&self) -> bool {
        self.flags & BY_ONE != 0
    }

    /// The latest u32 at 4, and at 1: packet ids of OpenVPN's P_DATA_V2 and P_DATA_V1.
    pub fn counters(&self) -> (u32, u32) {
        (u32_at(&self.head, 4), u32_at(&self.head, 1))
    }

    /// The latest u16 at 4 and u48 at 6 are an epoch and a packet id as OpenVPN's format counts them from 1 and from 0:
    /// an epoch lasts for billions of packets.
    pub fn is_early_epoch(&self) -> bool {
        u32_at(&self.head, 4) >> 28 == 0 && u32_at(&self.head, 6) >> 24 == 0
    }

    /// Lengths in the run differ.
    pub fn lengths_differ(&self) -> bool {
        self.flags & LENGTHS_DIFFER != 0
    }

    /// A length in the run is not a multiple of four.
    pub fn odd_length(&self) -> bool {
        self.flags & ODD_LENGTH != 0
    }

    /// A UDP checksum in the run is not zero.
    pub fn checksummed(&self) -> bool {
        self.flags & CHECKSUMMED != 0
    }

    /// A keepalive of OpenVPN's data formats was among them (40, 44 or 37 bytes).
    pub fn ping_length(&self) -> bool {
        self.flags & PING_LENGTH != 0
    }

    /// What the lengths of a run of [`Self::random`] leave by eight.
    pub fn remainder(&self) -> u16 {
        self.first_length % 8
    }
}

fn u32_at(head: &[u8; HEAD], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

/// Whether two words are as far apart as two that were drawn at random are, but for one pair in 128.
fn moved(before: u32, after: u32) -> bool {
    (after.wrapping_sub(before) as i32).unsigned_abs() > RANDOM_STEP
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

    fn word_run(counters: &[u32]) -> u8 {
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
        assert_eq!(word_run(&[1, 3, 2, 4]), 3);
        assert_eq!(word_run(&[1, 65, 66]), 3);
        assert_eq!(word_run(&[u32::MAX, 0, 1]), 3);
    }

    #[test]
    fn what_falls_or_swings_is_no_run() {
        assert_eq!(word_run(&(100..164).rev().collect::<Vec<_>>()), 1);
        assert_eq!(word_run(&[100, 120].repeat(32)), 2);
    }

    #[test]
    fn a_counter_that_never_rises_by_one_is_told() {
        for (counters, by_one) in [
            (&[1, 2][..], true),
            (&[1, 3, 5, 7], false),
            (&[1, 65, 129], false),
            (&[1, 3, 4, 6, 8], true),
            // Backwards by one is what came late.
            (&[10, 12, 11, 14], false),
            // In a run before this one.
            (&[1, 2, 3, 200, 202, 204], false),
        ] {
            let mut run = Run::default();
            for &counter in counters {
                run.update(&datagram(0xc0de_cafe, counter), 40, true);
            }
            assert_eq!(run.counts_by_one(), by_one, "{counters:?}");
        }
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
        assert_eq!((run.epoch, run.lengths_differ()), (12, false));
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
