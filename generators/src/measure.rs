//! Runs generators and counts what the classifier makes of their flows.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use vpn_classifier_core::fingerprint::{Confidence, Protocol};

use crate::flow::{Flow, Form, Sent, Verdict, place};
use crate::random::Random;
use crate::stream::{Framing, Tap};
use crate::{look_alikes, near_misses};

/// Datagrams and segments of one piece of work.
const PIECE: u64 = 1 << 18;

/// One in so many flows of a control may be missed: rules that ask whether bytes look random are wrong about some.
const MOST_MISSED: u64 = 400;

/// What a generator's flows are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Another protocol.
    LookAlike,
    /// A rule's flow with one field broken.
    NearMiss,
    /// A rule's flow with none broken: it must reach this level.
    Control(Confidence),
}

/// A source of flows.
#[derive(Clone, Copy, Debug)]
pub struct Generator {
    /// What its flows are.
    pub kind: Kind,
    /// Name of the protocol or of the rule.
    pub name: &'static str,
    /// What differs from ours: a sentence, or the field that is broken.
    pub differs: &'static str,
    /// Protocol of ours that the flows are indeed.
    pub truth: Option<Protocol>,
    /// Why a flow may be confirmed all the same.
    pub exception: Option<&'static str>,
    broken: &'static str,
    form: Form,
    generate: fn(&mut Flow),
}

/// Of a datagram protocol that is sent in a stream.
const IN_A_STREAM: &str = "the same in TCP, each message behind its length";

/// Every generator: look-alikes, near misses, controls.
pub fn generators() -> Vec<Generator> {
    let mut all = Vec::new();
    let stream = |framing| Form::Stream { framing, tap: Tap::Harsh };
    let look_alike = |look_alike: &look_alikes::LookAlike, differs, form| Generator {
        kind: Kind::LookAlike,
        name: look_alike.name,
        differs,
        truth: look_alike.truth,
        exception: None,
        broken: "",
        form,
        generate: look_alike.generate,
    };
    for datagrams in look_alikes::look_alikes() {
        all.push(look_alike(datagrams, datagrams.differs, Form::Datagrams));
    }
    for streams in look_alikes::streams() {
        all.push(look_alike(streams, streams.differs, stream(Framing::Own)));
    }
    for datagrams in look_alikes::look_alikes() {
        all.push(look_alike(datagrams, IN_A_STREAM, stream(Framing::Length)));
    }
    for rule in near_misses::rules() {
        for field in rule.fields() {
            all.push(Generator {
                kind: Kind::NearMiss,
                name: rule.name,
                differs: field,
                truth: None,
                exception: near_misses::exception(rule.name, field),
                broken: field,
                form: rule.form(),
                generate: rule.generate,
            });
        }
    }
    for rule in near_misses::rules() {
        all.push(Generator {
            kind: Kind::Control(rule.control),
            name: rule.name,
            differs: "nothing",
            truth: Some(rule.protocol),
            exception: None,
            broken: "",
            form: rule.control_form(),
            generate: rule.generate,
        });
    }
    all
}

/// What was counted of one generator.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Flows.
    pub flows: u64,
    /// Their datagrams and segments.
    pub datagrams: u64,
    /// Flows whose highest level was possible, likely, confirmed.
    pub levels: [u64; 3],
    /// Evidence of flows that were likely or confirmed, with how many had just this.
    pub evidence: BTreeMap<(Confidence, Vec<&'static str>), u64>,
    /// Piece and number of the first flow that was confirmed; of a control, of one that did not reach its level.
    pub first: Option<(u64, u64)>,
}

impl Count {
    /// Flows that reached a level, or a higher one.
    pub fn reached(&self, level: Confidence) -> u64 {
        self.levels[level as usize..].iter().sum()
    }

    fn add(&mut self, other: Self) {
        self.flows += other.flows;
        self.datagrams += other.datagrams;
        for (sum, value) in self.levels.iter_mut().zip(other.levels) {
            *sum += value;
        }
        for (evidence, flows) in other.evidence {
            *self.evidence.entry(evidence).or_default() += flows;
        }
        self.first = match (self.first, other.first) {
            (Some(own), Some(others)) => Some(own.min(others)),
            (own, others) => own.or(others),
        };
    }
}

