//! Segments with their sequence numbers through the TCP cursor and the fingerprints.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vpn_classifier_core::fuzzing::segments(data));
