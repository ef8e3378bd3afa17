//! Classic BPF programs over frames: what libpcap makes of an expression such as `udp port 51820`.
//!
//! [`Program::new`] takes what it understands all of, and nothing else: then every run ends, since jumps lead forward.
//! As in libpcap and in the kernel, a load from beyond the captured bytes rejects the frame.

use super::{FrameRef, LinkType};

/// Longest program; the kernel's limit, too.
const LONGEST: usize = 4096;
/// Words of scratch memory.
const MEMORY: usize = 16;

/// One instruction: `code`, `jt`, `jf`, `k` of the BPF virtual machine (McCanne and Jacobson, 1993).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do: class, size or operation, mode or source.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
/// Modes of a load.
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const MSH: u16 = 0xa0;
/// The operand of an operation is X, not K.
const X: u16 = 0x08;

/// A program that was looked through.
#[derive(Clone, Debug)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// `None` for a program that could do something unforeseen.
    #[must_use]
    pub fn new(instructions: Vec<Instruction>) -> Option<Self> {
        let length = instructions.len();
        let ends = instructions.last().is_some_and(|last| last.code & 7 == RET);
        let fits = |at: usize, skip: u32| (at + 1).checked_add(skip as usize).is_some_and(|to| to < length);
        let all = instructions.iter().enumerate().all(|(at, one)| match one.code & 7 {
            LD | LDX => match one.code & 0xe0 {
                MEM => (one.k as usize) < MEMORY,
                IMM | LEN => true,
                ABS | IND => one.code & 7 == LD && one.code & 0x18 != 0x18,
                MSH => one.code == LDX | MSH | 0x10,
                _ => false,
            },
            ST | STX => one.code & !7 == 0 && (one.k as usize) < MEMORY,
            ALU => match one.code & 0xf0 {
                0x30 | 0x90 => one.code & X != 0 || one.k != 0,
                operation => operation <= 0xa0,
            },
            JMP => match one.code & 0xf0 {
                0 => fits(at, one.k),
                operation => operation <= 0x40 && fits(at, u32::from(one.jt)) && fits(at, u32::from(one.jf)),
            },
            RET => matches!(one.code & !7, 0 | 0x10),
            _ => matches!(one.code & !7, 0 | 0x80),
        });
        let known = instructions.iter().all(|one| one.code < 0x100);
        (length <= LONGEST && ends && all && known).then_some(Self(instructions))
    }

    /// The instructions, for the kernel.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// Whether it selects this frame, of which these bytes were captured and so many were on the wire.
    #[must_use]
    pub fn accepts(&self, frame: &[u8], original: u32) -> bool {
        self.run(frame, original).is_some_and(|kept| kept > 0)
    }

    fn run(&self, frame: &[u8], original: u32) -> Option<u32> {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; MEMORY], 0_usize);
        loop {
            let Instruction { code, jt, jf, k } = *self.0.get(at)?;
            at += 1;
            match code & 7 {
                LD => {
                    a = match code & 0xe0 {
                        IMM => k,
                        LEN => original,
                        MEM => *memory.get(k as usize)?,
                        mode => load(frame, if mode == IND { x.checked_add(k)? } else { k }, code & 0x18)?,
                    }
                }
                LDX => {
                    x = match code & 0xe0 {
                        IMM => k,
                        LEN => original,
                        MEM => *memory.get(k as usize)?,
                        _ => (load(frame, k, 0x10)? & 0xf) << 2,
                    }
                }
                ST => *memory.get_mut(k as usize)? = a,
                STX => *memory.get_mut(k as usize)? = x,
                ALU => {
                    let operand = if code & X == 0 { k } else { x };
                    a = match code & 0xf0 {
                        0x00 => a.wrapping_add(operand),
                        0x10 => a.wrapping_sub(operand),
                        0x20 => a.wrapping_mul(operand),
                        0x30 => a.checked_div(operand)?,
                        0x40 => a | operand,
                        0x50 => a & operand,
                        0x60 => a.checked_shl(operand).unwrap_or(0),
                        0x70 => a.checked_shr(operand).unwrap_or(0),
                        0x80 => a.wrapping_neg(),
                        0x90 => a.checked_rem(operand)?,
                        _ => a ^ operand,
                    };
                }
                JMP => {
                    let operand = if code & X == 0 { k } else { x };
                    at += match code & 0xf0 {
                        0x00 => k as usize,
                        0x10 => usize::from(if a == operand { jt } else { jf }),
                        0x20 => usize::from(if a > operand { jt } else { jf }),
                        0x30 => usize::from(if a >= operand { jt } else { jf }),
                        _ => usize::from(if a & operand != 0 { jt } else { jf }),
                    };
                }
                RET => return Some(if code & 0x10 == 0 { k } else { a }),
                MISC if code & 0x80 == 0 => x = a,
                _ => a = x,
            }
        }
    }
}

