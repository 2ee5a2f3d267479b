//! EvidenceIndex and what it answers: index and matching for Python.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::index::{Index, Process, AF_INET, AF_INET6};
use crate::log::{LogReader, Read, Record};
use crate::matching::{
    explain, match_spans, process_waits, Explained as CoreExplained, Matched as CoreMatched,
    SpanEvidence as CoreEvidence, Window,
};
use crate::python::log::log_error;
use crate::python::request::Request;
use crate::records::{
    Event, CALL_MULTIPLEXED, EVENT_HEARTBEAT, EVENT_OVERTAKEN, FD_BLOCK_DEVICE, FD_CHARACTER_DEVICE,
    FD_DIRECTORY, FD_FILE, FD_PIPE, FD_SOCKET, RECORD_SIZE,
};
use crate::unprobed::Endpoint;
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

    #[getter]
    fn label<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let label = self.0.peer().label;
        PyBytes::new(py, if label == [0; 8] { &[] } else { &label })
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

    #[getter]
    fn direct_ns(&self) -> u64 {
        self.0.direct_ns
    }

    #[getter]
    fn via(&self) -> &'static str {
        if self.0.is_by_connection {
            "connection"
        } else {
            "goroutine"
        }
    }
}

#[pyclass(frozen, module = "enricher._native")]
pub struct Explained(CoreExplained);

#[pymethods]
impl Explained {
    #[getter]
    fn matched(&self) -> bool {
        self.0.end.is_some()
    }

    #[getter]
    fn why(&self) -> &'static str {
        self.0.why
    }

    #[getter]
    fn tgid(&self) -> u32 {
        self.0.end.map_or(0, |end| end.tgid)
    }

    #[getter]
    fn goid(&self) -> u64 {
        self.0.end.map_or(0, |end| end.goid)
    }

    #[getter]
    fn started_goid(&self) -> u64 {
        self.0.end.filter(|end| end.is_start_known()).map_or(0, |end| end.started_goid())
    }

    #[getter]
    fn start_ns(&self) -> u64 {
        self.0.times.map_or(0, |times| times.start_ns)
    }

    #[getter]
    fn end_ns(&self) -> u64 {
        self.0.times.map_or(0, |times| times.end_ns)
    }

    #[getter]
    fn tail_end_ns(&self) -> u64 {
        self.0.times.map_or(0, |times| times.tail_end_ns)
    }

    #[getter]
    fn complete(&self) -> bool {
        self.0.complete
    }

    #[getter]
    fn incomplete_because(&self) -> Vec<&'static str> {
        self.0.incomplete_because.clone()
    }

    #[getter]
    fn considered(&self) -> Vec<(Wait, bool, &'static str)> {
        let told = self.0.considered.iter();
        told.map(|(wait, verdict)| (Wait(*wait), verdict.is_claimed(), verdict.sentence())).collect()
    }
}

#[pyclass(frozen, get_all, module = "enricher._native")]
pub struct Traceparent {
    tgid: u32,
    goid: u64,
    fd: i32,
    at_ns: u64,
    next_ns: u64,
    multiplexed: bool,
}

impl Traceparent {
    fn of((event, next_ns): (Event, u64)) -> Self {
        let multiplexed = event.flags & CALL_MULTIPLEXED != 0;
        let Event { tgid, goid, fd, start_ns: at_ns, .. } = event;
        Self { tgid, goid, fd, at_ns, next_ns, multiplexed }
    }
}

#[pyclass(frozen, get_all, module = "enricher._native")]
pub struct WatchedProcess {
    tgid: u32,
    since_ns: u64,
    ended_ns: u64,
    flags: u16,
    start_ticks: u64,
    inner_pid: u32,
    container_id: Py<PyBytes>,
}

impl WatchedProcess {
    fn of(py: Python<'_>, tgid: u32, process: &Process) -> Self {
        let identity = process.identity;
        Self {
            tgid,
            since_ns: process.since_ns,
            ended_ns: process.ended_ns.unwrap_or(0),
            flags: process.flags,
            start_ticks: identity.start_ticks,
            inner_pid: identity.inner_pid,
            container_id: PyBytes::new(py, &identity.container_id).unbind(),
        }
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
    /// None: it is fed.
    reader: Option<LogReader>,
    index: Index,
    tapped: Option<Vec<u8>>,
}

#[pymethods]
impl EvidenceIndex {
    #[new]
    fn new(fd: i32, retention_ns: u64, max_waits: usize, max_span_ends: usize) -> PyResult<Self> {
        let reader = LogReader::open(fd).map_err(log_error)?;
        let index = Index::new(retention_ns, max_waits, max_span_ends, reader.began_late());
        Ok(Self { reader: Some(reader), index, tapped: None })
    }

