//! Whole frames: decode, flows and fingerprints, in an engine with the smallest bounds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vpn_classifier_core::fuzzing::frame(data));
