//! Request, Span and encode_attributes: wire, splice and attributes for Python.

use std::collections::HashMap;
use std::mem::MaybeUninit;

use bytes::Bytes;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use pyo3::{create_exception, ffi};

use crate::attributes::{push_attribute, Value};
use crate::sampling::{self, Rule, Tally};
use crate::scalars::{self, Found, Scalar};
use crate::splice::{Patch, Plan, Refused};
use crate::wire::{self, Extent, Scan};

create_exception!(enricher._native, MalformedRequest, PyValueError);

/// A bytes object as it is, kept alive by a reference.
pub fn shared(bytes: Bound<'_, PyBytes>) -> Bytes {
    Bytes::from_owner(PyBackedBytes::from(bytes))
}

/// A run for these spans, or for all.
type Fill<'py> = (Option<Vec<usize>>, Bound<'py, PyBytes>);

/// From this size on a scan takes longer (about 50 µs) than other threads should wait for it.
const SCAN_DETACHED_BYTES: usize = 512 * 1024;

#[pyclass(frozen, module = "enricher._native")]
pub struct Request {
    body: Bytes,
    /// The same as Python has it; of what came from a transport it is made when it is first asked for.
    object: PyOnceLock<Py<PyBytes>>,
    pub scan: Scan,
}

#[pymethods]
impl Request {
    #[staticmethod]
    fn scan(py: Python<'_>, body: Bound<'_, PyBytes>) -> PyResult<Self> {
        let bytes = body.as_bytes();
        let scanned = if bytes.len() < SCAN_DETACHED_BYTES {
            wire::scan(bytes)
        } else {
            py.detach(|| wire::scan(bytes))
        };
        let scan = scanned.map_err(|_| MalformedRequest::new_err("not a valid ExportTraceServiceRequest"))?;
        let object = PyOnceLock::new();
        object.set(py, body.clone().unbind()).ok();
        Ok(Self { body: shared(body), object, scan })
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.object.get_or_init(py, || PyBytes::new(py, &self.body).unbind()).bind(py).clone()
    }

    #[getter]
    fn size(&self) -> usize {
        self.body.len()
    }

    #[getter]
    fn span_count(&self) -> usize {
        self.scan.spans.len()
    }

    #[getter]
    fn last_end_unix_ns(&self) -> u64 {
        self.scan.last_end_unix_ns
    }

    #[getter]
    fn last_tail_end_unix_ns(&self) -> u64 {
        self.scan.last_tail_end_unix_ns
    }

    fn spans(&self, py: Python<'_>) -> Vec<Span> {
        let body = &self.body[..];
        let span = |ordinal| {
            let fields = self.scan.fields(body, ordinal);
            Span {
                trace_id: PyBytes::new(py, fields.trace_id).unbind(),
                span_id: PyBytes::new(py, fields.span_id).unbind(),
                parent_span_id: PyBytes::new(py, fields.parent_span_id).unbind(),
                kind: fields.kind,
                start_unix_ns: fields.start_unix_ns,
                end_unix_ns: fields.end_unix_ns,
            }
        };
        (0..self.scan.spans.len()).map(span).collect()
    }