    #[staticmethod]
    fn for_replay(retention_ns: u64, max_waits: usize, max_span_ends: usize) -> Self {
        let index = Index::new(retention_ns, max_waits, max_span_ends, false);
        Self { reader: None, index, tapped: None }
    }

    fn poll(&mut self) -> PyResult<u64> {
        let (before, now_ns) = (self.index.totals.records, monotonic_ns());
        let Self { reader, index, tapped } = self;
        if let Some(reader) = reader {
            let poll = reader.poll(|read| {
                if let Some(tapped) = tapped {
                    tap(&read, index.watermark_ns, tapped);
                }
                index.take(read, now_ns);
            });
            poll.map_err(log_error)?;
        }
        index.expire();
        Ok(index.totals.records - before)
    }

    fn shed(&mut self, keep_ns: u64) {
        self.index.shed(keep_ns);
    }

    fn feed(&mut self, records: &[u8], now_ns: u64) -> PyResult<()> {
        let (records, rest): (&[Record], _) = records.as_chunks::<RECORD_SIZE>();
        if !rest.is_empty() {
            return Err(PyValueError::new_err(format!("records have {RECORD_SIZE} bytes each")));
        }
        self.index.take(Read::Records(records), now_ns);
        self.index.expire();
        Ok(())
    }

    fn tap(&mut self, on: bool) {
        self.tapped = on.then(Vec::new);
    }

    fn take_tapped<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let tapped = self.tapped.as_mut().map(std::mem::take).unwrap_or_default();
        PyBytes::new(py, &tapped)
    }

    fn sample_clock(&mut self, monotonic_ns: u64, realtime_ns: u64) {
        self.index.clock.sample(monotonic_ns, realtime_ns);
    }

    fn kernel_time_ns(&self, unix_ns: u64) -> u64 {
        self.index.clock.kernel_time_ns(unix_ns)
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

    #[pyo3(signature = (request, tail_ns, threshold_ns, settled_ns=None))]
    fn r#match(
        &self,
        py: Python<'_>,
        request: &Request,
        tail_ns: u64,
        threshold_ns: u64,
        settled_ns: Option<u64>,
    ) -> PyResult<Matched> {
        let window = Window { tail_ns, threshold_ns };
        let settled_ns = settled_ns.unwrap_or(u64::MAX);
        Matched::new(py, match_spans(&self.index, &request.scan.spans, window, settled_ns))
    }

    fn explain(
        &self,
        request: &Request,
        ordinal: usize,
        tail_ns: u64,
        threshold_ns: u64,
    ) -> PyResult<Explained> {
        let span = request.scan.spans.get(ordinal).ok_or_else(|| PyIndexError::new_err("no such span"))?;
        Ok(Explained(explain(&self.index, span, Window { tail_ns, threshold_ns })))
    }

    fn waits(&self, tgid: u32, goid: u64, start_ns: u64, end_ns: u64) -> Vec<Wait> {
        let of_goroutine = self.index.waits.of((tgid, goid)).reaching(start_ns);
        let mut waits: Vec<Event> = of_goroutine.filter(|wait| wait.start_ns < end_ns).copied().collect();
        if goid != 0 {
            let of_process = process_waits(&self.index, tgid, start_ns, end_ns);
            waits.extend(of_process.into_iter().filter(|wait| wait.goid == goid));
        }
        waits.sort_by_key(|wait| wait.start_ns);
        waits.into_iter().map(Wait).collect()
    }

    fn thread_waits(&self, tgid: u32, tid: u32, start_ns: u64, end_ns: u64) -> Vec<Wait> {
        let waits = process_waits(&self.index, tgid, start_ns, end_ns).into_iter();
        waits.filter(|wait| wait.tid == tid).map(Wait).collect()
    }

    fn labelled_waits(&self, span_id: [u8; 8]) -> Vec<Wait> {
        self.index.unprobed.labelled(u64::from_le_bytes(span_id)).into_iter().map(Wait).collect()
    }

    fn goroutine_of_connection(&self, address: &[u8], port: u16, before_ns: u64) -> Option<(u32, u64)> {
        let octets = match <[u8; 4]>::try_from(address) {
            Ok(ipv4) => Ipv4Addr::from(ipv4).to_ipv6_mapped().octets(),
            Err(_) => <[u8; 16]>::try_from(address).ok()?,
        };
        self.index.unprobed.reader_of(&(octets, port), before_ns)
    }

