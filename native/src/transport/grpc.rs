//! gRPC over HTTP/2: unary calls with their framing, and the health service's stream.
//! https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

use bytes::Bytes;
use http::{header, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::admission::Admission;
use super::callbacks::NoAnswer;
use super::connection::{Call, Peer};
use super::health;
use super::listener::{Kind, Service};
use super::message::{self, Refused};
use super::reply::{self, Reply};
use super::status::{refusal, UNAUTHENTICATED, UNIMPLEMENTED};
use crate::compression::Encoding;
use crate::queue::{code, Answer, Outcome, RETRY_DELAY_NS};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPTS: HeaderName = HeaderName::from_static("grpc-accept-encoding");

pub async fn answer(
    request: Request<Incoming>,
    service: &Service,
    peer: &Peer,
    call: Call,
) -> Response<Reply> {
    if request.method() != Method::POST {
        return reply::bare(StatusCode::METHOD_NOT_ALLOWED);
    }
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return reply::bare(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    match (&service.kind, request.uri().path()) {
        // Whoever looks after the program asks without a token; what it learns is no secret.
        (_, health::CHECK | health::WATCH) => health_of(request, peer, call).await,
        (Kind::Grpc, EXPORT) => export(request, service, peer).await,
        (Kind::Control(control), path) => {
            let path = path.to_owned();
            peer.shared.counters.control_requests.add(1);
            control_call(request, service, peer, control.clone(), path).await
        }
        (_, path) => {
            peer.shared.counters.unknown_requests.add(1);
            reply::refused(&refusal(UNIMPLEMENTED, format!("there is no method {path} here")))
        }
    }
}

async fn export(request: Request<Incoming>, service: &Service, peer: &Peer) -> Response<Reply> {
    let shared = &*peer.shared;
    shared.counters.grpc_requests.add(1);
    let Some(queue) = &shared.queue else {
        return reply::refused(&refusal(UNIMPLEMENTED, "no spans are taken here"));
    };
    let admission = Admission::begin(queue);
    if !service.tokens.admit(request.headers()) {
        admission.count(Outcome::Unauthenticated);
        return reply::refused(&unauthenticated());
    }
    let Some(encoding) = encoding(request.headers()) else {
        admission.count(Outcome::Malformed);
        return unknown_encoding();
    };
    let answer = match content(request.into_body(), encoding, peer, service.max_message_bytes).await {
        Ok(body) => admission.offer(body, &peer.name).await,
        Err(refused) => admission.refuse(refused),
    };
    // An empty ExportTraceServiceResponse.
    if answer.code == code::OK {
        reply::message(b"")
    } else {
        reply::refused(&answer)
    }
}

/// Any call, for Python to answer.
async fn control_call(
    request: Request<Incoming>,
    service: &Service,
    peer: &Peer,
    control: std::sync::Arc<super::listener::Control>,
    path: String,
) -> Response<Reply> {
    if !service.tokens.admit(request.headers()) {
        return reply::refused(&unauthenticated());
    }
    let Some(encoding) = encoding(request.headers()) else { return unknown_encoding() };
    let body = match content(request.into_body(), encoding, peer, service.max_message_bytes).await {
        Ok(body) => body,
        Err(refused) => return reply::refused(&refused.answer),
    };
    match peer.shared.ask(move || control(&path, &body)).await {
        Ok((code::OK, _, message)) => reply::message(&message),
        Ok((code, message, _)) => reply::refused(&refusal(code, message)),
        Err(NoAnswer::Failed) => reply::refused(&refusal(code::INTERNAL, "the call could not be handled")),
        Err(NoAnswer::Busy | NoAnswer::Late) => reply::refused(&Answer {
            code: code::UNAVAILABLE,
            message: "too busy".into(),
            retry_after_ns: Some(RETRY_DELAY_NS),
        }),
    }
}

async fn health_of(request: Request<Incoming>, peer: &Peer, call: Call) -> Response<Reply> {
    peer.shared.counters.health_requests.add(1);
    let Some(encoding) = encoding(request.headers()) else { return unknown_encoding() };
    let is_watch = request.uri().path() == health::WATCH;
    let body = match content(request.into_body(), encoding, peer, health::MAX_REQUEST_BYTES).await {
        Ok(body) => body,
        Err(refused) => return reply::refused(&refused.answer),
    };
    let health = &peer.shared.health;
    match health::service_of(&body) {
        None => reply::refused(&refusal(code::INVALID_ARGUMENT, "the request is no HealthCheckRequest")),
        Some(service) if is_watch => health.watch(service, peer.ending.clone(), call),
        Some(service) => health.check(&service),
    }
}

async fn content(body: Incoming, encoding: Encoding, peer: &Peer, limit: usize) -> Result<Bytes, Refused> {
    let message = message::of_grpc(body, &peer.shared, limit).await?;
    let encoding = match (message.is_compressed, encoding) {
        (false, _) => Encoding::Identity,
        (true, Encoding::Identity) => {
            return Err(Refused::malformed("the message is compressed, and no header says how"));
        }
        (true, encoding) => encoding,
    };
    message::decoded(message, encoding, &peer.shared, limit).await
}

/// Of messages that say they are compressed. None: it is not known here.
fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    headers.get(ENCODING).map_or(Some(Encoding::Identity), |name| Encoding::by_name(name.as_bytes()))
}

fn unknown_encoding() -> Response<Reply> {
    let message = format!("grpc-encoding must be one of {}", Encoding::ACCEPTED);
    let mut response = reply::refused(&refusal(UNIMPLEMENTED, message));
    response.headers_mut().insert(ACCEPTS, HeaderValue::from_static(Encoding::ACCEPTED));
    response
}

fn unauthenticated() -> Answer {
    refusal(UNAUTHENTICATED, "a bearer token that is known here is wanted")
}
