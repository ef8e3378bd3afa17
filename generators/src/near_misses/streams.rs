//! The rules of datagrams once more, in TCP: each message behind its length (OpenVPN; RFC 9329), so that what is broken
//! there is broken here, and the length besides. What confirms a datagram may not confirm
//! a stream: the first record alone may be any length-prefixed protocol's.

use vpn_classifier_core::fingerprint::Confidence::{self, Confirmed, Likely, Possible};

use super::{Rule, ipsec, openvpn};
use crate::stream::Framing::{self, IkeTcp, Length};
use crate::stream::Tap::{self, Bulk, FromStart, MidFlow};

/// Fields that break nothing in a stream: fewer records are enough there, and TURN has no such length before it.
pub(super) const NOT_BROKEN: &[&str] = &["too few", "no keepalive", "TURN's length"];

/// Rule of datagrams, its name in a stream, what it must reach there, and how.
const IN_STREAMS: &[(&str, &str, Confidence, Framing, Tap)] = &[
    ("openvpn.client_reset_plain", "openvpn.tcp_client_reset_plain", Possible, Length, FromStart),
    ("openvpn.server_reset_plain", "openvpn.tcp_server_reset_plain", Likely, Length, FromStart),
    ("openvpn.client_reset_tls_auth", "openvpn.tcp_client_reset_tls_auth", Likely, Length, FromStart),
    ("openvpn.server_reset_tls_auth", "openvpn.tcp_server_reset_tls_auth", Likely, Length, FromStart),
    ("openvpn.reset_tls_crypt_pair", "openvpn.tcp_reset_tls_crypt_pair", Likely, Length, FromStart),
    ("openvpn.reset_tls_crypt_v2", "openvpn.tcp_reset_tls_crypt_v2", Likely, Length, FromStart),
    ("openvpn.control_pair_plain", "openvpn.tcp_control_pair_plain", Confirmed, Length, MidFlow),
    ("openvpn.control_pair_tls_auth", "openvpn.tcp_control_pair_tls_auth", Confirmed, Length, MidFlow),
    ("openvpn.control_pair_tls_crypt", "openvpn.tcp_control_pair_tls_crypt", Confirmed, Length, MidFlow),
    ("openvpn.session_echo", "openvpn.tcp_session_echo", Likely, Length, MidFlow),
    ("openvpn.data_v2_run", "openvpn.tcp_data_v2_run", Confirmed, Length, Bulk),
    ("openvpn.data_epoch_run", "openvpn.tcp_data_epoch_run", Confirmed, Length, Bulk),
    ("openvpn.data_v1_run", "openvpn.tcp_data_v1_run", Likely, Length, Bulk),
    ("openvpn.data_cbc_run", "openvpn.tcp_data_cbc_run", Likely, Length, MidFlow),
    ("ipsec.ikev2_request_behind_marker", "ipsec.tcp_ikev2_request", Confirmed, IkeTcp, FromStart),
    ("ipsec.esp_in_udp", "ipsec.tcp_esp", Possible, IkeTcp, FromStart),
];

/// Every rule of streams.
pub(super) fn rules() -> impl Iterator<Item = Rule> {
    let datagrams = || openvpn::RULES.iter().chain(ipsec::RULES);
    IN_STREAMS.iter().filter_map(move |&(of, name, control, framing, tap)| {
        let rule = datagrams().find(|rule| rule.name == of)?;
        Some(Rule { name, control, stream: Some((framing, tap)), ..*rule })
    })
}
