//! Captures within gzip and zstd, from whole files. All capture targets call the same function; what differs is the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vpn_classifier_core::fuzzing::capture(data));
