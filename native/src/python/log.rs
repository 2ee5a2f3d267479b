//! LogWriter, Ring and Drained: log and ring for Python.

use std::io;

use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::log::{LogError, LogWriter as Writer, Record};
use crate::records::RECORD_SIZE;
use crate::ring::{Drained as CoreDrained, Ring as CoreRing};

create_exception!(enricher._native, MalformedLog, PyValueError);

fn os_error(error: &io::Error) -> PyErr {
    PyOSError::new_err((error.raw_os_error(), error.to_string()))
}

pub fn log_error(error: LogError) -> PyErr {
    match error {
        LogError::Io(error) => os_error(&error),
        LogError::Malformed(what) => MalformedLog::new_err(what),
    }
}

#[pyclass(module = "enricher._native")]
pub struct LogWriter(Writer);

#[pymethods]
impl LogWriter {
    #[new]
    #[pyo3(signature = (fd, capacity=None))]
    fn new(fd: i32, capacity: Option<u64>) -> PyResult<Self> {
        Writer::open(fd, capacity).map(Self).map_err(log_error)
    }

    #[getter]
    fn position(&self) -> u64 {
        self.0.position()
    }

    #[getter]
    fn capacity(&self) -> u64 {
        self.0.capacity()
    }

    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    #[getter]
    fn last_heartbeat_ns(&self) -> u64 {
        self.0.last_heartbeat_ns()
    }

    fn append(&mut self, records: &[u8]) -> PyResult<()> {
        let (records, rest): (&[Record], _) = records.as_chunks::<RECORD_SIZE>();
        if !rest.is_empty() {
            return Err(PyValueError::new_err(format!("records have {RECORD_SIZE} bytes each")));
        }
        self.0.append(records);
        Ok(())
    }

    fn heartbeat(&mut self, watermark_ns: u64, going_on_ns: u64) {
        self.0.heartbeat(watermark_ns, going_on_ns);
    }
}

#[pyclass(frozen, module = "enricher._native")]
pub struct Drained(CoreDrained);

#[pymethods]
impl Drained {
    #[getter]
    fn moved(&self) -> u64 {
        self.0.moved
    }

    #[getter]
    fn foreign(&self) -> u64 {
        self.0.foreign
    }

    #[getter]
    fn caught_up(&self) -> bool {
        self.0.caught_up
    }

    #[getter]
    fn for_observer<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.for_observer)
    }
}

#[pyclass(module = "enricher._native")]
pub struct Ring(CoreRing);

#[pymethods]
impl Ring {
    #[new]
    fn new(map_fd: i32, size: u64) -> PyResult<Self> {
        CoreRing::new(map_fd, size).map(Self).map_err(|error| os_error(&error))
    }

    fn drain(&mut self, log: &mut LogWriter) -> Drained {
        Drained(self.0.drain(&mut log.0))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("MalformedLog", module.py().get_type::<MalformedLog>())?;
    module.add_class::<LogWriter>()?;
    module.add_class::<Ring>()?;
    module.add_class::<Drained>()
}