/// A number in network order: four bytes, two (8) or one (0x10).
fn load(frame: &[u8], at: u32, size: u16) -> Option<u32> {
    let bytes = frame.get(at as usize..)?;
    match size {
        0 => bytes.first_chunk().map(|word| u32::from_be_bytes(*word)),
        8 => bytes.first_chunk().map(|half| u32::from(u16::from_be_bytes(*half))),
        _ => bytes.first().map(|&byte| u32::from(byte)),
    }
}

/// What selects frames: a program for each link type. A frame of another one is not asked about.
#[derive(Clone, Debug, Default)]
pub struct Filter(pub Vec<(LinkType, Program)>);

impl Filter {
    /// Whether it selects every frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it selects a frame.
    #[inline]
    pub(crate) fn selects(&self, bytes: &[u8], frame: &FrameRef) -> bool {
        self.is_empty() || self.program(frame.linktype).is_none_or(|asked| asked.accepts(bytes, frame.original))
    }

    /// The program for frames of this link type.
    #[must_use]
    pub fn program(&self, linktype: LinkType) -> Option<&Program> {
        self.0.iter().find(|(link, _)| *link == linktype).map(|(_, program)| program)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn program(instructions: &[(u16, u8, u8, u32)]) -> Option<Program> {
        Program::new(instructions.iter().map(|&(code, jt, jf, k)| Instruction { code, jt, jf, k }).collect())
    }

    #[test]
    fn udp_port_53() -> Result<(), &'static str> {
        // tcpdump -dd -y EN10MB 'ip and udp dst port 53'
        let asked = program(&[
            (0x28, 0, 0, 12),
            (0x15, 0, 8, 0x800),
            (0x30, 0, 0, 23),
            (0x15, 0, 6, 17),
            (0x28, 0, 0, 20),
            (0x45, 4, 0, 0x1fff),
            (0xb1, 0, 0, 14),
            (0x48, 0, 0, 16),
            (0x15, 0, 1, 53),
            (0x6, 0, 0, 262_144),
            (0x6, 0, 0, 0),
        ])
        .ok_or("refused")?;
        let mut frame = [0_u8; 60];
        (frame[12], frame[14], frame[23], frame[37]) = (8, 0x45, 17, 53);
        assert!(asked.accepts(&frame, 60));
        assert!(!asked.accepts(&frame[..37], 60), "cut before the port");
        frame[37] = 54;
        assert!(!asked.accepts(&frame, 60));
        Ok(())
    }

    #[test]
    fn programs_that_could_go_astray_are_refused() {
        let good = (RET, 0, 0, 1);
        assert!(program(&[good]).is_some());
        for bad in [
            &[][..],
            &[(LD, 0, 0, 0)],
            &[(JMP, 0, 0, 1), good],
            &[(JMP, 0, 0, u32::MAX), good],
            &[(JMP | 0x10, 1, 0, 0), good],
            &[(LD | MEM, 0, 0, 16), good],
            &[(ST, 0, 0, 16), good],
            &[(ALU | 0x30, 0, 0, 0), good],
            &[(0x100, 0, 0, 0), good],
        ] {
            assert!(program(bad).is_none(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_taken_ends(
            codes in prop::collection::vec((0_u16..0x100, 0_u8..4, 0_u8..4, prop_oneof![0_u32..32, any::<u32>()]), 0..20),
            frame in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut codes = codes;
            codes.push((RET, 0, 0, 1));
            if let Some(taken) = program(&codes) {
                let _ = taken.accepts(&frame, 80);
            }
        }
    }
}
