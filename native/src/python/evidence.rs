//! EvidenceIndex and what it answers: index and matching for Python.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::index::{Endpoint, Index, AF_INET, AF_INET6};
use crate::log::LogReader;
use crate::matching::{
    match_spans, process_waits, Matched as CoreMatched, SpanEvidence as CoreEvidence, Window,
};
use crate::python::log::log_error;
use crate::python::request::Request;
use crate::records::{
    Event, FD_BLOCK_DEVICE, FD_CHARACTER_DEVICE, FD_DIRECTORY, FD_FILE, FD_PIPE, FD_SOCKET,
};
use crate::waits::is_going_on;

const AF_UNIX: u16 = 1;

#[pyclass(frozen, module = "enricher._native")]
pub struct Wait(Event);

#[pymethods]
impl Wait {
    #[getter]
    fn start_ns(&self) -> u64 {
        self.0.start_ns
    }

    #[getter]
    fn end_ns(&self) -> u64 {
        self.0.end_ns
    }

    #[getter]
    fn goid(&self) -> u64 {
        self.0.goid
    }

    #[getter]
    fn parent_goid(&self) -> u64 {
        self.0.parent_goid
    }

    #[getter]
    fn tgid(&self) -> u32 {
        self.0.tgid
    }

    #[getter]
    fn tid(&self) -> u32 {
        self.0.tid
    }

    #[getter]
    fn syscall(&self) -> u16 {
        self.0.syscall
    }

    #[getter]
    fn error(&self) -> u16 {
        self.0.error
    }

    #[getter]
    fn fd(&self) -> i32 {
        self.0.fd
    }

    #[getter]
    fn fd_type(&self) -> u8 {
        self.0.fd_type
    }

    #[getter]
    fn wait_kind(&self) -> u8 {
        self.0.wait_kind
    }

    #[getter]
    fn flags(&self) -> u16 {
        self.0.flags
    }

    #[getter]
    fn going_on(&self) -> bool {
        is_going_on(&self.0)
    }

    #[getter]
    fn peer_family(&self) -> u16 {
        self.0.peer().family
    }

    #[getter]
    fn peer_port(&self) -> u16 {
        self.0.peer().port
    }

    #[getter]
    fn peer_address<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let peer = self.0.peer();
        let size = match peer.family {
            AF_INET => 4,
            AF_INET6 => 16,
            _ => 0,
        };
        PyBytes::new(py, &peer.address[..size])
    }

    fn peer(&self) -> String {
        let peer = self.0.peer();
        let [a, b, c, d, ..] = peer.address;
        let address = match peer.family {
            // A connection that is not made yet has no other end.
            AF_INET | AF_INET6 if peer.port == 0 => return "socket".into(),
            AF_INET => IpAddr::from(Ipv4Addr::new(a, b, c, d)),
            AF_INET6 => IpAddr::from(Ipv6Addr::from(peer.address)).to_canonical(),
            AF_UNIX => return "unix".into(),
            _ => return descriptor_name(self.0.fd_type).into(),
        };
        SocketAddr::new(address, peer.port).to_string()
    }
}

fn descriptor_name(fd_type: u8) -> &'static str {
    match fd_type {
        FD_PIPE => "pipe",
        FD_CHARACTER_DEVICE => "character device",
        FD_DIRECTORY => "directory",
        FD_BLOCK_DEVICE => "block device",
        FD_FILE => "file",
        FD_SOCKET => "socket",
        _ => "",
    }
}

#[pyclass(frozen, module = "enricher._native")]
pub struct SpanEvidence(CoreEvidence);

#[pymethods]
impl SpanEvidence {
    #[getter]
    fn ordinal(&self) -> usize {
        self.0.ordinal
    }

    #[getter]
    fn tgid(&self) -> u32 {
        self.0.tgid
    }

    #[getter]
    fn goid(&self) -> u64 {
        self.0.goid
    }

    #[getter]
    fn start_ns(&self) -> u64 {
        self.0.start_ns
    }

    #[getter]
    fn end_ns(&self) -> u64 {
        self.0.end_ns
    }

    #[getter]
    fn tail_end_ns(&self) -> u64 {
        self.0.tail_end_ns
    }

    #[getter]
    fn complete(&self) -> bool {
        self.0.complete
    }

    #[getter]
    fn waits(&self) -> Vec<Wait> {
        self.0.waits.iter().copied().map(Wait).collect()
    }

    #[getter]
    fn longest(&self) -> Wait {
        Wait(self.0.waits[self.0.longest])
    }

    #[getter]
    fn blocked_ns(&self) -> u64 {
        self.0.blocked_ns
    }

    #[getter]
    fn blocked_after_end_ns(&self) -> u64 {
        self.0.blocked_after_end_ns
    }

    #[getter]
    fn blocked_count(&self) -> usize {
        self.0.waits.len()
    }

    #[getter]
    fn kinds(&self) -> u8 {
        self.0.kinds
    }
}

#[pyclass(frozen, module = "enricher._native")]
pub struct Matched {
    #[pyo3(get)]
    evidence: Py<PyList>,
    incomplete: Vec<u32>,
    unmatched: Vec<u32>,
    #[pyo3(get)]
    matched: usize,
    #[pyo3(get)]
    open_until_ns: u64,
}

