//! OTLP over the network: bytes in, bytes out, on threads of its own that never run Python.
pub mod answer;
pub mod client;
pub mod client_connect;
pub mod client_grpc;
pub mod client_http;
pub mod client_tls;
pub mod segments;
pub mod sending;
