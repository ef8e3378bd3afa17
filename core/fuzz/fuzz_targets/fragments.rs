//! Fragments, datagrams and segments between two hosts through the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vpn_classifier_core::fuzzing::fragments(data));
