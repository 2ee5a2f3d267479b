//! OTLP over HTTP: https://opentelemetry.io/docs/specs/otlp/#otlphttp

use bytes::Bytes;
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::admission::Admission;
use super::connection::Peer;
use super::listener::{Service, Traces};
use super::message::{self, Refused};
use super::reply::{self, Reply};
use super::server::Shared;
use super::status::{self, refusal, CANCELLED, NOT_FOUND, UNAUTHENTICATED, UNIMPLEMENTED};
use crate::compression::Encoding;
use crate::json;
use crate::queue::{code, Answer, Outcome, Queue};

const NS_PER_S: u64 = 1_000_000_000;
/// JSON of this size is read in half a millisecond; what is longer is read elsewhere, and others are served.
const READ_AT_ONCE: usize = 64 << 10;
const ACCEPTS: HeaderName = HeaderName::from_static("accept-encoding");

/// The format of a request, and of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Protobuf,
    Json,
}

impl Format {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(header::CONTENT_TYPE)?.as_bytes();
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if kind.eq_ignore_ascii_case(b"application/x-protobuf") {
            return Some(Self::Protobuf);
        }
        kind.eq_ignore_ascii_case(b"application/json").then_some(Self::Json)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    /// google.rpc.Status, or an empty ExportTraceServiceResponse.
    fn response(self, code: StatusCode, answer: &Answer) -> Response<Reply> {
        let content = match (self, answer.code == code::OK) {
            (Self::Protobuf, true) => Bytes::new(),
            (Self::Json, true) => Bytes::from_static(b"{}"),
            (Self::Protobuf, false) => status::to_protobuf(answer).into(),
            (Self::Json, false) => status::to_json(answer).into(),
        };
        reply::content(code, self.name(), content)
    }
}

pub async fn answer(
    mut request: Request<Incoming>,
    service: &Service,
    traces: &Traces,
    peer: &Peer,
) -> Response<Reply> {
    let origin = traces.cors.allowed(request.headers());
    let mut response = match traces.cors.preflight(&request) {
        Some(response) if !traces.cors.origins.is_empty() => return response,
        _ => of_path(&mut request, service, traces, peer).await,
    };
    let waits_to_send = request.headers().contains_key(header::EXPECT);
    if request.version() < Version::HTTP_2 && response.status() != StatusCode::OK && !waits_to_send {
        message::discard(request.body_mut()).await;
    }
    traces.cors.expose(origin, response.headers_mut());
    response
}

