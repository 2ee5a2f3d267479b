//! OTLP/gRPC: a unary call over HTTP/2, whose status comes in the trailers. Spec:
//! https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

use std::time::Duration;

use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::Engine;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::answer::{self, Answer, Status};
use super::client::{content, packed, told, Outgoing};
use super::segments::Segments;

pub const EXPORT_TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Whether it is packed, and the length of the message, before each.
const PREFIX_BYTES: usize = 5;
/// Senders leave the padding off, receivers must take both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `grpc-accept-encoding` is left out: an answer of a few bytes does not come packed.
pub fn request(outgoing: Outgoing<'_>) -> Request<Full<Segments>> {
    let pieces = packed(outgoing.encoding, outgoing.pieces);
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut prefix = Vec::with_capacity(PREFIX_BYTES);
    prefix.push(u8::from(outgoing.encoding.is_some()));
    prefix.extend_from_slice(&(length as u32).to_be_bytes()); // less than 2 GiB, as any message
    let mut body = Segments::default();
    body.push(prefix.into());
    pieces.into_iter().for_each(|piece| body.push(piece));
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = outgoing.uri;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static("enricher"));
    headers.extend(outgoing.headers.clone());
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TIMEOUT, timeout_value(outgoing.timeout));
    if let Some(encoding) = outgoing.encoding {
        headers.insert(ENCODING, HeaderValue::from_static(encoding.name()));
    }
    request
}

/// At most eight digits and a unit.
fn timeout_value(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_millis();
    let text = if millis < 100_000_000 {
        format!("{millis}m")
    } else {
        format!("{}S", timeout.as_secs().min(99_999_999))
    };
    HeaderValue::try_from(text).expect("digits and a letter are a valid value")
}

pub async fn answer(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    if let Some(answer) = status(&head.headers) {
        return answer; // nothing but headers: the call has failed
    }
    if head.status != StatusCode::OK {
        let mut answer = of_http_status(head.status);
        answer.retry_delay_ns = super::client_http::retry_after_ns(&head.headers);
        return answer;
    }
    if !is_grpc(&head.headers) {
        return Answer::failure(answer::UNKNOWN, "what answers there does not speak gRPC");
    }
    // A reset says nothing about what was sent: Go's reverse proxy, for one, resets with INTERNAL_ERROR when what is
    // behind it goes away. So whatever its code is, it may be better the next time.
    let content = match content(body).await {
        Ok(content) => content,
        Err(error) => return Answer::failure(answer::UNAVAILABLE, told(&error)),
    };
    // Without trailers: a server sends its message when the call has gone well.
    let ended = if content.huge {
        Answer::default()
    } else {
        match content.trailers.as_ref().and_then(status) {
            Some(answer) => answer,
            None => return Answer::failure(answer::UNAVAILABLE, "the answer ended without a status"),
        }
    };
    if ended.code != answer::OK {
        return ended;
    }
    match content.kept.split_at_checked(PREFIX_BYTES) {
        Some((&[0, ref length @ ..], message)) => {
            let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            message.get(..length).map_or_else(|| Answer::success(b"\xff"), Answer::success)
        }
        Some(_) => Answer::success(b"\xff"), // packed, which we have not asked for
        None => Answer::default(),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// None where there is no status in them.
fn status(headers: &HeaderMap) -> Option<Answer> {
    let code = headers.get(STATUS)?.to_str().ok().and_then(|text| text.parse().ok());
    let code = code.filter(|&code: &u32| code <= answer::UNAUTHENTICATED).unwrap_or(answer::UNKNOWN);
    let message = headers.get(MESSAGE).map_or_else(String::new, |value| percent_decoded(value.as_bytes()));
    let details = headers.get(DETAILS).and_then(|value| BASE64.decode(value.as_bytes()).ok());
    let mut answer = Answer::failure(code, message);
    answer.retry_delay_ns = details.and_then(|details| Status::read(&details)?.retry_delay_ns);
    Some(answer)
}

/// Of what is between us and the backend; the table is
/// https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
fn of_http_status(status: StatusCode) -> Answer {
    let code = match status.as_u16() {
        400 => answer::INTERNAL,
        401 => answer::UNAUTHENTICATED,
        403 => answer::PERMISSION_DENIED,
        404 => answer::UNIMPLEMENTED,
        429 | 502 | 503 | 504 => answer::UNAVAILABLE,
        _ => answer::UNKNOWN,
    };
    Answer::failure(code, format!("HTTP status {status} instead of an answer of gRPC"))
}

fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let hex =
            text.get(at + 1..at + 3).filter(|hex| text[at] == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(text[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_message_is_percent_encoded() {
        for (text, expected) in [
            ("a%20b", "a b"),
            ("%", "%"),
            ("%2", "%2"),
            ("%zz%41", "%zzA"),
            ("%e2%82%ac", "€"),
            ("%+1", "%+1"),
        ] {
            assert_eq!(percent_decoded(text.as_bytes()), expected);
        }
    }

    #[test]
    fn details_are_read_with_and_without_padding() {
        // RetryInfo of 1 s
        let details = "GjAKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5SZXRyeUluZm8SBAoCCAE";
        for padding in ["", "="] {
            let answer = status(&trailers(&[
                ("grpc-status", "14"),
                ("grpc-message", "later"),
                ("grpc-status-details-bin", &format!("{details}{padding}")),
            ]));
            let answer = answer.unwrap();
            assert_eq!(
                (answer.code, answer.message.as_str(), answer.retry_delay_ns),
                (14, "later", Some(1_000_000_000))
            );
        }
    }

    #[test]
    fn a_status_that_there_is_not_is_unknown() {
        for code in ["17", "-1", "x", "", "99999999999"] {
            assert_eq!(status(&trailers(&[("grpc-status", code)])).unwrap().code, answer::UNKNOWN);
        }
        assert_eq!(status(&trailers(&[("grpc-message", "x")])), None);
    }

    #[test]
    fn a_timeout_has_eight_digits_at_most() {
        for (seconds, expected) in
            [(0, "0m"), (5, "5000m"), (99_999, "99999000m"), (100_000, "100000S"), (u64::MAX, "99999999S")]
        {
            assert_eq!(timeout_value(Duration::from_secs(seconds)), expected);
        }
    }
}
