//! What Python cannot see. What is read and written is tested from there, against protobuf's own JSON.

use std::thread;

use super::*;
use crate::protobuf::MAX_DEPTH;

/// Arrays in arrays, to a depth of messages.
fn nested(depth: u32) -> String {
    let arrays = (depth - 5) as usize / 2;
    let (open, close) = (r#"{"arrayValue":{"values":["#.repeat(arrays), "]}}".repeat(arrays));
    format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"attributes":[{{"value":{open}{{}}{close}}}]}}]}}]}}]}}"#
    )
}

#[test]
fn the_deepest_request_needs_little_of_a_stack() {
    // Threads have 2 MiB.
    let both_ways = || {
        let json = nested(MAX_DEPTH);
        let body = to_protobuf(json.as_bytes(), usize::MAX).unwrap();
        assert_eq!(from_protobuf(&body).unwrap(), json.as_bytes());
        assert!(to_protobuf(nested(MAX_DEPTH + 2).as_bytes(), usize::MAX).is_err());
    };
    thread::Builder::new().stack_size(256 * 1024).spawn(both_ways).unwrap().join().unwrap();
}

#[test]
fn wherever_the_limit_is_nothing_is_written_beyond_it() {
    let json = nested(MAX_DEPTH);
    let size = to_protobuf(json.as_bytes(), usize::MAX).unwrap().len();
    for limit in 0..size {
        let error = to_protobuf(json.as_bytes(), limit).unwrap_err();
        assert!(error.too_large);
        assert_eq!(error.problem, format!("longer than {limit} bytes as protobuf"));
    }
    assert_eq!(to_protobuf(json.as_bytes(), size).unwrap().len(), size);
}

#[test]
fn a_path_keeps_both_its_ends() {
    let error = to_protobuf(nested(MAX_DEPTH).replace("{}", "7").as_bytes(), usize::MAX).unwrap_err();
    assert!(error.path.len() <= MAX_PATH && error.path.starts_with("resourceSpans[0].scopeSpans[0]"));
    assert!(error.path.ends_with(".arrayValue.values[0]"));
    assert_eq!(error.problem, "expected an object");
}