    fn connection_waits(&self, tgid: u32, fd: i32, start_ns: u64, end_ns: u64) -> Vec<Wait> {
        self.index.unprobed.ended_on(tgid, fd, start_ns, end_ns).into_iter().map(Wait).collect()
    }

    fn children(&self, tgid: u32, goid: u64, start_ns: u64, end_ns: u64) -> Vec<u64> {
        self.index.unprobed.made_by(tgid, goid, start_ns, end_ns)
    }

    fn traceparent_read(&self, trace_id: [u8; 16], parent_span_id: [u8; 8]) -> Option<Traceparent> {
        let span_id = u64::from_le_bytes(parent_span_id);
        self.index.unprobed.traceparent(false, trace_id, span_id).map(Traceparent::of)
    }

    fn traceparent_written(&self, trace_id: [u8; 16], span_id: [u8; 8]) -> Option<Traceparent> {
        self.index.unprobed.traceparent(true, trace_id, u64::from_le_bytes(span_id)).map(Traceparent::of)
    }

    fn processes(&self, py: Python<'_>) -> Vec<WatchedProcess> {
        self.index.processes().map(|(tgid, process)| WatchedProcess::of(py, tgid, process)).collect()
    }

    fn kernel_waits(&self, tgid: u32, start_ns: u64, end_ns: u64) -> Vec<Wait> {
        process_waits(&self.index, tgid, start_ns, end_ns).into_iter().map(Wait).collect()
    }

    fn sender(&self, peer: &str) -> Option<u32> {
        // Of a Unix socket the kernel itself has told the transport who is at its other end.
        if let Some(pid) = peer.strip_prefix("unix:pid=") {
            return pid.parse().ok().filter(|pid| self.index.process(*pid).is_some());
        }
        self.index.sender(&endpoint(peer)?)
    }

    fn process(&self, tgid: u32) -> Option<(u64, u16)> {
        self.index.process(tgid).map(|process| (process.since_ns, process.flags))
    }

    fn lost(&self, start_ns: u64, end_ns: u64, tgid: u32) -> bool {
        self.index.is_not_all_known(start_ns, end_ns, tgid)
    }

    fn missed(
        &self,
        request: &Request,
        ordinals: Vec<usize>,
        tgids: Vec<u32>,
        tick_ns: u64,
    ) -> PyResult<Vec<usize>> {
        let mut missed = Vec::new();
        for ordinal in ordinals {
            let Some(span) = request.scan.spans.get(ordinal) else {
                return Err(PyIndexError::new_err("there is no such span"));
            };
            // The end lies its duration after the start: SDKs take durations of a clock that nobody sets.
            let start_ns = self.index.clock.kernel_time_ns(span.start_unix_ns);
            let end_ns = start_ns.saturating_add(span.end_unix_ns.saturating_sub(span.start_unix_ns));
            if tgids.iter().any(|tgid| self.index.misses(*tgid, start_ns, end_ns, tick_ns)) {
                missed.push(ordinal);
            }
        }
        Ok(missed)
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
            ("calls_total", index.calls.total),
            ("calls_forgotten_total", index.calls.forgotten()),
            ("lineage_forgotten_total", index.lineage.forgotten()),
            ("losses_total", totals.losses),
            ("shed_total", totals.shed),
        ] {
            statistics.set_item(name, value)?;
        }
        Ok(statistics)
    }
}

/// What is read, as records.
fn tap(read: &Read, watermark_ns: u64, to: &mut Vec<u8>) {
    let record =
        |kind, start_ns, end_ns| Event { kind, start_ns, end_ns, fd: -1, ..Event::default() }.bytes();
    match *read {
        Read::Records(records) => to.extend_from_slice(records.as_flattened()),
        Read::Heartbeat { watermark_ns: at_ns, going_on_ns } if at_ns > watermark_ns => {
            to.extend_from_slice(&record(EVENT_HEARTBEAT, at_ns, going_on_ns));
        }
        Read::Heartbeat { .. } => {}
        Read::Overtaken(_) => to.extend_from_slice(&record(EVENT_OVERTAKEN, watermark_ns, watermark_ns)),
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
    module.add_class::<Explained>()?;
    module.add_class::<Traceparent>()?;
    module.add_class::<WatchedProcess>()?;
    module.add_class::<Matched>()?;
    module.add_class::<SpanEvidence>()?;
    module.add_class::<Wait>()
}
