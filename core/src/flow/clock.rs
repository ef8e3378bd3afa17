//! The packet clock: the time by which flows begin, time out and are judged.
//!
//! It never goes back. A packet from far ahead is a wrong clock or a forgery more often than a gap in the
//! capture, so a jump of more than an hour counts only once [`JUMP_PACKETS`] packets in a row, from at least
//! two flows, agree on it. Until then such packets keep their own time and move nothing. The first packet may be the
//! wrong one: the clock is set once two packets in a row agree within an hour, or after [`UNSET_PACKETS`].

const HOUR: i64 = 3600 * 1_000_000_000;
/// Packets in a row that must agree on a jump.
const JUMP_PACKETS: u32 = 100;

/// Packets after which the clock is set by the latest, if no two in a row agreed.
const UNSET_PACKETS: u8 = 16;

/// The packet clock of one capture. Times are nanoseconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct PacketClock {
    now: Option<i64>,
    /// Packets before it was set; until then it follows each of them.
    unset_packets: u8,
    is_set: bool,
    /// Time of the latest packet of a jump under way.
    jump: i64,
    jump_packets: u32,
    /// Flow hash of the first packet of the jump, until a second flow agrees.
    jump_flow: Option<u64>,
    jump_flows_differ: bool,
    /// Packets that were more than an hour ahead and were not believed (yet).
    pub ahead: u64,
    /// Packets more than an hour behind.
    pub behind: u64,
    /// Jumps that were believed.
    pub jumps: u64,
}

impl PacketClock {
    /// Time now; the epoch before the first packet.
    #[inline]
    pub fn now(&self) -> i64 {
        self.now.unwrap_or(0)
    }

    /// Takes note of a packet's time and says whether the clock was set or moved. `flow` is the hash of its flow key,
    /// `None` for a frame that belongs to no flow.
    #[inline]
    pub fn observe(&mut self, time: i64, flow: Option<u64>) -> bool {
        self.step(time) || self.observe_other(time, flow)
    }

    /// Takes note of a packet that came a little after the one before: most do. False when it did not, and nothing is
    /// noted.
    #[inline]
    pub fn step(&mut self, time: i64) -> bool {
        match self.now {
            Some(now) if self.is_set && time > now && time.wrapping_sub(now) as u64 <= HOUR as u64 => {
                self.jump_packets = 0;
                self.now = Some(time);
                true
            }
            _ => false,
        }
    }

    /// The same for a packet whose flow is not known. `None`, and nothing is noted, when that would matter.
    #[inline]
    pub fn observe_time(&mut self, time: i64) -> Option<bool> {
        match self.now {
            Some(now) if self.is_set && time > now => {
                let is_jump = time.wrapping_sub(now) as u64 > HOUR as u64;
                (!is_jump).then(|| self.observe(time, None))
            }
            _ => Some(self.observe_other(time, None)),
        }
    }

    fn observe_other(&mut self, time: i64, flow: Option<u64>) -> bool {
        let Some(now) = self.now else {
            self.now = Some(time);
            return false;
        };
        if !self.is_set {
            let agrees = time.saturating_sub(now).saturating_abs() <= HOUR;
            self.now = Some(if agrees { now.max(time) } else { time });
            self.unset_packets += 1;
            self.is_set = agrees || self.unset_packets >= UNSET_PACKETS;
            return self.is_set;
        }
        if time > now.saturating_add(HOUR) {
            return self.observe_jump(time, flow);
        }
        self.jump_packets = 0;
        if time < now.saturating_sub(HOUR) {
            self.behind += 1;
        }
        if time <= now {
            return false;
        }
        self.now = Some(time);
        true
    }

    /// Takes note of the host's time while no packet comes, and says whether the clock moved. An hour at most, as with
    /// a packet: what is further ahead is for packets to agree on.
    pub fn idle(&mut self, time: i64) -> bool {
        let moves = self.is_set && self.now.is_some_and(|now| time > now && time <= now.saturating_add(HOUR));
        if moves {
            self.now = Some(time);
            self.jump_packets = 0;
        }
        moves
    }

