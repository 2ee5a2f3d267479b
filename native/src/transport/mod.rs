//! OTLP over the network, on threads of its own that never run Python: in and out.
//!
//! In: server → listener → connection → grpc, http or pages → admission; gRPC and HTTP, health, pages and control
//! share one thread. What Python answers comes through `callbacks`. Out: client → client_grpc or client_http, on
//! the thread of `sending`.
pub mod admission;
pub mod answer;
pub mod auth;
pub mod authority;
pub mod callbacks;
pub mod client;
pub mod client_connect;
pub mod client_grpc;
pub mod client_http;
pub mod client_tls;
pub mod connection;
pub mod cors;
pub mod counters;
pub mod files;
pub mod gathered;
pub mod grpc;
pub mod health;
pub mod http;
pub mod limits;
pub mod listener;
pub mod message;
pub mod pages;
pub mod reply;
pub mod segments;
pub mod sending;
pub mod server;
pub mod status;
pub mod stream;
pub mod tls;
pub mod under_way;
