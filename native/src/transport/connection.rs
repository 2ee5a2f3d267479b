//! One connection: what it says it is, its calls, and its end by age, by idleness or with the server.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::authority::PlainAuthority;
use super::listener::{Kind, Service};
use super::reply::Reply;
use super::server::Shared;
use super::stream::{Socket, Stream};
use super::{grpc, http as otlp_http, pages, tls};

/// What HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE_BYTES: u64 = 24;
/// Resets by the peer that may wait to be told to it (CVE-2023-44487), and those that its faults made.
const MAX_PENDING_RESETS: usize = 20;
const MAX_FAULTY_RESETS: usize = 128;
/// Answers are small; a page is written as it is taken.
const MAX_SEND_BYTES: usize = 64 << 10;
/// How long a connection of HTTP/1 may take until the next head is there.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Whoever is at the other end.
#[derive(Clone)]
pub struct Peer {
    /// As gRPC writes it: "ipv4:127.0.0.1:5555", "ipv6:[::1]:5555", "unix:pid=123".
    pub name: Arc<str>,
    pub shared: Arc<Shared>,
    /// When what is under way will be cut, once the server ends.
    pub ending: watch::Receiver<Option<Instant>>,
}

/// The calls of a connection that are under way.
struct Calls {
    began: Instant,
    now: AtomicU32,
    /// When the last one ended, in ms from `began` on.
    last_ms: AtomicU64,
}

/// One of them, until it is dropped.
pub struct Call(Arc<Calls>);

impl Call {
    fn begin(calls: &Arc<Calls>) -> Self {
        calls.now.fetch_add(1, Ordering::Relaxed);
        Self(calls.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.last_ms.store(self.0.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Until it ends.
pub async fn serve(socket: Socket, peer: Peer, service: Arc<Service>) {
    let read = Arc::new(AtomicU64::new(0));
    let (stream, is_http2) = match &service.tls {
        None if service.is_grpc() && matches!(socket, Socket::Unix(_)) => {
            (Stream::PlainAuthority(PlainAuthority::new(socket), read.clone()), true)
        }
        None => (Stream::Plain(socket, read.clone()), service.is_grpc()),
        Some(files) => {
            let acceptor = TlsAcceptor::from(files.current());
            match timeout(peer.shared.limits.handshake_timeout, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => {
                    let is_http2 =
                        service.is_grpc() || stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2);
                    (Stream::Tls(Box::new(stream), read.clone()), is_http2)
                }
                Ok(Err(_)) | Err(_) => {
                    peer.shared.counters.tls_failures.add(1);
                    return;
                }
            }
        }
    };
    let began = Instant::now();
    let calls = Arc::new(Calls { began, now: AtomicU32::new(0), last_ms: AtomicU64::new(0) });
    let limits = &peer.shared.clone().limits;
    let (shared, ending) = (peer.shared.clone(), peer.ending.clone());
    let answering = {
        let calls = calls.clone();
        service_fn(move |request: Request<Incoming>| {
            let (peer, service, call) = (peer.clone(), service.clone(), Call::begin(&calls));
            async move { Ok::<_, Infallible>(answer(request, &service, &peer, call).await) }
        })
    };
    let io = TokioIo::new(stream);
    let watched =
        Watched { calls, read, least_bytes: if is_http2 { PREFACE_BYTES } else { 1 }, shared, ending };
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(limits.max_header_bytes)
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .keep_alive_interval(limits.keepalive_time)
            .keep_alive_timeout(limits.keepalive_timeout)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_FAULTY_RESETS)
            .max_send_buf_size(MAX_SEND_BYTES);
        watched.drive(builder.serve_connection(io, answering), |it| it.graceful_shutdown()).await;
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_header_size(limits.max_header_bytes as usize)
            .max_buf_size((limits.max_header_bytes as usize).max(64 << 10));
        watched.drive(builder.serve_connection(io, answering), |it| it.graceful_shutdown()).await;
    }
}

async fn answer(request: Request<Incoming>, service: &Service, peer: &Peer, call: Call) -> Response<Reply> {
    match &service.kind {
        Kind::Grpc | Kind::Control(_) => grpc::answer(request, service, peer, call).await,
        Kind::Http(traces) => otlp_http::answer(request, service, traces, peer).await,
        Kind::Pages(pages) => pages::answer(request, service, pages, peer).await,
    }
}

/// What decides on the end of a connection.
struct Watched {
    calls: Arc<Calls>,
    read: Arc<AtomicU64>,
    /// That must have come when the time for the handshake is over.
    least_bytes: u64,
    shared: Arc<Shared>,
    ending: watch::Receiver<Option<Instant>>,
}

impl Watched {
    /// `close` has it end when its calls have.
    async fn drive<C: Future<Output = hyper::Result<()>>>(mut self, connection: C, close: fn(Pin<&mut C>)) {
        let mut connection = pin!(connection);
        let limits = &self.shared.limits;
        // Not all at once, after a start at which all have come at once.
        let age = limits.max_connection_age.mul_f64(0.9 + 0.2 * spread(self.calls.began));
        let mut look_at = self.calls.began + limits.handshake_timeout.min(age);
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => {
                    self.ended(result);
                    return;
                }
                // An error: the server is gone altogether.
                _ = self.ending.changed() => break,
                () = sleep_until(look_at.into()) => {}
            }
            if self.read.load(Ordering::Relaxed) < self.least_bytes {
                self.shared.counters.connections_failed.add(1);
                return;
            }
            let lasted = self.calls.began.elapsed();
            let idle = self.idle(lasted);
            if lasted >= age || idle >= limits.max_connection_idle {
                break;
            }
            look_at = Instant::now() + (age - lasted).min(limits.max_connection_idle - idle);
        }
        close(connection.as_mut());
        // With the server's end, the server sees to it that this ends.
        if let Ok(result) = timeout(limits.connection_grace, connection).await {
            self.ended(result);
        }
    }

    fn ended(&self, result: hyper::Result<()>) {
        if result.is_err() && self.calls.last_ms.load(Ordering::Relaxed) == 0 {
            self.shared.counters.connections_failed.add(1);
        }
    }

    fn idle(&self, lasted: Duration) -> Duration {
        if self.calls.now.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        lasted.saturating_sub(Duration::from_millis(self.calls.last_ms.load(Ordering::Relaxed)))
    }
}

/// Between 0 and 1, by the low digits of a clock: it need not be hard to guess.
fn spread(at: Instant) -> f64 {
    let digits =
        format!("{at:?}").bytes().fold(0u32, |all, byte| all.wrapping_mul(31).wrapping_add(byte.into()));
    f64::from(digits % 1000) / 1000.0
}
