//! That the short ways and the long way agree. That the long way is protobuf's is tested from Python.

use super::*;
use crate::attributes::{push_attribute, Value};
use crate::protobuf::{validate, varint_bytes, varint_size};

pub fn delimited(tag: u8, content: &[u8]) -> Vec<u8> {
    let size = content.len() as u64;
    [&[tag], &varint_bytes(size)[..varint_size(size)], content].concat()
}

/// A span as SDKs write it.
pub fn plain_span(number: u8) -> Vec<u8> {
    let mut span = Vec::new();
    span.extend(delimited(TRACE_ID, &[number; 16]));
    span.extend(delimited(SPAN_ID, &[number; 8]));
    if number.is_multiple_of(2) {
        span.extend(delimited(PARENT_SPAN_ID, &[0xee; 8]));
    }
    span.extend(delimited(NAME, b"GET /"));
    span.extend([KIND, number % 6, START]);
    span.extend(1000u64.to_le_bytes());
    span.push(END);
    span.extend((1000 + u64::from(number)).to_le_bytes());
    push_attribute("http.request.method", &Value::Text("GET"), &mut span);
    push_attribute("server.port", &Value::Int(8080), &mut span);
    push_attribute("ratio", &Value::Double(-0.3), &mut span);
    push_attribute("negative", &Value::Int(-1), &mut span);
    push_attribute("error", &Value::Bool(true), &mut span);
    push_attribute("long", &Value::Text(&"x".repeat(200)), &mut span);
    push_attribute("имя", &Value::Text("значение"), &mut span);
    span.extend([STATUS, 2, STATUS_CODE, 1, FLAGS, 1, 1, 1, 0, 0]);
    span
}

/// One ResourceSpans with one ScopeSpans for each number.
pub fn request(spans_per_scope: &[u8]) -> Vec<u8> {
    let scopes = spans_per_scope.iter().map(|count| {
        let spans: Vec<u8> = (0..*count).flat_map(|number| delimited(0x12, &plain_span(number))).collect();
        delimited(0x0a, &delimited(0x12, &spans))
    });
    scopes.flatten().collect()
}

/// The short ways are only taken in `scan`: `validate` goes by the schema alone.
fn assert_both_ways_agree(body: &[u8]) {
    let scanned = scan(body);
    assert_eq!(scanned.is_ok(), validate(body, &REQUEST, 0).is_ok(), "{body:x?}");
    assert_eq!(scanned, scan_request(body)); // whatever it was compiled for
}

#[test]
fn spans_are_told_with_what_a_join_needs() {
    let body = request(&[3, 0, 2]);
    let scan = scan(&body).unwrap();
    assert_eq!((scan.spans.len(), scan.scopes.len(), scan.resources.len()), (5, 3, 3));
    let span = &scan.spans[2];
    assert_eq!((span.trace_id, span.span_id), ([2; 16], u64::from_le_bytes([2; 8])));
    assert_eq!((span.start_unix_ns, span.end_unix_ns, span.kind), (1000, 1002, 2));
    assert!(span.has_ids && span.has_parent && span.can_have_tail());
    assert_eq!(scan.last_end_unix_ns, 1002);
    let fields = scan.fields(&body, 1);
    assert_eq!((fields.trace_id, fields.parent_span_id, fields.end_unix_ns), (&[1; 16][..], &[][..], 1001));
}

#[test]
fn the_status_is_the_last_code_of_all_that_are_there() {
    let error = [STATUS, 2, STATUS_CODE, 2].to_vec();
    let told = delimited(STATUS, &[&delimited(0x12, b"why")[..], &[STATUS_CODE, 2]].concat());
    let wide = [STATUS, 4, STATUS_CODE, 0x82, 0x80, 0].to_vec();
    let (ok, empty) = ([STATUS, 2, STATUS_CODE, 1].to_vec(), [STATUS, 0].to_vec());
    for (fields, is_error) in [
        (vec![&error], true),
        (vec![&told], true),
        (vec![&wide], true),
        (vec![&ok], false),
        (vec![&empty], false),
        (vec![], false),
        (vec![&error, &empty], true),
        (vec![&error, &ok], false),
        (vec![&ok, &empty, &told], true),
    ] {
        let span = fields.into_iter().flatten().copied().collect::<Vec<u8>>();
        let scan = scan(&delimited(0x0a, &delimited(0x12, &delimited(0x12, &span)))).unwrap();
        assert_eq!(scan.spans[0].is_error, is_error, "{span:x?}");
    }
}

#[test]
fn ids_of_another_length_are_none() {
    let span = [delimited(TRACE_ID, &[1; 15]), delimited(SPAN_ID, &[1; 8])].concat();
    let scan = scan(&delimited(0x0a, &delimited(0x12, &delimited(0x12, &span)))).unwrap();
    assert!(!scan.spans[0].has_ids);
}

#[test]
fn cut_short_or_with_any_byte_changed_both_ways_agree() {
    let body = request(&[2]);
    for size in 0..=body.len() {
        assert_both_ways_agree(&body[..size]);
    }
    for at in 0..body.len() {
        for value in 0..=255 {
            let mut changed = body.clone();
            changed[at] = value;
            assert_both_ways_agree(&changed);
        }
    }
}

#[test]
fn a_plain_span_takes_the_short_ways_only() {
    let span = plain_span(2);
    let (size, fields) = plain_head(&span).unwrap();
    assert_eq!((fields.kind, fields.end_unix_ns), (2, 1002));
    let mut reader = Reader::new(&span);
    reader.at = size;
    skip_plain_attributes(&mut reader);
    // Up to the -1 of ten bytes.
    let rest = &span[reader.at..];
    assert_eq!(rest[..4], [ATTRIBUTE, 23, KEY, 8]);
    let mut tail = Reader::new(&span[span.len() - 10..]);
    assert_eq!(read_plain_tail(&mut tail), 1);
    assert!(tail.is_at_end());
}

#[test]
fn a_span_of_many_attributes_is_read_once_whatever_the_last_of_them_is() {
    let plain = [0x4a, 6, 0x0a, 0, 0x12, 2, 0x0a, 0].repeat(200_000);
    let mut span = plain.clone();
    push_attribute("", &Value::Text("é"), &mut span);
    let body = delimited(0x0a, &delimited(0x12, &delimited(0x12, &span)));
    let began = std::time::Instant::now();
    assert_eq!(scan(&body).unwrap().spans.len(), 1);
    // Looked through for each of its attributes it would take an hour.
    assert!(began.elapsed().as_secs() < 10);
}
