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

pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub enum Stream {
    Plain(Socket, Arc<AtomicU64>),
    PlainAuthority(PlainAuthority<Socket>, Arc<AtomicU64>),
    Tls(Box<TlsStream<Socket>>, Arc<AtomicU64>),
}

impl Stream {
    fn counted(&self) -> &AtomicU64 {
        let (Self::Plain(_, counted) | Self::PlainAuthority(_, counted) | Self::Tls(_, counted)) = self;
        counted
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

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = match &mut *self {
            Self::Plain(inner, _) => Pin::new(inner).poll_read(context, into),
            Self::PlainAuthority(inner, _) => Pin::new(inner).poll_read(context, into),
            Self::Tls(inner, _) => Pin::new(inner).poll_read(context, into),
        };
        self.counted().fetch_add((into.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(inner, _) => Pin::new(inner).poll_write(context, bytes),
            Self::PlainAuthority(inner, _) => Pin::new(inner).poll_write(context, bytes),
            Self::Tls(inner, _) => Pin::new(inner).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(inner, _) => Pin::new(inner).poll_write_vectored(context, slices),
            Self::PlainAuthority(inner, _) => Pin::new(inner).poll_write_vectored(context, slices),
            Self::Tls(inner, _) => Pin::new(inner).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(inner, _) => Pin::new(inner).poll_flush(context),
            Self::PlainAuthority(inner, _) => Pin::new(inner).poll_flush(context),
            Self::Tls(inner, _) => Pin::new(inner).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(inner, _) => Pin::new(inner).poll_shutdown(context),
            Self::PlainAuthority(inner, _) => Pin::new(inner).poll_shutdown(context),
            Self::Tls(inner, _) => Pin::new(inner).poll_shutdown(context),
        }
    }
}