    fn span_attributes<'py>(
        &self,
        py: Python<'py>,
        ordinal: usize,
        keys: Vec<String>,
    ) -> PyResult<Bound<'py, PyDict>> {
        self.check_ordinal(ordinal)?;
        let body = &self.body[..];
        to_dict(
            py,
            scalars::of_span(&self.scan, body, ordinal, |key| keys.iter().any(|wanted| wanted == key)),
        )
    }

    fn resource_of(&self, ordinal: usize) -> PyResult<u32> {
        self.check_ordinal(ordinal)?;
        Ok(self.scan.scopes[self.scan.spans[ordinal].scope as usize].1)
    }

    fn by_origin(&self, peers: Vec<(usize, String)>) -> Vec<Vec<(usize, usize)>> {
        let mut groups: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut known: HashMap<(Vec<u8>, &str), usize> = HashMap::new();
        let (mut at, mut peer) = (0, "");
        let mut peers = peers.iter().peekable();
        let ends = self
            .scan
            .spans
            .iter()
            .enumerate()
            .map(|(ordinal, span)| (ordinal, self.scan.scopes[span.scope as usize].1));
        let mut ends = ends.peekable();
        while let Some((ordinal, resource)) = ends.next() {
            if ends.peek().is_some_and(|(_, next)| *next == resource) {
                continue;
            }
            while let Some((_, changed)) = peers.next_if(|(first, _)| *first <= at) {
                peer = changed;
            }
            let encoded = scalars::resources(&self.body, self.scan.resources[resource as usize]).concat();
            let group = *known.entry((encoded, peer)).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[group].push((at, ordinal + 1));
            at = ordinal + 1;
        }
        groups
    }

    fn resource<'py>(&self, py: Python<'py>, number: usize) -> PyResult<Bound<'py, PyBytes>> {
        let resources = scalars::resources(&self.body[..], self.resource_extent(number)?);
        Ok(PyBytes::new(py, &resources.concat()))
    }

    fn resource_attributes<'py>(
        &self,
        py: Python<'py>,
        number: usize,
        keys: Vec<String>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (body, extent) = (&self.body[..], self.resource_extent(number)?);
        to_dict(py, scalars::of_resource(body, extent, |key| keys.iter().any(|wanted| wanted == key)))
    }

    #[pyo3(signature = (patches, fills=Vec::new()))]
    fn splice<'py>(
        &self,
        py: Python<'py>,
        patches: &Bound<'py, PyList>,
        fills: Vec<Fill<'py>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let runs = runs_of(patches)?;
        let patches = self.patches(&runs, &fills)?;
        if patches.is_empty() {
            return Ok(self.body(py));
        }
        write_bytes(py, &Plan::new(&self.body, &self.scan, &patches).map_err(refusal)?)
    }

    #[pyo3(signature = (rule, kept, patches, fills=Vec::new()))]
    fn sample<'py>(
        &self,
        py: Python<'py>,
        rule: (u64, u64, bool),
        kept: Vec<usize>,
        patches: &Bound<'py, PyList>,
        fills: Vec<Fill<'py>>,
    ) -> PyResult<Sampled> {
        let (threshold, slow_ns, keep_errors) = rule;
        let rule = Rule { threshold, slow_ns, keep_errors };
        let runs = runs_of(patches)?;
        let patches = self.patches(&runs, &fills)?;
        let decided = sampling::decide(&self.body, &self.scan, &rule, &kept).map_err(refusal)?;
        if decided.tally.sampled_out == self.scan.spans.len() {
            return Ok(Sampled::new(Some(PyBytes::new(py, &[])), &decided.tally));
        }
        let edits = decided.edits(&self.scan, &patches);
        let plan = Plan::of_edits(&self.body, &self.scan, edits, decided.count(&patches)).map_err(refusal)?;
        let left = if plan.is_empty() { None } else { Some(write_bytes(py, &plan)?) };
        Ok(Sampled::new(left, &decided.tally))
    }
}

/// A run for one span.
type Run<'py> = (usize, Bound<'py, PyBytes>);

fn runs_of<'py>(patches: &Bound<'py, PyList>) -> PyResult<Vec<Run<'py>>> {
    let mut runs = Vec::with_capacity(patches.len());
    for patch in patches.iter() {
        let patch = patch.cast::<PyTuple>()?;
        if patch.len() != 2 {
            return Err(PyTypeError::new_err("a patch is a pair of ordinal and bytes"));
        }
        runs.push((patch.get_item(0)?.extract::<usize>()?, patch.get_item(1)?.cast_into::<PyBytes>()?));
    }
    Ok(runs)
}

fn refusal(refused: Refused) -> PyErr {
    PyValueError::new_err(match refused {
        Refused::Ordinals => "ordinals must ascend and be those of spans",
        Refused::TooLong => "the request would be longer than 2 GiB",
    })
}

/// What `Request.sample` left, and of how many spans it decided what.
#[pyclass(frozen, get_all, module = "enricher._native")]
pub struct Sampled {
    body: Option<Py<PyBytes>>,
    sampled_out: usize,
    kept_evidence: usize,
    kept_error: usize,
    kept_slow: usize,
    kept_ratio: usize,
    kept_undecidable: usize,
}

impl Sampled {
    fn new(body: Option<Bound<'_, PyBytes>>, tally: &Tally) -> Self {
        let Tally { sampled_out, kept_evidence, kept_error, kept_slow, kept_ratio, kept_undecidable } =
            *tally;
        let body = body.map(Bound::unbind);
        Self { body, sampled_out, kept_evidence, kept_error, kept_slow, kept_ratio, kept_undecidable }
    }
}

impl Request {
    /// Of a body that was scanned.
    pub fn of(body: Bytes, scan: Scan) -> Self {
        Self { body, object: PyOnceLock::new(), scan }
    }

