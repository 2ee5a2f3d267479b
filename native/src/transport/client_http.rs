//! OTLP/HTTP: a POST, whose status is told in the words of gRPC, so that one table says what is tried again. Spec:
//! https://opentelemetry.io/docs/specs/otlp/#otlphttp

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::answer::{self, short, Answer, Status};
use super::client::{content, packed, told, Outgoing};
use super::segments::Segments;

pub const TRACES: &str = "/v1/traces";

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

pub fn request(outgoing: Outgoing<'_>) -> Request<Full<Segments>> {
    post(outgoing, PROTOBUF)
}

/// Fails with INVALID_ARGUMENT where the body is no request.
pub fn json_request(mut outgoing: Outgoing<'_>) -> Result<Request<Full<Segments>>, Answer> {
    let json = match outgoing.pieces.as_slice() {
        [piece] => crate::json::from_protobuf(piece),
        pieces => crate::json::from_protobuf(&pieces.concat()),
    };
    let json = json.map_err(|_| Answer::failure(answer::INVALID_ARGUMENT, "not a request"))?;
    outgoing.pieces = vec![Bytes::from(json)];
    Ok(post(outgoing, JSON))
}

fn post(outgoing: Outgoing<'_>, content_type: &'static str) -> Request<Full<Segments>> {
    let body: Segments = packed(outgoing.encoding, outgoing.pieces).into_iter().collect();
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = outgoing.uri;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static("enricher"));
    headers.extend(outgoing.headers.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(encoding) = outgoing.encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    }
    request
}

pub async fn answer(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let (is_json, is_protobuf) = (kind.starts_with(JSON.as_bytes()), kind.starts_with(PROTOBUF.as_bytes()));
    // What breaks off while it is read has still its status.
    let read = content(body).await;
    if head.status.is_success() {
        return match read {
            Ok(content) if content.huge => Answer::default(),
            Ok(content) if is_json => Answer::success_json(&content.kept),
            Ok(content) if is_protobuf => Answer::success(&content.kept),
            Ok(_) => Answer::default(),
            Err(error) => Answer { message: short(&told(&error)), ..Answer::default() },
        };
    }
    let said = read.map(|content| content.kept).unwrap_or_default();
    let status = if is_json {
        Status::read_json(&said)
    } else if is_protobuf {
        Status::read(&said)
    } else if kind.starts_with(b"text/plain") {
        Some(Status { message: short(&String::from_utf8_lossy(&said)), retry_delay_ns: None })
    } else {
        None
    };
    let status = status.unwrap_or_default();
    failure(head.status, &head.headers, &status)
}

fn failure(status: StatusCode, headers: &HeaderMap, details: &Status) -> Answer {
    let wait_ns = retry_after_ns(headers).or(details.retry_delay_ns);
    let (code, retry_delay_ns) = match status.as_u16() {
        // To be retried whether it names a wait or not.
        429 => (answer::RESOURCE_EXHAUSTED, Some(wait_ns.unwrap_or(0))),
        502..=504 => (answer::UNAVAILABLE, wait_ns),
        413 => (answer::RESOURCE_EXHAUSTED, None), // never as it is, but its parts may be small enough
        400 => (answer::INVALID_ARGUMENT, None),
        401 => (answer::UNAUTHENTICATED, None),
        403 => (answer::PERMISSION_DENIED, None),
        // Whatever is sent there: a redirection is not followed either, it would carry headers to others.
        300..=399 | 404 | 405 | 415 | 501 => (answer::UNIMPLEMENTED, None),
        _ => (answer::UNKNOWN, None),
    };
    let colon = if details.message.is_empty() { "" } else { ": " };
    let message = format!("HTTP status {status}{colon}{}", details.message);
    Answer { retry_delay_ns, ..Answer::failure(code, message) }
}

pub fn retry_after_ns(headers: &HeaderMap) -> Option<u64> {
    answer::retry_after_ns(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}
