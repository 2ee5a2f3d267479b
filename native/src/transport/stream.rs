//! The two ends of a connection's bytes, plain or in TLS, over TCP or a Unix socket; counts what comes.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::authority::PlainAuthority;
use super::server::Shared;

pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Of many connections, what comes is read in turns of this much, so that what becomes of it is seen to before
/// more is read: of thousands that all have something to say, each holds no more than that. With 2,000 that send
/// 900 KB each at once this is 260 MiB in place of 400. Few may hold a window each, as a turn's end costs: a
/// quarter of the CPU time of a request of 280 KiB.
const TURN_BYTES: usize = 32 << 10;
const MANY_CONNECTIONS: u64 = 128;

pub struct Stream {
    layers: Layers,
    shared: Arc<Shared>,
    read: Arc<AtomicU64>,
    /// Read in this turn.
    turn: usize,
}

pub enum Layers {
    Plain(Socket),
    PlainAuthority(PlainAuthority<Socket>),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// `read` counts the bytes that come.
    pub fn new(layers: Layers, shared: Arc<Shared>, read: Arc<AtomicU64>) -> Self {
        Self { layers, shared, read, turn: 0 }
    }
}

macro_rules! either {
    ($self:expr, $($name:ident)::+, $inner:ident => $call:expr) => {
        match $self.get_mut() {
            $($name)::+::Tcp($inner) => $call,
            $($name)::+::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, Self, inner => Pin::new(inner).poll_read(context, into))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, Self, inner => Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, Self, inner => Pin::new(inner).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, Self, inner => Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, Self, inner => Pin::new(inner).poll_shutdown(context))
    }
}

macro_rules! each {
    ($self:expr, $inner:ident => $call:expr) => {
        match &mut $self.get_mut().layers {
            Layers::Plain($inner) => $call,
            Layers::PlainAuthority($inner) => $call,
            Layers::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn >= TURN_BYTES && self.shared.counters.connections.now() > MANY_CONNECTIONS {
            self.turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let read = each!(self.as_mut(), inner => Pin::new(inner).poll_read(context, into));
        let count = into.filled().len() - before;
        self.turn = if read.is_pending() { 0 } else { self.turn + count };
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, inner => Pin::new(inner).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => Pin::new(inner).poll_shutdown(context))
    }
}
