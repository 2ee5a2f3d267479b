//! OTLP/JSON for Python.

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::request::MalformedRequest;
use crate::json;

create_exception!(enricher._native, RequestTooLarge, PyValueError);

#[pyfunction]
fn json_to_protobuf<'py>(
    py: Python<'py>,
    json: &Bound<'py, PyBytes>,
    limit: usize,
) -> PyResult<Bound<'py, PyBytes>> {
    let text = json.as_bytes();
    let body = py.detach(|| json::to_protobuf(text, limit)).map_err(|error| {
        if error.too_large {
            RequestTooLarge::new_err(error.to_string())
        } else {
            MalformedRequest::new_err(error.to_string())
        }
    })?;
    Ok(PyBytes::new(py, &body))
}

#[pyfunction]
fn json_from_protobuf<'py>(py: Python<'py>, body: &Bound<'py, PyBytes>) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = body.as_bytes();
    let line = py
        .detach(|| json::from_protobuf(bytes))
        .map_err(|_| MalformedRequest::new_err("not a valid ExportTraceServiceRequest"))?;
    Ok(PyBytes::new(py, &line))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("RequestTooLarge", module.py().get_type::<RequestTooLarge>())?;
    module.add_function(wrap_pyfunction!(json_to_protobuf, module)?)?;
    module.add_function(wrap_pyfunction!(json_from_protobuf, module)?)
}
