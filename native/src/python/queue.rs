//! Queue and Entry: the queue for Python.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyLookupError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::python::request::{shared, MalformedRequest, Request};
use crate::queue::{Answer, Bounds, Entry as CoreEntry, Offered, Outcome, Queue as CoreQueue};

fn seconds(timeout_s: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(timeout_s)
        .map_err(|_| PyValueError::new_err(format!("{timeout_s} s is no time to wait")))
}

#[pyclass(frozen, module = "enricher._native")]
pub struct Entry {
    pub entry: Arc<CoreEntry>,
    request: Option<Py<Request>>,
}

#[pymethods]
impl Entry {
    #[getter]
    fn request(&self, py: Python<'_>) -> Option<Py<Request>> {
        self.request.as_ref().map(|request| request.clone_ref(py))
    }

    #[getter]
    fn peers(&self) -> Vec<(u32, String)> {
        self.entry.peers.iter().map(|(first, peer)| (*first, peer.to_string())).collect()
    }

    #[getter]
    fn spans(&self) -> u64 {
        self.entry.spans()
    }

    #[getter]
    fn requests(&self) -> u64 {
        self.entry.requests
    }

    #[getter]
    fn size(&self) -> usize {
        self.entry.body().map_or(0, |body| body.len())
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let body = self.entry.body().ok_or_else(|| PyLookupError::new_err("its body is not in memory"))?;
        Ok(PyBytes::new(py, &body))
    }

    fn replace_body(&self, body: Option<Bound<'_, PyBytes>>) {
        self.entry.set_body(body.map(shared));
    }

    fn sampled_out(&self, spans: u64) {
        self.entry.sampled_out(spans);
    }

    #[getter]
    fn id(&self) -> i64 {
        self.entry.id()
    }

    #[setter]
    fn set_id(&self, id: i64) {
        self.entry.set_id(id);
    }

    #[getter]
    fn waiting(&self) -> usize {
        self.entry.waiting()
    }

    #[pyo3(signature = (code=0, message="", retry_after_ns=None))]
    fn answer(&self, code: u32, message: &str, retry_after_ns: Option<u64>) {
        self.entry.answer(&Answer { code, message: message.into(), retry_after_ns });
    }
}

#[pyclass(frozen, module = "enricher._native")]
pub struct Queue(pub Arc<CoreQueue>);

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (max_requests, max_bytes, max_body_bytes, *, answers_late=false))]
    fn new(max_requests: usize, max_bytes: usize, max_body_bytes: usize, answers_late: bool) -> Self {
        let bounds =
            Bounds { requests: max_requests, bytes: max_bytes, body_bytes: max_body_bytes, answers_late };
        Self(Arc::new(CoreQueue::new(bounds)))
    }

    fn offer(&self, py: Python<'_>, body: Bound<'_, PyBytes>, peer: &str) -> (u32, String, Option<u64>) {
        let (body, peer) = (shared(body), Arc::from(peer));
        let answer = py.detach(|| match self.0.offer(body, &peer) {
            Offered::Answered(answer) => answer,
            Offered::Waiting(answer) => answer.blocking_recv().unwrap_or_else(|_| Answer::shutting_down()),
        });
        (answer.code, answer.message, answer.retry_after_ns)
    }

    fn refused(&self, outcome: &str) -> PyResult<()> {
        let found = Outcome::ALL.iter().find(|(_, name)| *name == outcome);
        let (outcome, _) =
            found.ok_or_else(|| PyValueError::new_err(format!("there is no outcome {outcome}")))?;
        self.0.refused(*outcome);
        Ok(())
    }

    fn take_new(&self, py: Python<'_>, timeout_s: f64, join_bytes: usize) -> PyResult<Vec<Entry>> {
        let timeout = seconds(timeout_s)?;
        let taken = py.detach(|| self.0.take_new(timeout, join_bytes));
        let entry = |(entry, scan): (Arc<CoreEntry>, _)| {
            let request = Request::of(entry.body().unwrap_or_default(), scan);
            Ok(Entry { entry, request: Some(Py::new(py, request)?) })
        };
        taken.into_iter().map(entry).collect()
    }

    fn wake(&self) {
        self.0.wake();
    }

    fn put(&self, entries: Vec<PyRef<'_, Entry>>) {
        self.0.put(entries.iter().map(|entry| entry.entry.clone()).collect());
    }

    fn restore(&self, body: Bound<'_, PyBytes>, id: i64) -> PyResult<bool> {
        let refused = |_| MalformedRequest::new_err("not a valid ExportTraceServiceRequest");
        self.0.restore(shared(body), id).map_err(refused)
    }

    #[pyo3(signature = (max_bytes, timeout_s=None))]
    fn take(&self, py: Python<'_>, max_bytes: usize, timeout_s: Option<f64>) -> PyResult<Vec<Entry>> {
        let timeout = timeout_s.map(seconds).transpose()?;
        let taken = py.detach(|| self.0.take(max_bytes, timeout));
        Ok(taken.into_iter().map(|entry| Entry { entry, request: None }).collect())
    }

    fn release(&self, entries: Vec<PyRef<'_, Entry>>) {
        let entries: Vec<Arc<CoreEntry>> = entries.iter().map(|entry| entry.entry.clone()).collect();
        self.0.release(&entries);
    }

    fn refuse_new(&self, refusing: bool) {
        self.0.set_refusing(refusing);
    }

    fn end_intake(&self) {
        self.0.end_intake();
    }

    fn close(&self) {
        self.0.close();
    }

    #[getter]
    fn finished(&self) -> bool {
        self.0.is_finished()
    }

    #[getter]
    fn capacity(&self) -> usize {
        self.0.bounds.requests
    }

    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (now, counters) = (self.0.statistics(), &self.0.counters);
        let found = PyDict::new(py);
        found.set_item("requests", now.requests)?;
        found.set_item("bytes", now.bytes)?;
        found.set_item("spans", now.spans)?;
        found.set_item("ready", now.ready)?;
        found.set_item("accepted_spans", counters.accepted_spans())?;
        let (answered, refused) = (PyDict::new(py), PyDict::new(py));
        for (outcome, name) in Outcome::ALL {
            answered.set_item(name, counters.requests(outcome))?;
            refused.set_item(name, counters.refused_spans(outcome))?;
        }
        found.set_item("requests_by_outcome", answered)?;
        found.set_item("refused_spans_by_outcome", refused)?;
        Ok(found)
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Queue>()?;
    module.add_class::<Entry>()
}
