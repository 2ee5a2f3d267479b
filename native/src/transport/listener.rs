//! Where connections come from, and what they are for.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_rustls::rustls::ServerConfig;

use super::auth::Tokens;
use super::connection::{self, Peer};
use super::cors::Cors;
use super::files::FromFiles;
use super::server::{Event, Shared};
use super::stream::Socket;

/// Where the system has no room for a connection, it is asked again after this.
const PAUSE: Duration = Duration::from_millis(100);

/// Method and path; status, content type and content. None: it failed.
pub type Pages = dyn Fn(&str, &str) -> Option<(u16, String, Bytes)> + Send + Sync;
/// Path and message; code, what is wrong, and the answer. None: it failed.
pub type Control = dyn Fn(&str, &[u8]) -> Option<(u32, String, Bytes)> + Send + Sync;

pub struct Traces {
    pub path: String,
    pub cors: Cors,
}

pub enum Kind {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP.
    Http(Traces),
    Pages(Arc<Pages>),
    /// Unary calls of gRPC.
    Control(Arc<Control>),
}

/// What connections of a listener get.
pub struct Service {
    pub kind: Kind,
    pub max_message_bytes: usize,
    pub max_connections: usize,
    pub tls: Option<Arc<FromFiles<ServerConfig>>>,
    pub tokens: Tokens,
}

impl Service {
    pub fn is_grpc(&self) -> bool {
        matches!(self.kind, Kind::Grpc | Kind::Control(_))
    }
}

pub enum Inherited {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

impl Inherited {
    /// A socket that listens already.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let as_tcp = StdTcpListener::from(fd);
        if as_tcp.local_addr().is_ok() {
            as_tcp.set_nonblocking(true)?;
            return Ok(Self::Tcp(as_tcp));
        }
        let as_unix = StdUnixListener::from(OwnedFd::from(as_tcp));
        as_unix.local_addr()?;
        as_unix.set_nonblocking(true)?;
        Ok(Self::Unix(as_unix))
    }

    pub fn open(self) -> io::Result<Listener> {
        Ok(match self {
            Self::Tcp(bound) => Listener::Tcp(TcpListener::from_std(bound)?),
            Self::Unix(bound) => Listener::Unix(UnixListener::from_std(bound)?),
        })
    }
}

pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// A connection, and the name of its other end.
    async fn accept(&self) -> io::Result<(Socket, Arc<str>)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, from) = listener.accept().await?;
                // Answers are written whole; there is nothing to wait for.
                socket.set_nodelay(true)?;
                Ok((Socket::Tcp(socket), name_of(from)))
            }
            Self::Unix(listener) => {
                let (socket, _) = listener.accept().await?;
                let pid = socket.peer_cred().ok().and_then(|who| who.pid());
                let name = pid.map_or_else(|| "unix:".into(), |pid| format!("unix:pid={pid}").into());
                Ok((Socket::Unix(socket), name))
            }
        }
    }
}

fn name_of(from: SocketAddr) -> Arc<str> {
    match from {
        SocketAddr::V4(from) => format!("ipv4:{from}"),
        // Without scope and flow, which is how the kernel's tables of sockets have it.
        SocketAddr::V6(from) => match from.ip().to_ipv4_mapped() {
            Some(ip) => format!("ipv4:{ip}:{}", from.port()),
            None => format!("ipv6:[{}]:{}", from.ip(), from.port()),
        },
    }
    .into()
}

/// Until the server ends; then nothing listens any more. `alive` is held by each connection.
pub async fn run(
    listener: Listener,
    service: Arc<Service>,
    shared: Arc<Shared>,
    mut ending: watch::Receiver<Option<Instant>>,
    alive: mpsc::Sender<()>,
) {
    let count = Arc::new(AtomicUsize::new(0));
    let mut has_told = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = ending.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, name)) => {
                has_told = false;
                let Some(place) = Place::take(&count, service.max_connections, &shared) else { continue };
                let peer = Peer { name, shared: shared.clone(), ending: ending.clone() };
                let (service, alive) = (service.clone(), alive.clone());
                tokio::spawn(async move {
                    connection::serve(socket, peer, service).await;
                    drop((place, alive));
                });
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                shared.counters.accept_failures.add(1);
                if !std::mem::replace(&mut has_told, true) {
                    shared.tell(Event::CannotAccept, error.to_string());
                }
                tokio::select! {
                    _ = ending.changed() => return,
                    () = sleep(PAUSE) => {}
                }
            }
        }
    }
}

/// It was gone before it was accepted (accept(2), Error handling).
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected)
        || matches!(
            error.raw_os_error(),
            Some(libc::EPROTO | libc::ENETDOWN | libc::ENOPROTOOPT | libc::EHOSTDOWN | libc::EHOSTUNREACH)
        )
}

/// One of the connections that a listener may have.
struct Place(Arc<AtomicUsize>, Arc<Shared>);

impl Place {
    fn take(count: &Arc<AtomicUsize>, most: usize, shared: &Arc<Shared>) -> Option<Self> {
        if count.load(Ordering::Relaxed) >= most {
            shared.counters.connections_refused.add(1);
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        shared.counters.connections.add(1);
        shared.counters.connections_accepted.add(1);
        Some(Self(count.clone(), shared.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.counters.connections.remove(1);
    }
}
