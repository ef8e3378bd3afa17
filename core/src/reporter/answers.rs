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
