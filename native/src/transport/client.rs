//! A client of one backend, for both protocols of OTLP. What differs is in `client_grpc` and `client_http`: how a
//! request looks, and what an answer means. Connections are those of hyper-util's client: kept, made anew when they
//! break, shared by the requests under way over HTTP/2.

use std::error::Error;
use std::iter::successors;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{oneshot, watch};

use super::answer::{Answer, CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE};
use super::client_connect::{Connector, Endpoint};
use super::client_tls::{Settings as TlsSettings, Tls};
use super::segments::Segments;
use super::{client_grpc, client_http, sending};
use crate::compression::{compress, Encoding};

pub type Requests = legacy::Client<Connector, Full<Segments>>;

/// Of an answer as much is kept, to be read. A success has a few bytes.
const KEPT_BYTES: usize = 64 << 10;
/// And so much is taken off the wire: who answers more has answered.
const MOST_BYTES: usize = 4 << 20;
const MAX_HEADER_BYTES: u32 = 16 << 10;
const MAX_HEADERS: usize = 100;
/// For connections without requests: before servers and what is between commonly close them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// What a backend may send before we have read it, on each connection: answers are small.
const WINDOW_BYTES: u32 = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    HttpProtobuf,
    HttpJson,
}

pub struct Settings {
    pub protocol: Protocol,
    pub endpoint: Endpoint,
    /// Of requests that name none.
    pub path: String,
    pub headers: HeaderMap,
    pub encoding: Option<Encoding>,
    /// None: plain.
    pub tls: Option<TlsSettings>,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
}

pub struct Client {
    protocol: Protocol,
    path: String,
    headers: HeaderMap,
    encoding: Option<Encoding>,
    tls: Option<Arc<Tls>>,
    connector: Connector,
    /// None once it is closed.
    requests: Mutex<Option<Requests>>,
    closing: watch::Sender<bool>,
}

/// What a request is made of.
pub struct Outgoing<'a> {
    pub uri: http::Uri,
    pub headers: &'a HeaderMap,
    pub encoding: Option<Encoding>,
    pub timeout: Duration,
    pub pieces: Vec<Bytes>,
}

impl Client {
    /// The error says what of the settings cannot be used.
    pub fn new(settings: Settings) -> Result<Self, String> {
        let Settings { protocol, path, headers, encoding, .. } = settings;
        let protocols: &[&[u8]] = if protocol == Protocol::Grpc { &[b"h2"] } else { &[b"h2", b"http/1.1"] };
        let tls = settings.tls.map(|tls| Tls::new(tls, protocols)).transpose().map_err(|error| error.0)?;
        let tls = tls.map(Arc::new);
        let connector = Connector::new(
            settings.endpoint,
            tls.clone(),
            protocol == Protocol::Grpc,
            settings.keepalive_timeout,
        );
        uri(tls.is_some(), &connector.authority(), &path)?;
        let requests = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_headers(MAX_HEADERS)
            .http1_max_buf_size(KEPT_BYTES)
            .http2_only(protocol == Protocol::Grpc)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_initial_stream_window_size(WINDOW_BYTES)
            .http2_initial_connection_window_size(WINDOW_BYTES)
            .http2_keep_alive_interval(settings.keepalive_time)
            .http2_keep_alive_timeout(settings.keepalive_timeout)
            .build(connector.clone());
        Ok(Self {
            protocol,
            path,
            headers,
            encoding,
            tls,
            connector,
            requests: Mutex::new(Some(requests)),
            closing: watch::Sender::new(false),
        })
    }

