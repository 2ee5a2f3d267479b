//! The messages of an ExportTraceServiceRequest, as far as telling a valid one from a malformed one needs
//! them: which fields hold text (must be UTF-8) and which hold messages (must be valid themselves). All
//! others are skipped by their wire type, as unknown fields are. Source: opentelemetry-proto 1.10, trace/v1
//! and common/v1. A test compares this with the descriptors.

/// What a length-delimited field holds.
#[derive(Clone, Copy)]
pub enum Field {
    /// A number, bytes, or unknown: any content is valid.
    Opaque,
    Text,
    Message(&'static Message),
}

/// Its fields by number.
pub struct Message(&'static [Field]);

impl Message {
    #[inline]
    pub fn field(&self, number: u32) -> Field {
        self.0.get(number as usize).copied().unwrap_or(Field::Opaque)
    }
}

use Field::{Message as M, Opaque as O, Text as T};

pub static REQUEST: Message = Message(&[O, M(&RESOURCE_SPANS)]);
pub static RESOURCE_SPANS: Message = Message(&[O, M(&RESOURCE), M(&SCOPE_SPANS), T]);
pub static SCOPE_SPANS: Message = Message(&[O, M(&SCOPE), M(&SPAN), T]);
pub static SPAN: Message =
    Message(&[O, O, O, T, O, T, O, O, O, M(&KEY_VALUE), O, M(&EVENT), O, M(&LINK), O, M(&STATUS), O]);
pub static KEY_VALUE: Message = Message(&[O, T, M(&ANY_VALUE)]);
pub static RESOURCE: Message = Message(&[O, M(&KEY_VALUE), O, M(&ENTITY_REF)]);
static ENTITY_REF: Message = Message(&[O, T, T, T, T]);
static SCOPE: Message = Message(&[O, T, T, M(&KEY_VALUE), O]);
pub static ANY_VALUE: Message = Message(&[O, T, O, O, O, M(&ARRAY_VALUE), M(&KEY_VALUE_LIST), O]);
static ARRAY_VALUE: Message = Message(&[O, M(&ANY_VALUE)]);
static KEY_VALUE_LIST: Message = Message(&[O, M(&KEY_VALUE)]);
static EVENT: Message = Message(&[O, O, T, M(&KEY_VALUE), O]);
static LINK: Message = Message(&[O, O, O, T, M(&KEY_VALUE), O, O]);
static STATUS: Message = Message(&[O, O, T, O]);