    fn observe_jump(&mut self, time: i64, flow: Option<u64>) -> bool {
        if self.jump_packets == 0 || time.saturating_sub(self.jump).saturating_abs() > HOUR {
            self.jump_packets = 0;
            self.jump_flow = flow;
            self.jump_flows_differ = false;
        }
        self.jump = time;
        self.jump_packets = self.jump_packets.saturating_add(1);
        self.jump_flows_differ |= flow.is_some() && self.jump_flow.is_some() && flow != self.jump_flow;
        self.jump_flow = self.jump_flow.or(flow);
        if self.jump_packets < JUMP_PACKETS || !self.jump_flows_differ {
            self.ahead += 1;
            return false;
        }
        self.jump_packets = 0;
        self.jumps += 1;
        self.now = Some(time);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn started(at: i64) -> PacketClock {
        let mut clock = PacketClock::default();
        assert!(!clock.observe(at, Some(1)));
        assert!(clock.observe(at, Some(1)));
        clock
    }

    #[test]
    fn a_wild_first_packet_is_forgotten() {
        for wild in [0, i64::MAX] {
            let mut clock = PacketClock::default();
            assert!(!clock.observe(wild, None));
            assert!(!clock.observe(500 * HOUR, Some(1)));
            assert!(clock.observe(500 * HOUR + 1, Some(1)));
            assert!(!clock.observe(500 * HOUR, Some(1)));
            assert_eq!((clock.now(), clock.ahead, clock.behind), (500 * HOUR + 1, 0, 0));
        }
    }

    #[test]
    fn packets_that_never_agree_set_it_in_the_end() {
        let mut clock = PacketClock::default();
        let set = (0..100).position(|packet| clock.observe(packet * 2 * HOUR, Some(1)));
        assert_eq!(set, Some(usize::from(UNSET_PACKETS)));
    }

    #[test]
    fn never_goes_back() {
        let mut clock = started(10 * SECOND);
        assert!(!clock.observe(9 * SECOND, Some(1)));
        assert_eq!((clock.now(), clock.behind), (10 * SECOND, 0));
        assert!(clock.observe(11 * SECOND, Some(1)));
        let mut later = started(2 * HOUR);
        later.observe(0, Some(1));
        assert_eq!((later.now(), later.behind), (2 * HOUR, 1));
    }

    #[test]
    fn an_idle_host_moves_it_once_it_is_set() {
        let mut clock = PacketClock::default();
        assert!(!clock.idle(9 * SECOND));
        clock.observe(10 * SECOND, None);
        assert!(!clock.idle(11 * SECOND));
        let mut clock = started(10 * SECOND);
        assert!(clock.idle(11 * SECOND));
        assert!(!clock.idle(11 * SECOND) && !clock.idle(2 * HOUR));
        assert_eq!((clock.now(), clock.ahead, clock.behind, clock.jumps), (11 * SECOND, 0, 0, 0));
    }

    #[test]
    fn one_wild_packet_moves_nothing() {
        let mut clock = started(0);
        assert!(!clock.observe(i64::MAX, Some(2)));
        assert!(clock.observe(SECOND, Some(1)));
        assert_eq!((clock.now(), clock.ahead), (SECOND, 1));
    }

    #[test]
    fn a_hundred_packets_of_two_flows_are_believed() {
        let mut clock = started(0);
        for packet in 0..99 {
            assert!(!clock.observe(5 * HOUR + packet, Some(packet as u64 % 2)));
        }
        assert!(clock.observe(5 * HOUR + 99, Some(0)));
        assert_eq!((clock.now(), clock.jumps), (5 * HOUR + 99, 1));
    }

    #[test]
    fn a_thousand_packets_of_one_flow_are_not() {
        let mut clock = started(0);
        assert!((0..1000).all(|packet| !clock.observe(5 * HOUR + packet, Some(7))));
        assert_eq!((clock.now(), clock.ahead), (0, 1000));
    }

    #[test]
    fn a_packet_in_line_breaks_the_row() {
        let mut clock = started(0);
        for round in 0..50 {
            for packet in 0..60 {
                clock.observe(5 * HOUR, Some(packet));
            }
            assert!(clock.observe(round + 1, Some(1)));
        }
        assert_eq!(clock.jumps, 0);
    }

    #[test]
    fn packets_that_disagree_on_the_jump_start_the_row_again() {
        let mut clock = started(0);
        for packet in 0..1000 {
            assert!(!clock.observe((5 + 2 * (packet % 2)) * HOUR + packet, Some(packet as u64)));
        }
    }
}
