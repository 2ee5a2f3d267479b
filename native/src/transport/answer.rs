//! What a backend answered, in the one form that both protocols are brought to: a gRPC status, RetryInfo, and what
//! a partial success left out. Whatever cannot be read is as if it was not there: a status stands by itself.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::protobuf::{Malformed, Reader, LENGTH, VARINT};
use crate::schema;

pub const OK: u32 = 0;
pub const CANCELLED: u32 = 1;
pub const UNKNOWN: u32 = 2;
pub const INVALID_ARGUMENT: u32 = 3;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const PERMISSION_DENIED: u32 = 7;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;
pub const UNAUTHENTICATED: u32 = 16;

/// Of a message that is for people to read, as many characters are kept.
const MESSAGE_CHARS: usize = 400;
const RETRY_INFO: &[u8] = b"/google.rpc.RetryInfo";
const UNREADABLE: &str = "its answer cannot be read";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub code: u32,
    pub message: String,
    pub retry_delay_ns: Option<u64>,
    pub rejected_spans: i64,
}

impl Answer {
    pub fn failure(code: u32, message: impl AsRef<str>) -> Self {
        Self { code, message: short(message.as_ref()), ..Self::default() }
    }

    /// A success. `response`: an ExportTraceServiceResponse, or that of another signal: they are alike.
    pub fn success(response: &[u8]) -> Self {
        match partial_success(response) {
            Ok((rejected_spans, message)) => {
                Self { rejected_spans, message: short(&message), ..Self::default() }
            }
            Err(Malformed) => Self { message: UNREADABLE.into(), ..Self::default() },
        }
    }

    pub fn success_json(response: &[u8]) -> Self {
        if response.iter().all(u8::is_ascii_whitespace) {
            return Self::default();
        }
        let Ok(tree) = serde_json::from_slice::<Value>(response) else {
            return Self { message: UNREADABLE.into(), ..Self::default() };
        };
        let partial = field(&tree, "partialSuccess", "partial_success");
        let rejected = field(partial, "rejectedSpans", "rejected_spans");
        // 64-bit numbers are strings in protobuf's JSON, and either is taken.
        let rejected = rejected.as_i64().or_else(|| rejected.as_str()?.parse().ok());
        let message = field(partial, "errorMessage", "error_message").as_str().unwrap_or_default();
        Self { rejected_spans: rejected.unwrap_or(0), message: short(message), ..Self::default() }
    }
}

fn field<'a>(tree: &'a Value, name: &str, proto_name: &str) -> &'a Value {
    tree.get(name).or_else(|| tree.get(proto_name)).unwrap_or(&Value::Null)
}

/// At most so many characters, and none that could steer a terminal or a log.
pub fn short(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(MESSAGE_CHARS).map(printable).collect()
}

fn partial_success(response: &[u8]) -> Result<(i64, String), Malformed> {
    let (mut rejected, mut message) = (0, String::new());
    let mut reader = Reader::new(response);
    while !reader.is_at_end() {
        match reader.tag()? {
            (1, LENGTH) => {
                let mut partial = Reader::new(reader.delimited()?);
                while !partial.is_at_end() {
                    match partial.tag()? {
                        (1, VARINT) => rejected = partial.varint()? as i64,
                        (2, LENGTH) => message = String::from_utf8_lossy(partial.delimited()?).into_owned(),
                        (number, wire) => partial.check(number, wire, &schema::ANY, 1)?,
                    }
                }
            }
            (number, wire) => reader.check(number, wire, &schema::ANY, 0)?,
        }
    }
    Ok((rejected, message))
}

/// A google.rpc.Status: what `grpc-status-details-bin` holds, and the body of an HTTP answer that is a failure.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub message: String,
    pub retry_delay_ns: Option<u64>,
}

impl Status {
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::parse(bytes).ok()
    }

    pub fn read_json(bytes: &[u8]) -> Option<Self> {
        let tree: Value = serde_json::from_slice(bytes).ok()?;
        Some(Self { message: short(tree.get("message")?.as_str()?), retry_delay_ns: None })
    }

    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut status = Self::default();
        let mut reader = Reader::new(bytes);
        while !reader.is_at_end() {
            match reader.tag()? {
                (2, LENGTH) => status.message = short(&String::from_utf8_lossy(reader.delimited()?)),
                (3, LENGTH) => {
                    let delay_ns = retry_info(reader.delimited()?)?;
                    status.retry_delay_ns = status.retry_delay_ns.or(delay_ns);
                }
                (number, wire) => reader.check(number, wire, &schema::ANY, 0)?,
            }
        }
        Ok(status)
    }
}

/// The delay in a google.protobuf.Any, if that is a RetryInfo.
fn retry_info(any: &[u8]) -> Result<Option<u64>, Malformed> {
    let (mut kind, mut value): (&[u8], &[u8]) = (&[], &[]);
    let mut reader = Reader::new(any);
    while !reader.is_at_end() {
        match reader.tag()? {
            (1, LENGTH) => kind = reader.delimited()?,
            (2, LENGTH) => value = reader.delimited()?,
            (number, wire) => reader.check(number, wire, &schema::ANY, 1)?,
        }
    }
    if !kind.ends_with(RETRY_INFO) {
        return Ok(None);
    }
    let mut delay_ns = 0;
    let mut reader = Reader::new(value);
    while !reader.is_at_end() {
        match reader.tag()? {
            (1, LENGTH) => delay_ns = duration_ns(reader.delimited()?)?,
            (number, wire) => reader.check(number, wire, &schema::ANY, 2)?,
        }
    }
    Ok(Some(delay_ns))
}

/// Of a google.protobuf.Duration; 0 for one that is negative. What no clock can reach is the latest that one can.
fn duration_ns(duration: &[u8]) -> Result<u64, Malformed> {
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    let mut reader = Reader::new(duration);
    while !reader.is_at_end() {
        match reader.tag()? {
            (1, VARINT) => seconds = reader.varint()? as i64,
            (2, VARINT) => nanos = reader.varint()? as i32,
            (number, wire) => reader.check(number, wire, &schema::ANY, 3)?,
        }
    }
    let whole_ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Ok(whole_ns.clamp(0, i128::from(i64::MAX)) as u64)
}

/// The wait that a `Retry-After` asks for, in seconds or as a date (RFC 9110, section 10.2.3).
pub fn retry_after_ns(value: &str, now: SystemTime) -> Option<u64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = value.parse::<u64>().unwrap_or(u64::MAX);
        return Some(seconds.saturating_mul(1_000_000_000).min(i64::MAX as u64));
    }
    let wait = httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or(Duration::ZERO);
    Some(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX as u64))
}

#[cfg(test)]
#[path = "answer/tests.rs"]
mod tests;
