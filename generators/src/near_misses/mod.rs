//! Near misses: for every rule of the fingerprints a flow that fulfils all of its fields but one, each field in
//! turn. With no field broken the same generator is the rule's positive control, without which a near miss that
//! is not confirmed would prove nothing.

mod ipsec;
mod openvpn;
mod streams;
mod wireguard;

use vpn_classifier_core::fingerprint::{Confidence, Protocol};

use crate::flow::{Flow, Form};
use crate::stream::{Framing, Tap};

/// A rule and the fields that it tests.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Protocol that it is of.
    pub protocol: Protocol,
    /// Its name: the protocol's and a short one.
    pub name: &'static str,
    /// What a flow of nothing else must reach (reference, section 4).
    pub control: Confidence,
    /// Fields that are broken in turn: names that `generate` asks [`Flow::breaks`] for.
    pub fields: &'static [&'static str],
    /// In a stream: what stands before each message, and what a control's flows are seen of. `None` for datagrams.
    pub stream: Option<(Framing, Tap)>,
    /// Writes a flow.
    pub generate: fn(&mut Flow),
}

impl Rule {
    /// Every field that is broken in turn: those of the messages, and those of the stream that carries them.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        let of_stream: &[&'static str] = match self.stream {
            None | Some((Framing::Own, _)) => &[],
            // Who answers sends no IKETCP (RFC 9329, 4): without it, whole IKE messages confirm all the same.
            Some((Framing::Length | Framing::IkeTcp, _)) => &["length prefix"],
        };
        let in_stream = self.stream.is_some();
        let broken = self.fields.iter().filter(move |field| !in_stream || !streams::NOT_BROKEN.contains(field));
        broken.chain(of_stream).copied()
    }

    /// How near misses travel.
    pub fn form(&self) -> Form {
        self.stream.map_or(Form::Datagrams, |(framing, _)| Form::Stream { framing, tap: Tap::Harsh })
    }

    /// How controls travel: as this, they must be recognised.
    pub fn control_form(&self) -> Form {
        self.stream.map_or(Form::Datagrams, |(framing, tap)| Form::Stream { framing, tap })
    }
}

/// Every rule.
pub fn rules() -> impl Iterator<Item = Rule> {
    let datagrams = wireguard::RULES.iter().chain(openvpn::RULES).chain(ipsec::RULES).copied();
    datagrams.chain(streams::rules())
}

/// Near misses that may be confirmed: rule, field, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Why a near miss may be confirmed, if it may.
pub fn exception(rule: &str, field: &str) -> Option<&'static str> {
    EXCEPTIONS.iter().find(|(name, broken, _)| (*name, *broken) == (rule, field)).map(|(.., reason)| *reason)
}
