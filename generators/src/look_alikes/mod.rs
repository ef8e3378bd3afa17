//! Look-alikes: protocols that resemble ours in some field, each with the state that its flows have: constant
//! words, counters, retransmissions, echoes, two directions, varied lengths. None is a VPN of ours, but for those
//! that say so, which must not be taken for another one.

mod infrastructure;
mod made_up;
mod media;
mod streams;

use vpn_classifier_core::fingerprint::Protocol;

use crate::flow::Flow;

/// A protocol that resembles ours.
pub struct LookAlike {
    /// Its name.
    pub name: &'static str,
    /// What it shares with a VPN protocol, and what differs.
    pub differs: &'static str,
    /// The protocol of ours that it is; only the others are wrong then.
    pub truth: Option<Protocol>,
    /// Writes a flow.
    pub generate: fn(&mut Flow),
}

const fn look_alike(name: &'static str, differs: &'static str, generate: fn(&mut Flow)) -> LookAlike {
    LookAlike { name, differs, truth: None, generate }
}

/// Every look-alike whose messages are datagrams.
pub fn look_alikes() -> impl Iterator<Item = &'static LookAlike> {
    infrastructure::LOOK_ALIKES.iter().chain(media::LOOK_ALIKES).chain(made_up::LOOK_ALIKES)
}

/// Every look-alike that is a stream: it writes its own framing.
pub fn streams() -> impl Iterator<Item = &'static LookAlike> {
    streams::LOOK_ALIKES.iter()
}

/// A number that goes on from packet to packet, as protocols count: by ones, in steps, not at all, or at random.
struct Count {
    value: u64,
    habit: u8,
    step: u64,
}

impl Count {
    fn new(flow: &mut Flow) -> Self {
        let value = match flow.random.between(0, 3) {
            0 => flow.random.between(0, 3),
            1 => flow.random.between(0, 0xffff),
            2 => flow.random.between(0, 0xffff_ffff),
            _ => flow.random.word(),
        };
        let step = flow.random.pick(&[1, 1, 1, 2, 4, 8, 20, 64, 65, 160, 256, 960, 3_000, 0x1_0000, 0x100_0000]);
        Self { value, habit: flow.random.between(0, 7) as u8, step }
    }

    /// Counts by ones, from a random 16-bit number.
    fn by_ones(flow: &mut Flow) -> Self {
        Self { value: u64::from(flow.random.u16()), habit: 0, step: 1 }
    }

    fn next(&mut self, flow: &mut Flow) -> u64 {
        let value = self.value;
        self.value = match self.habit {
            // Falling, at random, with losses, constant; mostly in even steps.
            5 => value.wrapping_sub(self.step),
            6 => flow.random.word(),
            7 => value,
            4 => value.wrapping_add(self.step * flow.random.between(1, 3)),
            _ => value.wrapping_add(self.step),
        };
        value
    }
}

/// Sends the payload, and now and then again as it is.
fn send_maybe_twice(flow: &mut Flow, direction: u8, once_in: u64) {
    flow.send(direction);
    while flow.random.one_in(once_in) {
        flow.wait(crate::flow::SECOND);
        flow.send(direction);
    }
}
