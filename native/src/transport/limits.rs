//! What the server takes, so that no peer can make it grow without end.

use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls at once on one connection of HTTP/2. An SDK has one under way, a collector ten.
    pub max_streams: u32,
    /// Of the head of a request, as HTTP/2 counts it.
    pub max_header_bytes: u32,
    /// What a peer may send before it hears of us, for a call and for its connection. With a window of 1 MiB
    /// a line of 50 ms carries 20 MB/s.
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    /// Of messages that are still coming, over all connections.
    pub max_bytes_under_way: usize,
    /// How long a message may take from its head on.
    pub message_timeout: Duration,
    /// How long a connection may take until it says what it is: TLS, and the first bytes of HTTP.
    pub handshake_timeout: Duration,
    /// A dead peer is noticed after both. HTTP/2 only.
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    pub max_connection_age: Duration,
    /// For what is under way when a connection is too old, or idle.
    pub connection_grace: Duration,
    /// Without any call.
    pub max_connection_idle: Duration,
    /// Calls of the health service's Watch.
    pub max_watchers: usize,
    /// What was said of a service's health holds for so long: a program that hangs does not say it again.
    pub health_holds: Duration,
    /// Calls of Python that wait for their turn, and how long each may take.
    pub max_callbacks: usize,
    pub callback_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_streams: 64,
            max_header_bytes: 16 << 10,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 1 << 20,
            max_bytes_under_way: 64 << 20,
            message_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            keepalive_time: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
            max_connection_age: Duration::from_secs(3600),
            connection_grace: Duration::from_secs(60),
            max_connection_idle: Duration::from_secs(900),
            max_watchers: 64,
            health_holds: Duration::from_secs(5),
            max_callbacks: 16,
            callback_timeout: Duration::from_secs(5),
        }
    }
}
