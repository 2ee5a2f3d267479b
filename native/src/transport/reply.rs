//! What is sent back: the body of a response, with the trailers that gRPC wants.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{header, HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::status;
use crate::queue::Answer;

pub enum Reply {
    Empty,
    Whole(Bytes),
    /// One message of gRPC, and trailers.
    Unary {
        message: Bytes,
        trailers: Option<HeaderMap>,
    },
    /// Messages as they come, and the answer at the end. When it is dropped, so is the other end.
    Stream(mpsc::Receiver<Result<Bytes, Answer>>),
    Over,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match &mut *self {
            Self::Empty | Self::Over => None,
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Over;
                Some(Frame::data(bytes))
            }
            Self::Unary { message, .. } if !message.is_empty() => Some(Frame::data(std::mem::take(message))),
            Self::Unary { trailers, .. } => trailers.take().map(Frame::trailers),
            Self::Stream(messages) => match std::task::ready!(messages.poll_recv(context)) {
                Some(Ok(message)) => Some(Frame::data(message)),
                end => {
                    let answer = end.and_then(Result::err).unwrap_or_else(Answer::ok);
                    *self = Self::Over;
                    Some(Frame::trailers(trailers(&answer)))
                }
            },
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Over => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Unary { message, trailers } => message.is_empty() && trailers.is_none(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Over => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Unary { .. } | Self::Stream(_) => SizeHint::default(),
        }
    }
}

fn trailers(answer: &Answer) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    status::write_trailers(answer, &mut trailers);
    trailers
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A call of gRPC that went well, and its one message without the prefix.
pub fn message(content: &[u8]) -> Response<Reply> {
    let message = prefixed(content);
    let mut response = Response::new(Reply::Unary { message, trailers: Some(trailers(&Answer::ok())) });
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

/// A call of gRPC that did not: there is nothing but its status.
pub fn refused(answer: &Answer) -> Response<Reply> {
    let mut response = Response::new(Reply::Empty);
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    status::write_trailers(answer, response.headers_mut());
    response
}

pub fn stream(messages: mpsc::Receiver<Result<Bytes, Answer>>) -> Response<Reply> {
    let mut response = Response::new(Reply::Stream(messages));
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

/// With the prefix of gRPC: not compressed, and the length.
pub fn prefixed(content: &[u8]) -> Bytes {
    if content.is_empty() {
        return Bytes::from_static(&[0; 5]);
    }
    let mut message = Vec::with_capacity(5 + content.len());
    message.push(0);
    message.extend_from_slice(&(content.len() as u32).to_be_bytes());
    message.extend_from_slice(content);
    message.into()
}

/// A response of HTTP without content.
pub fn bare(code: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::Empty);
    *response.status_mut() = code;
    response
}

/// `kind` must be fit for a header, otherwise there is none.
pub fn content(code: StatusCode, kind: &str, content: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(content.into()));
    *response.status_mut() = code;
    if let Ok(kind) = HeaderValue::from_str(kind) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response
}