    /// Sends the pieces as one request, to `path` or the usual one, and waits for the answer; no longer than
    /// `timeout` for all of it. Any thread may, many at once.
    pub fn send(&self, pieces: Vec<Bytes>, path: Option<&str>, timeout: Duration) -> Answer {
        let until = Instant::now() + timeout;
        let Some(requests) = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            return shutting_down();
        };
        let uri = match uri(self.tls.is_some(), &self.connector.authority(), path.unwrap_or(&self.path)) {
            Ok(uri) => uri,
            Err(reason) => return Answer::failure(super::answer::INTERNAL, reason),
        };
        let outgoing = Outgoing { uri, headers: &self.headers, encoding: self.encoding, timeout, pieces };
        let request = match self.protocol {
            Protocol::Grpc => Ok(client_grpc::request(outgoing)),
            Protocol::HttpProtobuf => Ok(client_http::request(outgoing)),
            Protocol::HttpJson => client_http::json_request(outgoing),
        };
        let request = match request {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        let runtime = match sending::runtime() {
            Ok(runtime) => runtime,
            Err(error) => return Answer::failure(UNAVAILABLE, format!("no thread to send on: {error}")),
        };
        let (done, answer) = oneshot::channel();
        let grpc = self.protocol == Protocol::Grpc;
        let mut closing = self.closing.subscribe();
        runtime.spawn(async move {
            let answer = tokio::select! {
                answer = exchange(grpc, requests, request) => answer,
                () = tokio::time::sleep_until(until.into()) => Answer::failure(
                    DEADLINE_EXCEEDED,
                    format!("no answer within {} s", timeout.as_secs_f64()),
                ),
                _ = closing.wait_for(|closing| *closing) => shutting_down(),
            };
            let _ = done.send(answer); // whoever asked waits for it
        });
        answer.blocking_recv().unwrap_or_else(|_| shutting_down())
    }

    /// Ends what is under way, and every connection.
    pub fn close(&self) {
        self.closing.send_replace(true);
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.connector.made()
    }

    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }
}

async fn exchange(grpc: bool, requests: Requests, request: Request<Full<Segments>>) -> Answer {
    match requests.request(request).await {
        Ok(response) if grpc => client_grpc::answer(response).await,
        Ok(response) => client_http::answer(response).await,
        Err(error) => Answer::failure(UNAVAILABLE, told(&error)),
    }
}

fn shutting_down() -> Answer {
    Answer::failure(CANCELLED, "shutting down")
}

fn uri(tls: bool, authority: &str, path: &str) -> Result<http::Uri, String> {
    let scheme = if tls { "https" } else { "http" };
    let uri = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    uri.map_err(|error| format!("{authority}{path}: {error}"))
}

/// The body of a request, packed where that is asked for.
pub fn packed(encoding: Option<Encoding>, pieces: Vec<Bytes>) -> Vec<Bytes> {
    match encoding {
        Some(encoding) => vec![compress(encoding, &pieces)],
        None => pieces,
    }
}

/// Name and value of each header, as they go with every request.
pub fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::with_capacity(pairs.len());
    for (name, value) in pairs {
        let header: HeaderName =
            name.to_lowercase().parse().map_err(|_| format!("{name:?} is no name of a header"))?;
        // Its value may be a secret, and is not told.
        let mut value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| format!("the header {name} has no valid value"))?;
        value.set_sensitive(true);
        map.append(header, value);
    }
    Ok(map)
}

/// An error and what caused it, in one line: by itself hyper says no more than "client error (Connect)".
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in successors(Some(error), |&error| error.source()) {
        let text = cause.to_string();
        if !told.iter().any(|before| before.contains(&text)) {
            told.push(text);
        }
    }
    told.join(": ")
}

/// The body of an answer, as much as is of use.
pub struct Content {
    pub kept: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// There was more than can be taken.
    pub huge: bool,
}

pub async fn content(mut body: Incoming) -> Result<Content, hyper::Error> {
    let mut content = Content { kept: Vec::new(), trailers: None, huge: false };
    let mut taken = 0;
    while let Some(frame) = body.frame().await {
        let frame = match frame?.into_data() {
            Ok(mut data) => {
                taken += data.remaining();
                let room = KEPT_BYTES - content.kept.len();
                content.kept.extend_from_slice(&data.split_to(room.min(data.len())));
                if taken > MOST_BYTES {
                    content.huge = true;
                    return Ok(content);
                }
                continue;
            }
            Err(frame) => frame,
        };
        content.trailers = frame.into_trailers().ok();
    }
    Ok(content)
}
