//! Measures the precision of the fingerprints where captures run out: made-up flows of everything that resembles a
//! VPN protocol.
//!
//! ```text
//! look_alikes   other protocols that share a field with ours, with the state that their flows have
//! near_misses   per rule, flows that fulfil all of its fields but one; with none broken, its positive control
//!      │
//!      ▼
//! flow          each datagram, and each segment of a stream, goes through the product's flow table and fingerprints
//!      │
//!      ▼
//! measure       flows that reached each level, per generator; bound: what that says about the rate
//! ```
//!
//! What is made for datagrams is sent in TCP as well, each message behind its length: streams of records are cut,
//! joined late and lost in parts as a tap sees them.
//!
//! Everything is drawn from one seed, and what is drawn depends neither on the number of threads nor on time.

pub mod bound;
pub mod flow;
pub mod look_alikes;
pub mod measure;
pub mod near_misses;
pub mod random;
pub mod stream;