impl Generator {
    /// Whether this is as it must be: nothing confirmed, or a control recognised every time.
    pub fn holds(&self, count: &Count) -> bool {
        match self.kind {
            Kind::Control(level) => count.flows > 0 && count.flows - count.reached(level) <= count.flows / MOST_MISSED,
            Kind::LookAlike | Kind::NearMiss => self.exception.is_some() || count.reached(Confidence::Confirmed) == 0,
        }
    }

    /// Whether its flows are streams.
    pub fn is_stream(&self) -> bool {
        self.form != Form::Datagrams
    }

    /// The level that counts: of a control its own protocol's, of the others any that is not the truth.
    fn level(&self, verdict: &Verdict) -> Option<(Confidence, usize)> {
        Protocol::ALL
            .into_iter()
            .filter(|protocol| match self.kind {
                Kind::Control(_) => self.truth == Some(*protocol),
                Kind::LookAlike | Kind::NearMiss => self.truth != Some(*protocol),
            })
            .filter_map(|protocol| Some((verdict.confidence[place(protocol)]?, place(protocol))))
            .max_by_key(|(confidence, _)| *confidence)
    }

    /// Random numbers of one flow.
    fn random(&self, seed: u64, piece: u64, number: u64) -> Random {
        // FNV-1a of what names the generator.
        let name = [self.name.as_bytes(), b"/", self.differs.as_bytes()].concat();
        let hash = name
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        Random::of(&[seed, hash, piece, number])
    }

    fn run_piece(&self, seed: u64, piece: u64, datagrams: u64) -> Count {
        let mut flow = Flow::new();
        let mut count = Count::default();
        while count.datagrams < datagrams {
            let random = self.random(seed, piece, count.flows);
            let (mut verdict, sent) = flow.run(random, self.broken, self.form, self.generate);
            let level = self.level(&verdict);
            if let Some((confidence, place)) = level {
                count.levels[confidence as usize] += 1;
                if confidence >= Confidence::Likely {
                    let evidence = std::mem::take(&mut verdict.evidence[place]);
                    *count.evidence.entry((confidence, evidence)).or_default() += 1;
                }
            }
            let reached = level.map(|(confidence, _)| confidence);
            let strange = match self.kind {
                Kind::Control(wanted) => reached < Some(wanted),
                Kind::LookAlike | Kind::NearMiss => reached == Some(Confidence::Confirmed),
            };
            if strange {
                count.first.get_or_insert((piece, count.flows));
            }
            count.flows += 1;
            count.datagrams += sent.max(1);
        }
        count
    }

    /// Generates one flow again, and what the classifier made of it.
    pub fn again(&self, seed: u64, (piece, number): (u64, u64)) -> (Verdict, Vec<Sent>) {
        Flow::new().record(self.random(seed, piece, number), self.broken, self.form, self.generate)
    }

    /// The same flow with no field broken.
    pub fn unbroken(&self, seed: u64, (piece, number): (u64, u64)) -> Vec<Sent> {
        Flow::new().record(self.random(seed, piece, number), "", self.form, self.generate).1
    }
}

/// Runs the generators for `datagrams` in all, the same number each. `progress` is told how many are done.
pub fn measure(
    generators: &[Generator],
    datagrams: u64,
    seed: u64,
    threads: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Vec<Count> {
    let share = datagrams.div_ceil(generators.len().max(1) as u64).max(1);
    let pieces = share.div_ceil(PIECE);
    let work: Vec<(usize, u64, u64)> = (0..pieces)
        .flat_map(|piece| (0..generators.len()).map(move |generator| (generator, piece)))
        .map(|(generator, piece)| (generator, piece, PIECE.min(share - piece * PIECE)))
        .collect();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let counts = Mutex::new(vec![Count::default(); generators.len()]);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(&(generator, piece, budget)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let count = generators[generator].run_piece(seed, piece, budget);
                    progress(done.fetch_add(count.datagrams, Ordering::Relaxed) + count.datagrams);
                    // Nothing panics while it holds the lock.
                    counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[generator].add(count);
                }
            });
        }
    });
    counts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
