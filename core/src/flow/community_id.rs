//! Community ID v1 (github.com/corelight/community-id-spec): a flow's name that other tools share.
//!
//! Base64 of SHA-1 over seed (2), smaller address, larger address, protocol (1), zero (1) and, where the
//! protocol has them, the two ports in the same order.

use super::FlowKey;
use crate::decode::Transport;
use base64::Engine as _;
use sha1::{Digest as _, Sha1};

/// The id with seed 0, as `1:<base64>`.
pub fn community_id(key: &FlowKey) -> String {
    format!("1:{}", String::from_utf8_lossy(&digest(key)))
}

/// What stands behind `1:` in an id.
pub fn digest(key: &FlowKey) -> [u8; 28] {
    let octets = if key.ip_version == 4 { 4 } else { 16 };
    let mut hash = Sha1::new();
    hash.update([0, 0]);
    hash.update(&key.low[..octets]);
    hash.update(&key.high[..octets]);
    hash.update([key.transport as u8, 0]);
    if matches!(key.transport, Transport::Tcp | Transport::Udp) {
        hash.update(key.low_port.to_be_bytes());
        hash.update(key.high_port.to_be_bytes());
    }
    let mut text = [b'='; 28];
    // 20 bytes are 28 characters of base64.
    let _ = base64::engine::general_purpose::STANDARD.encode_slice(hash.finalize(), &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(low: [u8; 4], low_port: u16, high: [u8; 4], high_port: u16, transport: Transport) -> FlowKey {
        let mut key = FlowKey { low_port, high_port, transport, ip_version: 4, ..FlowKey::default() };
        key.low[..4].copy_from_slice(&low);
        key.high[..4].copy_from_slice(&high);
        key
    }

    /// The specification's published baseline.
    #[test]
    fn vectors_of_the_specification() {
        let tcp = key([66, 35, 250, 204], 80, [128, 232, 110, 120], 34855, Transport::Tcp);
        assert_eq!(community_id(&tcp), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        let udp = key([8, 8, 8, 8], 53, [192, 168, 1, 52], 54585, Transport::Udp);
        assert_eq!(community_id(&udp), "1:d/FP5EW3wiY1vCndhwleRRKHowQ=");
    }
}
