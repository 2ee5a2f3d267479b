//! Server and ServerTls: the receiving side for Python.

use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict};

use crate::python::queue::Queue;
use crate::transport::auth::Tokens;
use crate::transport::cors::Cors;
use crate::transport::limits::Limits;
use crate::transport::listener::{Inherited, Kind, Service, Traces};
use crate::transport::server::{Event, Server as CoreServer};
use crate::transport::tls;

#[pyclass(frozen, module = "enricher._native")]
pub struct ServerTls(tls::TlsFiles);

#[pymethods]
impl ServerTls {
    #[new]
    #[pyo3(signature = (cert_file, key_file, *, client_ca_file=None, reload_interval_ns=10_000_000_000))]
    fn new(
        cert_file: PathBuf,
        key_file: PathBuf,
        client_ca_file: Option<PathBuf>,
        reload_interval_ns: u64,
    ) -> Self {
        Self(tls::TlsFiles {
            certificates: cert_file,
            key: key_file,
            client_authorities: client_ca_file,
            reload_interval: Duration::from_nanos(reload_interval_ns),
        })
    }
}

#[pyclass(frozen, module = "enricher._native")]
pub struct Server(CoreServer);

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (
        queue, told, *, max_streams=None, max_header_bytes=None, max_bytes_under_way=None,
        message_timeout_ns=None, handshake_timeout_ns=None, keepalive_time_ns=None,
        keepalive_timeout_ns=None, max_connection_age_ns=None, connection_grace_ns=None,
        max_connection_idle_ns=None, max_watchers=None, health_holds_ns=None, callback_timeout_ns=None,
    ))]
    #[allow(clippy::too_many_arguments)] // by keyword
    fn new(
        queue: Option<&Queue>,
        told: Py<PyAny>,
        max_streams: Option<u32>,
        max_header_bytes: Option<u32>,
        max_bytes_under_way: Option<usize>,
        message_timeout_ns: Option<u64>,
        handshake_timeout_ns: Option<u64>,
        keepalive_time_ns: Option<u64>,
        keepalive_timeout_ns: Option<u64>,
        max_connection_age_ns: Option<u64>,
        connection_grace_ns: Option<u64>,
        max_connection_idle_ns: Option<u64>,
        max_watchers: Option<usize>,
        health_holds_ns: Option<u64>,
        callback_timeout_ns: Option<u64>,
    ) -> Self {
        let usual = Limits::default();
        let time = |given: Option<u64>, usual: Duration| given.map_or(usual, Duration::from_nanos);
        let limits = Limits {
            max_streams: max_streams.unwrap_or(usual.max_streams),
            max_header_bytes: max_header_bytes.unwrap_or(usual.max_header_bytes),
            max_bytes_under_way: max_bytes_under_way.unwrap_or(usual.max_bytes_under_way),
            message_timeout: time(message_timeout_ns, usual.message_timeout),
            handshake_timeout: time(handshake_timeout_ns, usual.handshake_timeout),
            keepalive_time: time(keepalive_time_ns, usual.keepalive_time),
            keepalive_timeout: time(keepalive_timeout_ns, usual.keepalive_timeout),
            max_connection_age: time(max_connection_age_ns, usual.max_connection_age),
            connection_grace: time(connection_grace_ns, usual.connection_grace),
            max_connection_idle: time(max_connection_idle_ns, usual.max_connection_idle),
            max_watchers: max_watchers.unwrap_or(usual.max_watchers),
            health_holds: time(health_holds_ns, usual.health_holds),
            callback_timeout: time(callback_timeout_ns, usual.callback_timeout),
            ..usual
        };
        let told = Arc::new(move |event: Event, what: String| {
            let event = match event {
                Event::CannotAccept => "cannot_accept",
                Event::Reloaded => "reloaded",
                Event::CannotReload => "cannot_reload",
            };
            Python::attach(|py| told_of_errors(py, told.call1(py, (event, what))));
        });
        Self(CoreServer::new(queue.map(|queue| queue.0.clone()), limits, told))
    }

    #[pyo3(signature = (
        fd, kind, *, max_message_bytes=4 << 20, max_connections=4096, tls=None, bearer_tokens=Vec::new(),
        bearer_token_file=None, reload_interval_ns=10_000_000_000, traces_path="/v1/traces",
        cors_origins=Vec::new(), cors_headers=Vec::new(), answer=None,
    ))]
    #[allow(clippy::too_many_arguments)] // by keyword
    fn listen(
        &self,
        fd: i32,
        kind: &str,
        max_message_bytes: usize,
        max_connections: usize,
        tls: Option<&ServerTls>,
        bearer_tokens: Vec<PyBackedBytes>,
        bearer_token_file: Option<PathBuf>,
        reload_interval_ns: u64,
        traces_path: &str,
        cors_origins: Vec<String>,
        cors_headers: Vec<String>,
        answer: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let cors = Cors { origins: cors_origins, headers: cors_headers };
        let kind = match (kind, answer) {
            ("grpc", None) => Kind::Grpc,
            ("http", None) => Kind::Http(Traces { path: traces_path.into(), cors }),
            ("pages", Some(answer)) => Kind::Pages(Arc::new(move |method, path| {
                let made = Python::attach(|py| {
                    told_of_errors(py, answer.call1(py, (method, path)).and_then(|made| made.extract(py)))
                });
                made.map(|(code, kind, content): (u16, String, PyBackedBytes)| {
                    (code, kind, Bytes::copy_from_slice(&content))
                })
            })),
            ("control", Some(answer)) => Kind::Control(Arc::new(move |path, message| {
                let made = Python::attach(|py| {
                    let message = PyBytes::new(py, message);
                    told_of_errors(py, answer.call1(py, (path, message)).and_then(|made| made.extract(py)))
                });
                made.map(|(code, message, answer): (u32, String, PyBackedBytes)| {
                    (code, message, Bytes::copy_from_slice(&answer))
                })
            })),
            _ => {
                let message = "kind is grpc or http, or pages or control with an answer";
                return Err(PyValueError::new_err(message));
            }
        };
        let allow_http1 = matches!(kind, Kind::Http(_) | Kind::Pages(_));
        let tls = tls.map(|files| tls::open(files.0.clone(), allow_http1)).transpose();
        let tokens = bearer_tokens.iter().map(|token| token.to_vec()).collect();
        let interval = Duration::from_nanos(reload_interval_ns);
        let service = Service {
            kind,
            max_message_bytes,
            max_connections,
            tls: tls.map_err(PyValueError::new_err)?.map(Arc::new),
            tokens: Tokens::new(tokens, bearer_token_file, interval).map_err(PyValueError::new_err)?,
        };
        // SAFETY: dup gives a descriptor of its own, or -1, which is looked for.
        let own = unsafe {
            let own = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0);
            if own < 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            OwnedFd::from_raw_fd(own)
        };
        let socket = Inherited::from_fd(own)?;
        self.0.listen(socket, service).map_err(|_| PyRuntimeError::new_err("the server was started before"))
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.0.start())?)
    }

    fn stop(&self, py: Python<'_>, grace_s: f64) -> PyResult<()> {
        let grace = Duration::try_from_secs_f64(grace_s)
            .map_err(|_| PyValueError::new_err(format!("{grace_s} s is no time to wait")))?;
        py.detach(|| self.0.stop(grace));
        Ok(())
    }

    fn health(&self, service: &str, serving: bool) -> PyResult<()> {
        if self.0.shared.health.say(service, serving) {
            return Ok(());
        }
        Err(PyValueError::new_err("there are too many services"))
    }

    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let statistics = PyDict::new(py);
        for (name, value) in self.0.shared.counters.all() {
            statistics.set_item(name, value)?;
        }
        statistics.set_item("bytes_under_way", self.0.shared.under_way.bytes())?;
        Ok(statistics)
    }
}

/// What was raised goes to sys.unraisablehook, as of any thread that nobody waits for.
fn told_of_errors<T>(py: Python<'_>, result: PyResult<T>) -> Option<T> {
    result.map_err(|error| error.write_unraisable(py, None)).ok()
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Server>()?;
    module.add_class::<ServerTls>()
}
