//! The packet path of `vpn-classifier`: everything that happens once per packet.
//!
//! ```text
//! capture ──▶ decode ──▶ flow ──▶ fingerprint ──▶ reports (to Python, in columnar batches)
//! ```
//!
//! [`capture`] reads frames from files, [`decode`] finds the innermost five-tuple and its payload, [`flow`]
//! keeps one bounded table in each of 64 shards by the packet clock, [`fingerprint`] gathers evidence for
//! each protocol, and [`engine`] drives them and puts what they report into one deterministic order. [`reporter`] makes
//! events of the reports, by what it was answered before about others that cannot be told apart: that is for [`classes`]
//! to say, with the [`prefixes`] and thresholds that they are given. [`line`](mod@line) writes an event down. [`survey`]
//! counts how a live capture looks. Nothing here knows a register or a policy, and nothing outside sees a packet.

pub mod capture;
pub mod classes;
pub mod decode;
pub mod engine;
pub mod fingerprint;
pub mod flow;
#[doc(hidden)]
pub mod fuzzing;
pub mod line;
pub mod prefixes;
#[cfg(feature = "python")]
mod python;
pub mod reporter;
pub mod survey;
