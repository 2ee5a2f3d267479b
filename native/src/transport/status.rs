//! A status as peers read it: in trailers of gRPC, and as google.rpc.Status in protobuf or JSON.

use base64::engine::general_purpose::STANDARD_NO_PAD;
use base64::Engine;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::queue::{code, Answer};

pub const CANCELLED: u32 = 1;
pub const NOT_FOUND: u32 = 5;
pub const UNIMPLEMENTED: u32 = 12;
pub const UNAUTHENTICATED: u32 = 16;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
const NS_PER_S: u64 = 1_000_000_000;
/// A message is for a person: what is longer is cut.
const MAX_MESSAGE_BYTES: usize = 1024;

pub fn refusal(code: u32, message: impl Into<String>) -> Answer {
    Answer { code, message: message.into(), retry_after_ns: None }
}

/// `grpc-status` and what belongs to it.
pub fn write_trailers(answer: &Answer, headers: &mut HeaderMap) {
    headers.insert(STATUS, HeaderValue::from(answer.code));
    if answer.code == code::OK {
        return;
    }
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&answer.message)) {
        headers.insert(MESSAGE, message);
    }
    if answer.retry_after_ns.is_some() {
        let details = STANDARD_NO_PAD.encode(to_protobuf(answer));
        headers.insert(DETAILS, HeaderValue::from_str(&details).expect("base64 is ASCII"));
    }
}

/// What stands in `grpc-message`: printable ASCII but for the percent sign (gRPC over HTTP/2, Status-Message).
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in cut(message).bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// google.rpc.Status, with a RetryInfo where the peer is to come again.
pub fn to_protobuf(answer: &Answer) -> Vec<u8> {
    let mut status = Vec::with_capacity(96);
    push_number(1, answer.code.into(), &mut status);
    push_bytes(2, cut(&answer.message).as_bytes(), &mut status);
    if let Some(delay_ns) = answer.retry_after_ns {
        let (mut delay, mut info, mut any) = (Vec::new(), Vec::new(), Vec::new());
        push_number(1, delay_ns / NS_PER_S, &mut delay);
        push_number(2, delay_ns % NS_PER_S, &mut delay);
        push_bytes(1, &delay, &mut info);
        push_bytes(1, RETRY_INFO.as_bytes(), &mut any);
        push_bytes(2, &info, &mut any);
        push_bytes(3, &any, &mut status);
    }
    status
}

/// The same in JSON.
pub fn to_json(answer: &Answer) -> String {
    let message = json_text(cut(&answer.message));
    let details = answer.retry_after_ns.map_or_else(String::new, |delay_ns| {
        let (seconds, rest) = (delay_ns / NS_PER_S, delay_ns % NS_PER_S);
        let fraction = if rest == 0 { String::new() } else { format!(".{rest:09}") };
        format!(r#","details":[{{"@type":"{RETRY_INFO}","retryDelay":"{seconds}{fraction}s"}}]"#)
    });
    format!(r#"{{"code":{},"message":{message}{details}}}"#, answer.code)
}

fn json_text(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\0'..='\x1f' => quoted.push_str(&format!("\\u{:04x}", character as u32)),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// The proto3 default, 0, is left out.
fn push_number(field: u8, value: u64, message: &mut Vec<u8>) {
    if value != 0 {
        message.push(field << 3);
        push_varint(value, message);
    }
}

fn push_bytes(field: u8, content: &[u8], message: &mut Vec<u8>) {
    message.push(field << 3 | 2);
    push_varint(content.len() as u64, message);
    message.extend_from_slice(content);
}

fn push_varint(mut value: u64, message: &mut Vec<u8>) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_info_stands_in_the_details() {
        let answer = Answer { code: 14, message: "full".into(), retry_after_ns: Some(1_500_000_000) };
        let mut headers = HeaderMap::new();
        write_trailers(&answer, &mut headers);
        assert_eq!(headers["grpc-status"], "14");
        assert_eq!(headers["grpc-message"], "full");
        let details = STANDARD_NO_PAD.decode(headers["grpc-status-details-bin"].as_bytes()).unwrap();
        assert_eq!(details[..8], *b"\x08\x0e\x12\x04full");
        assert!(details.ends_with(b"\x12\x0a\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01"));
        assert_eq!(
            to_json(&answer),
            r#"{"code":14,"message":"full","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"1.500000000s"}]}"#
        );
    }

    #[test]
    fn whatever_the_message_says_can_be_told() {
        let message = "50 % \u{fc}ber\r\n\"x\"\\".to_string() + &"\u{fc}".repeat(2000);
        let answer = refusal(3, message);
        let mut headers = HeaderMap::new();
        write_trailers(&answer, &mut headers);
        assert!(headers["grpc-message"].to_str().unwrap().starts_with("50 %25 %C3%BCber%0D%0A\"x\"\\%C3%BC"));
        assert!(to_json(&answer).starts_with(r#"{"code":3,"message":"50 % über\u000d\u000a\"x\"\\ü"#));
        assert!(to_json(&answer).len() < 1100);
    }

    #[test]
    fn there_is_nothing_to_say_of_what_went_well() {
        let mut headers = HeaderMap::new();
        write_trailers(&Answer::ok(), &mut headers);
        assert_eq!(headers.len(), 1);
    }
}
