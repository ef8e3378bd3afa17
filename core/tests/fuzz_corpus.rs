//! Runs every file of the fuzz corpus through the function that its target calls.

#![allow(clippy::expect_used)] // a test may

use std::path::Path;

/// Runs the corpus of one target: every file under `fuzz/corpus/<target>`, in the order of their names.
fn run(target: &str, call: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&directory)
        .expect("a corpus directory")
        .map(|entry| entry.expect("a corpus file").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds for {target}");
    for file in files {
        // Shown when the test fails.
        println!("{}", file.display());
        call(&std::fs::read(&file).expect("a readable seed"));
    }
}

#[test]
fn pcap() {
    run("pcap", vpn_classifier_core::fuzzing::capture);
}

#[test]
fn pcapng() {
    run("pcapng", vpn_classifier_core::fuzzing::capture);
}

#[test]
fn compressed() {
    run("compressed", vpn_classifier_core::fuzzing::capture);
}

#[test]
fn frame() {
    run("frame", vpn_classifier_core::fuzzing::frame);
}

#[test]
fn wireguard() {
    run("wireguard", vpn_classifier_core::fuzzing::datagrams);
}

#[test]
fn openvpn() {
    run("openvpn", vpn_classifier_core::fuzzing::datagrams);
}

#[test]
fn ipsec() {
    run("ipsec", vpn_classifier_core::fuzzing::datagrams);
}

#[test]
fn stream() {
    run("stream", vpn_classifier_core::fuzzing::segments);
}

#[test]
fn fragments() {
    run("fragments", vpn_classifier_core::fuzzing::fragments);
}
