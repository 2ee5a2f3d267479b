use std::time::UNIX_EPOCH;

use super::*;

fn delimited(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, content.len() as u8];
    field.extend_from_slice(content);
    field
}

fn status_with_delay(kind: &str, duration: &[u8]) -> Vec<u8> {
    let any = [delimited(1, kind.as_bytes()), delimited(2, &delimited(1, duration))].concat();
    [vec![0x08, 14], delimited(2, b"later"), delimited(3, &any)].concat()
}

const KIND: &str = "type.googleapis.com/google.rpc.RetryInfo";

#[test]
fn the_delay_of_a_retry_info_is_read() {
    let status = Status::read(&status_with_delay(KIND, &[0x08, 2, 0x10, 5])).unwrap();
    assert_eq!((status.message.as_str(), status.retry_delay_ns), ("later", Some(2_000_000_005)));
}

#[test]
fn a_retry_info_of_no_delay_is_one() {
    assert_eq!(Status::read(&status_with_delay(KIND, &[])).unwrap().retry_delay_ns, Some(0));
}

#[test]
fn other_details_say_nothing_of_a_delay() {
    let status = status_with_delay("type.googleapis.com/google.rpc.ErrorInfo", &[0x08, 2]);
    assert_eq!(Status::read(&status).unwrap().retry_delay_ns, None);
}

#[test]
fn a_delay_that_no_clock_can_reach_is_the_longest() {
    let most = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(Status::read(&status_with_delay(KIND, &most)).unwrap().retry_delay_ns, Some(i64::MAX as u64));
    let least = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(Status::read(&status_with_delay(KIND, &least)).unwrap().retry_delay_ns, Some(0));
}

#[test]
fn a_status_that_is_cut_off_anywhere_is_none_or_one_without_its_end() {
    let whole = status_with_delay(KIND, &[0x08, 2]);
    for end in 0..whole.len() {
        if let Some(status) = Status::read(&whole[..end]) {
            assert_eq!(status.retry_delay_ns, None);
        }
    }
}

#[test]
fn a_partial_success_is_read_in_both_encodings() {
    let partial = [vec![0x08, 3], delimited(2, b"too long")].concat();
    let expected = Answer { rejected_spans: 3, message: "too long".into(), ..Answer::default() };
    assert_eq!(Answer::success(&delimited(1, &partial)), expected);
    for json in [
        r#"{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too long"}}"#,
        r#"{"partial_success": {"rejected_spans": 3, "error_message": "too long"}, "more": []}"#,
    ] {
        assert_eq!(Answer::success_json(json.as_bytes()), expected);
    }
}

#[test]
fn a_plain_success_has_nothing_to_say() {
    for response in [&b""[..], b"\n\x00"] {
        assert_eq!(Answer::success(response), Answer::default());
    }
    for response in ["", " ", "{}", r#"{"partialSuccess":{}}"#, r#"{"partialSuccess":null}"#] {
        assert_eq!(Answer::success_json(response.as_bytes()), Answer::default());
    }
}

#[test]
fn a_success_that_cannot_be_read_is_a_success() {
    for answer in [Answer::success(b"\xff\xff"), Answer::success_json(b"{")] {
        assert_eq!((answer.code, answer.rejected_spans), (OK, 0));
        assert_eq!(answer.message, UNREADABLE);
    }
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
    let second = 1_000_000_000;
    for (value, expected) in [
        ("0", Some(0)),
        (" 7 ", Some(7 * second)),
        ("99999999999999999999999", Some(i64::MAX as u64)),
        ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30 * second)),
        ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30 * second)),
        ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
    ] {
        assert_eq!(retry_after_ns(value, now), expected, "{value:?}");
    }
}

#[test]
fn what_is_for_people_is_short_and_steers_no_terminal() {
    assert_eq!(short("a\x1b[31mb\nc"), "a [31mb c");
    assert_eq!(short(&"x".repeat(1_000_000)).len(), MESSAGE_CHARS);
}
