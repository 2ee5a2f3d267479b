//! The classes of `enricher._native`. Each file wraps one of the modules above it; what they mean is said in
//! enricher/_native.pyi.
pub mod evidence;
pub mod json;
pub mod log;
pub mod queue;
pub mod request;
pub mod sending;
pub mod transport;
