//! What must hold of the generators, and of the fingerprints by them.

use std::collections::BTreeSet;

use vpn_classifier_core::fingerprint::{Protocol, evidence_kinds};
use vpn_classifier_generators::measure::{Generator, Kind, generators, measure};

const SEED: u64 = 1;

/// Evidence that no single flow can show: that of other flows between the same hosts.
const ELSEWHERE: [&str; 1] = ["ipsec.same_hosts"];

#[test]
fn a_million_datagrams_confirm_nothing_that_is_not_there() {
    let generators = generators();
    let counts = measure(&generators, 1_000_000, SEED, 2, &|_| {});
    let wrong: Vec<String> = generators
        .iter()
        .zip(&counts)
        .filter(|(generator, count)| !generator.holds(count))
        .map(|(generator, count)| {
            format!("{} ({}): {:?} of {}", generator.name, generator.differs, count.levels, count.flows)
        })
        .collect();
    assert!(wrong.is_empty(), "possible, likely, confirmed:\n{}", wrong.join("\n"));
}

/// A near miss is one: with the same random numbers it sends something else than its positive control.
#[test]
fn every_field_is_broken() {
    for generator in generators().iter().filter(|generator| generator.kind == Kind::NearMiss) {
        let differing = (0..40)
            .filter(|&number| generator.again(SEED, (0, number)).1 != generator.unbroken(SEED, (0, number)))
            .count();
        // A tap may not see the part of a stream that differs.
        let least = if generator.is_stream() { 16 } else { 36 };
        assert!(differing >= least, "{}, {}: {differing} of 40 flows differ", generator.name, generator.differs);
    }
}

/// A rule without a positive control could be lost without anybody noticing.
#[test]
fn every_kind_of_evidence_is_in_some_positive_control() {
    let mut found = BTreeSet::new();
    for generator in generators().iter().filter(|generator| matches!(generator.kind, Kind::Control(_))) {
        for number in 0..40 {
            let (verdict, _) = generator.again(SEED, (0, number));
            found.extend(verdict.evidence.into_iter().flatten());
        }
    }
    let missing: Vec<_> =
        evidence_kinds().map(|kind| kind.id).filter(|id| !found.contains(id) && !ELSEWHERE.contains(id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn flows_have_from_1_to_64_datagrams_or_as_many_as_a_rule_needs_and_streams_some_hundreds_of_segments() {
    for generator in generators() {
        for number in 0..20 {
            let (_, sent) = generator.again(SEED, (0, number));
            if generator.is_stream() {
                assert!(sent.len() <= 2 + 256, "{}: {}", generator.name, sent.len());
                continue;
            }
            let most = if generator.name == "ipsec.esp_in_udp_off_port" { 90 } else { 64 * 8 };
            assert!((1..=most).contains(&sent.len()), "{}: {}", generator.name, sent.len());
            assert!(sent.iter().all(|packet| packet.payload.len() <= 1_472), "{}", generator.name);
        }
    }
}

#[test]
fn counts_depend_on_the_seed_and_not_on_the_threads() {
    let some: Vec<Generator> = generators().into_iter().step_by(23).collect();
    let count = |seed, threads| measure(&some, 20_000, seed, threads, &|_| {});
    let one = count(SEED, 1);
    assert_eq!(one, count(SEED, 3));
    assert_ne!(one, count(SEED + 1, 1));
}

#[test]
fn every_protocol_has_look_alikes_near_misses_and_controls() {
    let generators = generators();
    for protocol in Protocol::ALL {
        let own = |kind: fn(&Kind) -> bool| {
            generators
                .iter()
                .filter(|generator| kind(&generator.kind) && generator.name.starts_with(protocol.name()))
                .count()
        };
        assert!(own(|kind| *kind == Kind::NearMiss) > 20, "{}", protocol.name());
        assert!(own(|kind| matches!(kind, Kind::Control(_))) > 8, "{}", protocol.name());
    }
    let mut names: Vec<_> = generators.iter().map(|generator| (generator.name, generator.differs)).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), generators.len());
    assert!(generators.iter().filter(|generator| generator.kind == Kind::LookAlike).count() > 50);
}
