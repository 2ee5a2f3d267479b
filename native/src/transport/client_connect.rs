//! Connections to one backend: TCP or a Unix socket, plain or in TLS. Never through a proxy: those of the environment
//! are meant for the web, and would be asked even for the loopback.

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, mem};

use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::client_tls::{server_name, Tls};
use super::gathered::Gathered;

/// For all addresses of a name together. A backend that is away in a way that drops packets shall not take the
/// whole time of a request, or the next one in order would get none of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// "host:port", with brackets around an IPv6 address.
    Tcp(String),
    Unix(PathBuf),
}

impl Endpoint {
    /// `text`: "host:port" or "unix:///path".
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') {
                return Err(format!("{text}: the path of a Unix socket must be absolute"));
            }
            return Ok(Self::Unix(path.into()));
        }
        let authority: http::uri::Authority = text.parse().map_err(|_| format!("{text} is no host:port"))?;
        if authority.port_u16().is_none() || authority.as_str().contains('@') {
            return Err(format!("{text} is no host:port"));
        }
        Ok(Self::Tcp(text.to_owned()))
    }

    fn host(&self) -> &str {
        match self {
            Self::Tcp(authority) => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
            Self::Unix(_) => "localhost",
        }
    }
}

/// Makes the connections; `made` counts them.
#[derive(Clone)]
pub struct Connector {
    endpoint: Endpoint,
    http: HttpConnector,
    tls: Option<Arc<Tls>>,
    http2_only: bool,
    made: Arc<AtomicU64>,
}

impl Connector {
    /// `dead_after`: a connection of which nothing was acknowledged for so long is given up.
    pub fn new(endpoint: Endpoint, tls: Option<Arc<Tls>>, http2_only: bool, dead_after: Duration) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_tcp_user_timeout(Some(dead_after));
        Self { endpoint, http, tls, http2_only, made: Arc::default() }
    }

    /// What requests are addressed to: the host of the endpoint, or the name that its certificate must have.
    pub fn authority(&self) -> String {
        match (self.tls.as_ref().and_then(|tls| tls.server_name()), &self.endpoint) {
            (Some(name), _) => name.to_owned(),
            (None, Endpoint::Tcp(authority)) => authority.clone(),
            (None, Endpoint::Unix(_)) => "localhost".to_owned(),
        }
    }

    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    async fn connect(mut self) -> Result<Stream, Box<dyn Error + Send + Sync>> {
        let io: Box<dyn Io> = match &self.endpoint {
            Endpoint::Tcp(authority) => {
                let uri = Uri::builder().scheme("http").authority(authority.as_str()).path_and_query("/");
                Box::new(self.http.call(uri.build()?).await?.into_inner())
            }
            Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        let (io, http2): (Box<dyn Io>, bool) = match &self.tls {
            None => (io, self.http2_only),
            Some(tls) => {
                let name = server_name(tls.server_name().unwrap_or(self.endpoint.host()))?;
                let io = TlsConnector::from(tls.config()).connect(name, io).await?;
                let http2 = self.http2_only || io.get_ref().1.alpn_protocol() == Some(b"h2");
                (Box::new(io), http2)
            }
        };
        self.made.fetch_add(1, Ordering::Relaxed);
        let io = if http2 { Box::new(Gathered::new(io)) } else { io };
        Ok(Stream { io: TokioIo::new(io), http2 })
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    /// The address is our own: what is asked for is only whom the request names.
    fn call(&mut self, _asked: Uri) -> Self::Future {
        let ready = self.clone();
        let connecting = mem::replace(self, ready).connect();
        // Names and TLS, too, so that another endpoint gets its turn.
        Box::pin(async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            connected.unwrap_or_else(|_| Err(format!("no connection within {CONNECT_TIMEOUT:?}").into()))
        })
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub struct Stream {
    io: TokioIo<Box<dyn Io>>,
    http2: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.http2 {
            connected.negotiated_h2()
        } else {
            connected
        }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_host_and_port_or_a_path() {
        for text in ["localhost:1", "127.0.0.1:4317", "[::1]:4317"] {
            assert_eq!(Endpoint::parse(text), Ok(Endpoint::Tcp(text.into())));
        }
        assert_eq!(Endpoint::parse("unix:///run/x.sock"), Ok(Endpoint::Unix("/run/x.sock".into())));
        for text in ["", "localhost", "::1", "user@host:1", "unix://x", "http://x:1", "a b:1", "host:99999"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_name_of_a_certificate_is_looked_for_without_brackets() {
        let endpoint = Endpoint::parse("[::1]:4317").unwrap();
        assert_eq!(server_name(endpoint.host()).unwrap().to_str(), "::1");
    }
}
