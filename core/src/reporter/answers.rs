//! What was said of flows, each answer kept for all flows that who judges cannot tell apart.
//!
//! In: the classes of a report ([`crate::classes`]), what was said of the flow before, and a time. Out: what is said of
//! it, as the JSON of its event with holes where flows differ ([`crate::line::Hole`]). Where no answer is kept,
//! Python is asked, and gives one. Two things are kept:
//!
//! - [`Ends`], for each class of ends: the entries behind a judgement, as JSON, and the reasons that name them;
//! - [`Answer`], for each class of what the policy compares ("grounds") and of the flow's state, and for what was said
//!   before: everything else.
//!
//! The rule a reader would get wrong: both hold from one instant until another, since dates pass.

use std::collections::HashMap;
use std::sync::Arc;

use super::hash::Mixing;
use crate::classes::{EndsClass, StateClass};
use crate::line::Template;

/// Kinds of reasons for an answer: what was looked up; the flow is older than the register; the register is overdue.
pub const REASONS: usize = 3;

/// What is kept for a class of ends.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Since when it holds.
    pub from: i64,
    /// Until when.
    pub until: i64,
    /// Behind the judgement, as JSON.
    pub entries: Template,
    /// When a case was first seen matters.
    pub asks_seen: bool,
    /// The subject is the destination.
    pub subject_answers: bool,
    /// What the policy compares; Python's number for it.
    pub grounds: u32,
    /// Sentences, as JSON inside of its quotes, by [`Answer::reason`].
    pub reasons: [Option<Template>; REASONS],
}

/// What is said of a flow; all but what its ends tell.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Since when it holds.
    pub from: i64,
    /// Until when.
    pub until: i64,
    /// Which event it makes, by its place in [`super::EVENTS`]; none: nothing is said.
    pub event: Option<usize>,
    /// What stands for it from now on.
    pub tag: u32,
    /// The flow is flagged.
    pub flags: bool,
    /// It was not before, if anything was said before.
    pub newly_flagged: bool,
    /// Something else was said before.
    pub turns: bool,
    /// What it is counted by; Python's number for it.
    pub counted: u32,
    /// Which of [`Ends::reasons`] is given.
    pub reason: usize,
    /// Before the entries, for another flag and for the first of a case.
    pub opening: [Template; 2],
    /// Between entries and reason.
    pub middle: Template,
    /// Behind the reason.
    pub closing: Template,
}

/// What answers of the same grounds differ by.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AnswerKey {
    /// Of the ends.
    pub grounds: u32,
    /// Of the report.
    pub state: StateClass,
    /// What was said before.
    pub tag: u32,
    /// The case waits for the next register.
    pub waits: bool,
}

/// The answers of one register and policy.
#[derive(Debug, Default)]
pub struct Answers {
    ends: HashMap<EndsClass, Arc<Ends>, Mixing>,
    answers: HashMap<AnswerKey, Arc<Answer>, Mixing>,
}

impl Answers {
    /// What is kept for these ends and holds at this time.
    pub fn ends(&self, class: &EndsClass, at: i64) -> Option<&Arc<Ends>> {
        self.ends.get(class).filter(|ends| (ends.from..ends.until).contains(&at))
    }

    /// The answer that is kept and holds at this time.
    pub fn answer(&self, key: &AnswerKey, at: i64) -> Option<&Arc<Answer>> {
        self.answers.get(key).filter(|answer| (answer.from..answer.until).contains(&at))
    }

    /// Keeps what holds for ends of this class.
    pub fn keep_ends(&mut self, class: EndsClass, ends: Arc<Ends>) {
        self.ends.insert(class, ends);
    }

    /// Keeps an answer.
    pub fn keep(&mut self, key: AnswerKey, answer: Arc<Answer>) {
        self.answers.insert(key, answer);
    }

    /// How much is kept: classes of ends, and answers.
    pub fn size(&self) -> (usize, usize) {
        (self.ends.len(), self.answers.len())
    }

    /// Forgets it all.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.answers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn ends(from: i64, until: i64, grounds: u32) -> Arc<Ends> {
        let (entries, reasons) = Default::default();
        Arc::new(Ends { from, until, entries, asks_seen: false, subject_answers: false, grounds, reasons })
    }

    fn answer(from: i64, until: i64, counted: u32) -> Arc<Answer> {
        let (opening, middle, closing) = Default::default();
        Arc::new(Answer {
            from,
            until,
            event: None,
            tag: 1,
            flags: false,
            newly_flagged: false,
            turns: false,
            counted,
            reason: 0,
            opening,
            middle,
            closing,
        })
    }

    /// Keys that differ in one thing.
    fn keys() -> [AnswerKey; 5] {
        let key = AnswerKey { grounds: 1, state: [0; 20], tag: 1, waits: false };
        let mut state = [0; 20];
        state[19] = 1;
        [
            key,
            AnswerKey { grounds: 2, ..key },
            AnswerKey { state, ..key },
            AnswerKey { tag: 2, ..key },
            AnswerKey { waits: true, ..key },
        ]
    }

    fn classes() -> [EndsClass; 3] {
        let (mut first, mut last) = ([0; 23], [0; 23]);
        (first[0], last[22]) = (1, 1);
        [[0; 23], first, last]
    }

    proptest! {
        /// Against maps of what was kept last, whatever the time: it holds from its first instant until its last.
        #[test]
        fn what_was_kept_last_holds_until_its_time(
            steps in proptest::collection::vec((0_usize..5, 0_i64..20, 0_i64..10, 0_i64..32, 0_u32..1_000), 1..60),
        ) {
            let (mut kept, mut of_ends, mut of_keys) = (Answers::default(), BTreeMap::new(), BTreeMap::new());
            for (place, from, lasts, at, number) in steps {
                let until = from + lasts;
                if place % 2 == 0 {
                    kept.keep(keys()[place], answer(from, until, number));
                    of_keys.insert(place, (from, until, number));
                } else {
                    kept.keep_ends(classes()[place / 2], ends(from, until, number));
                    of_ends.insert(place / 2, (from, until, number));
                }
                let holds = |known: Option<&(i64, i64, u32)>| {
                    known.and_then(|&(from, until, number)| (from <= at && at < until).then_some(number))
                };
                for (place, class) in classes().iter().enumerate() {
                    prop_assert_eq!(kept.ends(class, at).map(|ends| ends.grounds), holds(of_ends.get(&place)));
                }
                for (place, key) in keys().iter().enumerate() {
                    prop_assert_eq!(kept.answer(key, at).map(|answer| answer.counted), holds(of_keys.get(&place)));
                }
                prop_assert_eq!(kept.size(), (of_ends.len(), of_keys.len()));
            }
            kept.clear();
            prop_assert_eq!(kept.size(), (0, 0));
        }
    }

    #[test]
    fn an_answer_holds_from_its_first_instant_and_not_at_its_last() {
        let mut kept = Answers::default();
        let ([key, ..], [class, ..]) = (keys(), classes());
        kept.keep(key, answer(5, 9, 1));
        kept.keep_ends(class, ends(i64::MIN, i64::MAX, 1));
        let holds = [4, 5, 8, 9].map(|at| kept.answer(&key, at).is_some());
        assert_eq!(holds, [false, true, true, false]);
        assert!(kept.ends(&class, i64::MIN).is_some() && kept.ends(&class, i64::MAX - 1).is_some());
    }
}
