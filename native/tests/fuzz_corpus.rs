//! What the fuzzer has found worth keeping, run through the same checks.

use std::fs;
use std::path::Path;

#[path = "../fuzz/oracles.rs"]
mod oracles;

fn replay(target: &str, oracle: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{}", corpus.display());
    for file in files {
        println!("{}", file.display()); // shown where an assertion fails
        oracle(&fs::read(file).unwrap());
    }
}

#[test]
fn decompress() {
    replay("decompress", oracles::decompress);
}

#[test]
fn sample() {
    replay("sample", oracles::sample);
}

#[test]
fn scan() {
    replay("scan", oracles::scan);
}

#[test]
fn splice() {
    replay("splice", oracles::splice);
}

#[test]
fn json_to_protobuf() {
    replay("json_to_protobuf", oracles::json_to_protobuf);
}

#[test]
fn json_round_trip() {
    replay("json_round_trip", oracles::json_round_trip);
}
