//! OTLP/JSON, both ways: an ExportTraceServiceRequest as the JSON that SDKs send and the collector writes.
//! Rules: proto3 JSON (https://protobuf.dev/programming-guides/json/), with what OTLP changes in it
//! (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding): trace and span ids are in hex, enums
//! are numbers, unknown fields are ignored.

use std::fmt;

mod from_protobuf;
mod to_protobuf;

pub use from_protobuf::from_protobuf;
pub use to_protobuf::to_protobuf;

/// A JSON text that is no request, and where. Says nothing of its content, as that is other people's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// It may well be a request, but the result would be longer than allowed.
    pub too_large: bool,
    /// Of at most `MAX_PATH` bytes, such as `resourceSpans[0].scopeSpans[2].spans[7].kind`; empty for the
    /// whole.
    pub path: String,
    /// How many bytes had been read.
    pub at: usize,
    pub problem: String,
}

/// What is longer loses its middle.
const MAX_PATH: usize = 200;

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, at, problem, .. } = self;
        match path.as_str() {
            "" => write!(f, "{problem} at byte {at}"),
            path => write!(f, "{path}: {problem} at byte {at}"),
        }
    }
}

impl std::error::Error for JsonError {}

#[cfg(test)]
mod tests;
