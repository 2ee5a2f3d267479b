//! Client, ClientTls and request_halves: what delivery needs.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use pyo3::create_exception;
use pyo3::exceptions::{PyLookupError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::compression::Encoding;
use crate::protobuf::Malformed;
use crate::python::queue::Entry;
use crate::python::request::shared;
use crate::python::request::MalformedRequest;
use crate::transport::client::{self, Protocol, Settings};
use crate::transport::client_connect::Endpoint;
use crate::transport::client_tls::{Files, Settings as TlsSettings};
use crate::transport::{client_grpc, client_http};
use crate::{halves, wire};

create_exception!(enricher._native, UnusableClient, PyValueError);

#[pyclass(frozen, module = "enricher._native")]
pub struct ClientTls(TlsSettings);

#[pymethods]
impl ClientTls {
    #[new]
    #[pyo3(signature = (*, ca_file=None, cert_file=None, key_file=None, server_name=None, skip_verify=false, reload_interval_ns))]
    fn new(
        ca_file: Option<PathBuf>,
        cert_file: Option<PathBuf>,
        key_file: Option<PathBuf>,
        server_name: Option<String>,
        skip_verify: bool,
        reload_interval_ns: u64,
    ) -> Self {
        let files = Files { ca: ca_file, certificate: cert_file, key: key_file };
        let reload_interval = Duration::from_nanos(reload_interval_ns);
        Self(TlsSettings { files, server_name, skip_verify, reload_interval })
    }
}

#[pyclass(frozen, module = "enricher._native")]
pub struct Client(client::Client);

#[pymethods]
impl Client {
    #[staticmethod]
    #[pyo3(signature = (endpoint, *, path=client_grpc::EXPORT_TRACES, tls=None, headers=Vec::new(), compression=None, keepalive_time_ns, keepalive_timeout_ns))]
    fn grpc(
        endpoint: &str,
        path: &str,
        tls: Option<&ClientTls>,
        headers: Vec<(String, String)>,
        compression: Option<&str>,
        keepalive_time_ns: u64,
        keepalive_timeout_ns: u64,
    ) -> PyResult<Self> {
        let keepalive = (keepalive_time_ns, keepalive_timeout_ns);
        made(Protocol::Grpc, endpoint, path, tls, &headers, compression, keepalive)
    }

    #[staticmethod]
    #[pyo3(signature = (endpoint, *, path=client_http::TRACES, encoding="proto", tls=None, headers=Vec::new(), compression=None, keepalive_time_ns, keepalive_timeout_ns))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
    fn http(
        endpoint: &str,
        path: &str,
        encoding: &str,
        tls: Option<&ClientTls>,
        headers: Vec<(String, String)>,
        compression: Option<&str>,
        keepalive_time_ns: u64,
        keepalive_timeout_ns: u64,
    ) -> PyResult<Self> {
        let protocol = match encoding {
            "proto" => Protocol::HttpProtobuf,
            "json" => Protocol::HttpJson,
            _ => return Err(UnusableClient::new_err(format!("there is no encoding {encoding:?}"))),
        };
        let keepalive = (keepalive_time_ns, keepalive_timeout_ns);
        made(protocol, endpoint, path, tls, &headers, compression, keepalive)
    }

    #[pyo3(signature = (bodies, timeout_ns, *, path=None))]
    fn send(
        &self,
        py: Python<'_>,
        bodies: Vec<Bound<'_, PyAny>>,
        timeout_ns: u64,
        path: Option<&str>,
    ) -> PyResult<(u32, String, Option<u64>, i64)> {
        let pieces = bodies.iter().map(piece).collect::<PyResult<Vec<_>>>()?;
        let timeout = Duration::from_nanos(timeout_ns);
        let answer = py.detach(|| self.0.send(pieces, path, timeout));
        Ok((answer.code, answer.message, answer.retry_delay_ns, answer.rejected_spans))
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }

    #[getter]
    fn certificate_problem(&self) -> Option<String> {
        self.0.tls()?.problem()
    }

    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (reloads, failed) = self.0.tls().map_or((0, 0), |tls| tls.reloads());
        let statistics = PyDict::new(py);
        statistics.set_item("connections", self.0.connections())?;
        statistics.set_item("certificate_reloads", reloads)?;
        statistics.set_item("certificate_failed_reloads", failed)?;
        Ok(statistics)
    }
}

/// The bytes themselves and no copy: whoever sends them holds them.
fn piece(body: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if let Ok(entry) = body.cast::<Entry>() {
        let held = entry.get().entry.body();
        return held.ok_or_else(|| PyLookupError::new_err("the body of an entry is not in memory"));
    }
    Ok(shared(body.getattr("body")?.cast_into::<PyBytes>()?))
}

/// Cut in two, each with its number of spans.
type Halves<'py> = ((Bound<'py, PyBytes>, usize), (Bound<'py, PyBytes>, usize));

#[pyfunction]
fn request_halves<'py>(body: &Bound<'py, PyBytes>) -> PyResult<Option<Halves<'py>>> {
    let (py, bytes) = (body.py(), body.as_bytes());
    let refused = |_: Malformed| MalformedRequest::new_err("not a valid ExportTraceServiceRequest");
    let Some(middle) = halves::middle(bytes).map_err(refused)? else { return Ok(None) };
    let half = |bytes: &[u8]| -> PyResult<_> {
        let spans = wire::scan(bytes).map_err(refused)?.spans.len();
        Ok((PyBytes::new(py, bytes), spans))
    };
    let (first, second) = bytes.split_at(middle);
    Ok(Some((half(first)?, half(second)?)))
}

fn made(
    protocol: Protocol,
    endpoint: &str,
    path: &str,
    tls: Option<&ClientTls>,
    headers: &[(String, String)],
    compression: Option<&str>,
    (keepalive_time_ns, keepalive_timeout_ns): (u64, u64),
) -> PyResult<Client> {
    let encoding = match compression {
        None => None,
        Some(name) => Some(
            Encoding::by_name(name.as_bytes())
                .ok_or_else(|| UnusableClient::new_err(format!("there is no compression {name:?}")))?,
        ),
    };
    let made = || {
        client::Client::new(Settings {
            protocol,
            endpoint: Endpoint::parse(endpoint)?,
            path: path.to_owned(),
            headers: client::headers(headers)?,
            encoding,
            tls: tls.map(|tls| tls.0.clone()),
            keepalive_time: Duration::from_nanos(keepalive_time_ns),
            keepalive_timeout: Duration::from_nanos(keepalive_timeout_ns),
        })
    };
    made().map(Client).map_err(UnusableClient::new_err)
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("UnusableClient", module.py().get_type::<UnusableClient>())?;
    module.add_class::<ClientTls>()?;
    module.add_class::<Client>()?;
    module.add_function(wrap_pyfunction!(request_halves, module)?)
}