impl Matched {
    fn new(py: Python<'_>, matched: CoreMatched) -> PyResult<Self> {
        let evidence = PyList::new(py, matched.evidence.into_iter().map(SpanEvidence))?.unbind();
        let CoreMatched { incomplete, unmatched, matched, open_until_ns, .. } = matched;
        Ok(Self { evidence, incomplete, unmatched, matched, open_until_ns })
    }
}

#[pymethods]
impl Matched {
    #[getter]
    fn incomplete(&self) -> &[u32] {
        &self.incomplete
    }

    #[getter]
    fn unmatched(&self) -> &[u32] {
        &self.unmatched
    }
}

#[pyclass(module = "enricher._native")]
pub struct EvidenceIndex {
    reader: LogReader,
    index: Index,
}

#[pymethods]
impl EvidenceIndex {
    #[new]
    fn new(fd: i32, retention_ns: u64, max_waits: usize, max_span_ends: usize) -> PyResult<Self> {
        let reader = LogReader::open(fd).map_err(log_error)?;
        let index = Index::new(retention_ns, max_waits, max_span_ends, reader.began_late());
        Ok(Self { reader, index })
    }

    fn poll(&mut self) -> PyResult<u64> {
        let (before, now_ns) = (self.index.totals.records, monotonic_ns());
        let index = &mut self.index;
        self.reader.poll(|read| index.take(read, now_ns)).map_err(log_error)?;
        index.expire();
        Ok(index.totals.records - before)
    }

    #[getter]
    fn watermark_ns(&self) -> u64 {
        self.index.watermark_ns
    }

    #[getter]
    fn going_on_ns(&self) -> u64 {
        self.index.going_on_ns
    }

    #[getter]
    fn heartbeat_seen_ns(&self) -> u64 {
        self.index.heartbeat_seen_ns
    }

    #[getter]
    fn watched(&self) -> usize {
        self.index.watched()
    }

    #[getter]
    fn watched_without_span_ends(&self) -> usize {
        self.index.watched_without_span_ends()
    }

    #[pyo3(signature = (request, clock_ns, tail_ns, threshold_ns, settled_ns=None))]
    fn r#match(
        &self,
        py: Python<'_>,
        request: &Request,
        clock_ns: i64,
        tail_ns: u64,
        threshold_ns: u64,
        settled_ns: Option<u64>,
    ) -> PyResult<Matched> {
        let window = Window { clock_ns, tail_ns, threshold_ns };
        let settled_ns = settled_ns.unwrap_or(u64::MAX);
        Matched::new(py, match_spans(&self.index, &request.scan.spans, window, settled_ns))
    }

    fn kernel_waits(&self, tgid: u32, start_ns: u64, end_ns: u64) -> Vec<Wait> {
        process_waits(&self.index, tgid, start_ns, end_ns).into_iter().map(Wait).collect()
    }

    fn sender(&self, peer: &str) -> Option<u32> {
        self.index.sender(&endpoint(peer)?)
    }

    fn process(&self, tgid: u32) -> Option<(u64, u16)> {
        self.index.process(tgid).map(|process| (process.since_ns, process.flags))
    }

    fn lost(&self, start_ns: u64, end_ns: u64, tgid: u32) -> bool {
        self.index.lost(start_ns, end_ns, tgid)
    }

    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (index, totals) = (&self.index, &self.index.totals);
        let statistics = PyDict::new(py);
        for (name, value) in [
            ("span_ends", index.span_ends.count() as u64),
            ("waits", index.waits.count() as u64),
            ("wait_owners", index.waits.owners() as u64),
            ("wait_owners_going_on", index.waits.owners_going_on() as u64),
            ("processes", index.process_count() as u64),
            ("senders", index.sender_count() as u64),
            ("losses", index.loss_count() as u64),
            ("records_total", totals.records),
            ("records_overtaken_total", totals.records_overtaken),
            ("span_ends_total", totals.span_ends),
            ("span_ends_repeated_total", totals.span_ends_repeated),
            ("span_ends_forgotten_total", index.span_ends.forgotten),
            ("waits_total", totals.waits),
            ("waits_end_unknown_total", totals.waits_end_unknown),
            ("waits_contradicted_total", index.waits.contradicted),
            ("waits_forgotten_total", index.waits.forgotten),
            ("losses_total", totals.losses),
        ] {
            statistics.set_item(name, value)?;
        }
        Ok(statistics)
    }
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `now`, which lives longer than the call; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// From gRPC's notation: `ipv4:127.0.0.1:5555`, `ipv6:[::1]:5555` or, as grpcio has it,
/// `ipv6:%5B::1%5D:5555`.
fn endpoint(peer: &str) -> Option<Endpoint> {
    let (_, address) = peer.split_once(':').filter(|(family, _)| matches!(*family, "ipv4" | "ipv6"))?;
    let address: SocketAddr = address.replace("%5B", "[").replace("%5D", "]").parse().ok()?;
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    Some((octets, address.port()))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<EvidenceIndex>()?;
    module.add_class::<Matched>()?;
    module.add_class::<SpanEvidence>()?;
    module.add_class::<Wait>()
}