    /// What is to be added to which span.
    fn patches<'a>(&self, runs: &'a [Run<'_>], fills: &'a [Fill<'_>]) -> PyResult<Vec<Patch<'a>>> {
        let patch = |(ordinal, run): &'a Run<'_>| Patch { ordinal: *ordinal, run: run.as_bytes() };
        let mut patches: Vec<Patch> = runs.iter().map(patch).collect();
        if !fills.is_empty() {
            patches = self.filled(&patches, fills)?;
        }
        patches.retain(|patch| !patch.run.is_empty());
        Ok(patches)
    }

    /// The patches, and for each other span the run of the first fill that has it.
    fn filled<'a>(&self, patches: &[Patch<'a>], fills: &'a [Fill<'_>]) -> PyResult<Vec<Patch<'a>>> {
        let mut runs: Vec<Option<&[u8]>> = vec![None; self.scan.spans.len()];
        for patch in patches {
            self.check_ordinal(patch.ordinal)?;
            runs[patch.ordinal] = Some(patch.run);
        }
        for (ordinals, run) in fills {
            let run = run.as_bytes();
            match ordinals {
                None => runs.iter_mut().for_each(|chosen| *chosen = chosen.or(Some(run))),
                Some(ordinals) => {
                    for ordinal in ordinals {
                        self.check_ordinal(*ordinal)?;
                        runs[*ordinal].get_or_insert(run);
                    }
                }
            }
        }
        let chosen = runs.into_iter().enumerate();
        Ok(chosen.filter_map(|(ordinal, run)| run.map(|run| Patch { ordinal, run })).collect())
    }

    fn check_ordinal(&self, ordinal: usize) -> PyResult<()> {
        if ordinal < self.scan.spans.len() {
            return Ok(());
        }
        Err(PyIndexError::new_err(format!("there are {} spans", self.scan.spans.len())))
    }

    fn resource_extent(&self, number: usize) -> PyResult<Extent> {
        let extent = self.scan.resources.get(number).copied();
        extent.ok_or_else(|| {
            PyIndexError::new_err(format!("there are {} resources", self.scan.resources.len()))
        })
    }
}

/// Of a repeated key the first counts.
fn to_dict<'py>(py: Python<'py>, found: Found) -> PyResult<Bound<'py, PyDict>> {
    let attributes = PyDict::new(py);
    for (key, value) in found.into_iter().rev() {
        match value {
            Scalar::Text(text) => attributes.set_item(key, text)?,
            Scalar::Bool(flag) => attributes.set_item(key, flag)?,
            Scalar::Int(number) => attributes.set_item(key, number)?,
            Scalar::Double(number) => attributes.set_item(key, number)?,
        }
    }
    Ok(attributes)
}

/// The planned bytes as a new bytes object, written in place: zeroing it first would cost a quarter as much
/// again.
fn write_bytes<'py>(py: Python<'py>, plan: &Plan) -> PyResult<Bound<'py, PyBytes>> {
    let size = plan.size();
    // SAFETY: a null pointer asks for a bytes object of this size whose content is not set (documented), and
    // the result is a new reference or null with an exception set. Nobody else has seen the object, so its
    // content may be written until it is handed out; `write` writes all of it or panics, which drops the
    // object.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size as ffi::Py_ssize_t);
        let object = Bound::from_owned_ptr_or_err(py, object)?;
        let content = ffi::PyBytes_AsString(object.as_ptr()).cast::<MaybeUninit<u8>>();
        plan.write(std::slice::from_raw_parts_mut(content, size));
        Ok(object.cast_into_unchecked())
    }
}

#[pyclass(frozen, get_all, module = "enricher._native")]
pub struct Span {
    trace_id: Py<PyBytes>,
    span_id: Py<PyBytes>,
    parent_span_id: Py<PyBytes>,
    kind: i32,
    start_unix_ns: u64,
    end_unix_ns: u64,
}

#[pyfunction]
fn encode_attributes<'py>(py: Python<'py>, attributes: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyBytes>> {
    let mut run = Vec::with_capacity(48 * attributes.len());
    for (key, value) in attributes.iter() {
        let key = key.cast::<PyString>()?.to_str()?;
        // bool before int, as True is an int, too
        let encoded = if let Ok(flag) = value.cast::<PyBool>() {
            Value::Bool(flag.is_true())
        } else if let Ok(text) = value.cast::<PyString>() {
            Value::Text(text.to_str()?)
        } else if value.is_instance_of::<PyInt>() {
            Value::Int(value.extract()?)
        } else if value.is_instance_of::<PyFloat>() {
            Value::Double(value.extract()?)
        } else {
            let name = value.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "attribute {key} is a {name}, not bool, int, float or str"
            )));
        };
        push_attribute(key, &encoded, &mut run);
    }
    Ok(PyBytes::new(py, &run))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("MalformedRequest", module.py().get_type::<MalformedRequest>())?;
    module.add_class::<Request>()?;
    module.add_class::<Sampled>()?;
    module.add_class::<Span>()?;
    module.add_function(wrap_pyfunction!(encode_attributes, module)?)
}
