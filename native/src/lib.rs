//! The byte, span and event paths of enricher. Policy lives in Python; the border is crossed once per batch.
//!
//! Only `python` knows of Python; it wraps the others.
pub mod ascii;
pub mod attributes;
pub mod calls;
pub mod clock;
pub mod compression;
pub mod halves;
pub mod hash;
pub mod index;
pub mod json;
pub mod lineage;
pub mod log;
pub mod mapping;
pub mod matching;
pub mod prefetch;
pub mod protobuf;
#[cfg(feature = "extension-module")]
mod python;
pub mod queue;
pub mod recent;
pub mod records;
pub mod ring;
pub mod sampling;
pub mod scalars;
pub mod schema;
pub mod span_ends;
pub mod splice;
pub mod trace_state;
pub mod transport;
pub mod unprobed;
pub mod waits;
pub mod wire;

#[cfg(feature = "extension-module")]
use pyo3::prelude::*;

#[cfg(feature = "extension-module")]
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    python::request::register(module)?;
    python::json::register(module)?;
    python::log::register(module)?;
    python::sending::register(module)?;
    python::queue::register(module)?;
    python::transport::register(module)?;
    python::evidence::register(module)
}
