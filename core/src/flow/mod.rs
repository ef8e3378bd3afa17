//! Flows: their key, their table, the clock that times them out, and what is reported about them.

pub mod clock;
pub mod community_id;
mod duplicates;
mod fragments;
mod hash;
mod index;
pub mod key;
mod layers;
mod memory;
mod prefetch;
pub mod record;
pub mod shard;
mod table;
mod wheel;

pub use clock::PacketClock;
pub use fragments::FragmentCounters;
pub use hash::{SEED, bytes as hash_bytes, mix};
pub use key::{FlowKey, KeyMode};
pub use memory::Memory;
pub use record::{EndReason, FlowReport, Report};
pub use shard::{Limits, SHARDS, Shard, ShardCounters};
pub use table::Hint;
