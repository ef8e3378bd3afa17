//! OpenVPN over UDP: the packets of one flow through the fingerprints. All targets of datagrams call the same function; what
//! differs is the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vpn_classifier_core::fuzzing::datagrams(data));
