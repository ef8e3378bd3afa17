//! Near misses: for every rule of the fingerprints a flow that fulfils all of its fields but one, each field in
//! turn. With no field broken the same generator is the rule's positive control, without which a near miss that
//! is not confirmed would prove nothing.

mod ipsec;
mod openvpn;
mod wireguard;

use vpn_classifier_core::fingerprint::{Confidence, Protocol};

use crate::flow::Flow;

/// A rule and the fields that it tests.
pub struct Rule {
    /// Protocol that it is of.
    pub protocol: Protocol,
    /// Its name: the protocol's and a short one.
    pub name: &'static str,
    /// What a flow of nothing else must reach (reference, section 4).
    pub control: Confidence,
    /// Fields that are broken in turn: names that `generate` asks [`Flow::breaks`] for.
    pub fields: &'static [&'static str],
    /// Writes a flow.
    pub generate: fn(&mut Flow),
}

/// Every rule.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    wireguard::RULES.iter().chain(openvpn::RULES).chain(ipsec::RULES)
}

/// Near misses that may be confirmed: rule, field, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Why a near miss may be confirmed, if it may.
pub fn exception(rule: &str, field: &str) -> Option<&'static str> {
    EXCEPTIONS.iter().find(|(name, broken, _)| (*name, *broken) == (rule, field)).map(|(.., reason)| *reason)
}