async fn of_path(
    request: &mut Request<Incoming>,
    service: &Service,
    traces: &Traces,
    peer: &Peer,
) -> Response<Reply> {
    let shared = &*peer.shared;
    let Some(queue) = shared.queue.as_ref().filter(|_| request.uri().path() == traces.path) else {
        shared.counters.unknown_requests.add(1);
        let format = Format::of(request.headers()).unwrap_or(Format::Json);
        let message = format!("traces are taken at {}", traces.path);
        return format.response(StatusCode::NOT_FOUND, &refusal(NOT_FOUND, message));
    };
    if request.method() != Method::POST {
        shared.counters.unknown_requests.add(1);
        let mut response = reply::bare(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    shared.counters.http_requests.add(1);
    export(request, service, queue, peer).await
}

async fn export(
    request: &mut Request<Incoming>,
    service: &Service,
    queue: &Queue,
    peer: &Peer,
) -> Response<Reply> {
    let admission = Admission::begin(queue);
    let format = Format::of(request.headers());
    if !service.tokens.admit(request.headers()) {
        admission.count(Outcome::Unauthenticated);
        let answer = refusal(UNAUTHENTICATED, "a bearer token that is known here is wanted");
        let mut response = format.unwrap_or(Format::Json).response(StatusCode::UNAUTHORIZED, &answer);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    let Some(format) = format else {
        admission.count(Outcome::Malformed);
        let message = "content-type must be application/x-protobuf or application/json";
        let answer = refusal(code::INVALID_ARGUMENT, message);
        return Format::Json.response(StatusCode::UNSUPPORTED_MEDIA_TYPE, &answer);
    };
    let Some(encoding) = encoding(request.headers()) else {
        admission.count(Outcome::Malformed);
        let message = format!("content-encoding must be one of {}", Encoding::ACCEPTED);
        let answer = refusal(code::INVALID_ARGUMENT, message);
        let mut response = format.response(StatusCode::UNSUPPORTED_MEDIA_TYPE, &answer);
        response.headers_mut().insert(ACCEPTS, HeaderValue::from_static(Encoding::ACCEPTED));
        return response;
    };
    let content = content(request.body_mut(), encoding, format, service.max_message_bytes, peer);
    let answer = match content.await {
        Ok(body) => admission.offer(body, &peer.name).await,
        Err(refused) => admission.refuse(refused),
    };
    told(&answer, format)
}

/// As protobuf.
async fn content(
    body: &mut Incoming,
    encoding: Encoding,
    format: Format,
    limit: usize,
    peer: &Peer,
) -> Result<Bytes, Refused> {
    let message = message::of_http(body, &peer.shared, limit).await?;
    let body = message::decoded(message, encoding, &peer.shared, limit).await?;
    match format {
        Format::Protobuf => Ok(body),
        Format::Json => from_json(body, limit, &peer.shared).await,
    }
}

async fn from_json(body: Bytes, limit: usize, shared: &Shared) -> Result<Bytes, Refused> {
    let read = if body.len() <= READ_AT_ONCE {
        json::to_protobuf(&body, limit)
    } else {
        // What waits for its turn is bounded as what is still coming is; what is made of it is not longer.
        let room = shared.under_way.begin();
        room.takes(2 * body.len()).map_err(|_| Refused::no_room())?;
        let reading = tokio::task::spawn_blocking(move || json::to_protobuf(&body, limit));
        let read = timeout(shared.limits.message_timeout, reading).await.map_err(|_| Refused::no_room())?;
        read.map_err(|_| Refused::failed("the request could not be read"))?
    };
    match read {
        Ok(body) => Ok(body.into()),
        Err(error) if error.too_large => Err(Refused::too_large(limit)),
        Err(error) => Err(Refused::malformed(&error.to_string())),
    }
}

/// None: it is not known here. Several would have been put on one after the other: nobody does that.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let mut names = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(name) = names.next() else { return Some(Encoding::Identity) };
    Encoding::by_name(&name.as_bytes().trim_ascii().to_ascii_lowercase()).filter(|_| names.next().is_none())
}

fn told(answer: &Answer, format: Format) -> Response<Reply> {
    let mut response = format.response(status_code(answer), answer);
    if let Some(delay_ns) = answer.retry_after_ns {
        // Whole seconds; 0 would be at once.
        let seconds = delay_ns.div_ceil(NS_PER_S).max(1);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Retried by OTLP are 429, 502, 503 and 504: codes that gRPC retries must become one of them, and no others.
fn status_code(answer: &Answer) -> StatusCode {
    match (answer.code, answer.retry_after_ns) {
        (code::OK, _) => StatusCode::OK,
        (code::INVALID_ARGUMENT, _) => StatusCode::BAD_REQUEST,
        (code::RESOURCE_EXHAUSTED, Some(_)) => StatusCode::TOO_MANY_REQUESTS,
        (code::RESOURCE_EXHAUSTED, None) => StatusCode::PAYLOAD_TOO_LARGE,
        // Cancelled, deadline exceeded, aborted, out of range, unavailable, data loss.
        (CANCELLED | 4 | 10 | 11 | code::UNAVAILABLE | 15, _) => StatusCode::SERVICE_UNAVAILABLE,
        (UNAUTHENTICATED, _) => StatusCode::UNAUTHORIZED,
        (7, _) => StatusCode::FORBIDDEN,
        (NOT_FOUND | UNIMPLEMENTED, _) => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
