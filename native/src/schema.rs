//! The messages of an ExportTraceServiceRequest: what each field holds, and what it is called in OTLP/JSON.
//! Source: opentelemetry-proto 1.10, trace/v1 and common/v1. A test compares this with the descriptors.

/// What a length-delimited field holds, as far as telling a valid message from a malformed one needs it.
#[derive(Clone, Copy)]
pub enum Field {
    /// A number, bytes, or unknown: any content is valid.
    Opaque,
    Text,
    Message(&'static Message),
}

#[derive(Clone, Copy)]
pub enum Kind {
    Text,
    Bytes,
    /// Bytes that JSON has in hex, where other bytes are in base64.
    Id,
    Bool,
    Int32,
    Uint32,
    Int64,
    Fixed32,
    Fixed64,
    Double,
    /// Names of the values from 0 on.
    Enum(&'static [&'static str]),
    Message(&'static Message),
}

pub struct Named {
    /// In lowerCamelCase.
    pub name: &'static str,
    pub number: u32,
    pub kind: Kind,
    pub repeated: bool,
}

/// One more than the highest field number.
const NUMBERS: usize = 17;

pub struct Message {
    by_number: [Field; NUMBERS],
    /// In the order of the .proto file.
    pub fields: &'static [Named],
    /// Only one of the fields can be set, and then it counts also where it holds 0.
    pub one_of: bool,
}

impl Message {
    const fn new(fields: &'static [Named]) -> Self {
        let mut by_number = [Field::Opaque; NUMBERS];
        let mut at = 0;
        while at < fields.len() {
            by_number[fields[at].number as usize] = match fields[at].kind {
                Kind::Text => Field::Text,
                Kind::Message(message) => Field::Message(message),
                _ => Field::Opaque,
            };
            at += 1;
        }
        Self { by_number, fields, one_of: false }
    }

    const fn one_of(fields: &'static [Named]) -> Self {
        let Self { by_number, fields, .. } = Self::new(fields);
        Self { by_number, fields, one_of: true }
    }

    #[inline]
    pub fn field(&self, number: u32) -> Field {
        self.by_number.get(number as usize).copied().unwrap_or(Field::Opaque)
    }
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Named {
    Named { name, number, kind, repeated: false }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Named {
    Named { name, number, kind, repeated: true }
}

use Kind::{Bool, Bytes, Double, Enum, Fixed32, Fixed64, Id, Int32, Int64, Message as M, Text, Uint32};

const SPAN_KINDS: &[&str] = &[
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];
const STATUS_CODES: &[&str] = &["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

/// One of which nothing is known: any content of its fields is valid.
pub static ANY: Message = Message::new(&[]);
pub static REQUEST: Message = Message::new(&[many(1, "resourceSpans", M(&RESOURCE_SPANS))]);
pub static RESOURCE_SPANS: Message = Message::new(&[
    one(1, "resource", M(&RESOURCE)),
    many(2, "scopeSpans", M(&SCOPE_SPANS)),
    one(3, "schemaUrl", Text),
]);
pub static SCOPE_SPANS: Message =
    Message::new(&[one(1, "scope", M(&SCOPE)), many(2, "spans", M(&SPAN)), one(3, "schemaUrl", Text)]);
pub static SPAN: Message = Message::new(&[
    one(1, "traceId", Id),
    one(2, "spanId", Id),
    one(3, "traceState", Text),
    one(4, "parentSpanId", Id),
    one(16, "flags", Fixed32),
    one(5, "name", Text),
    one(6, "kind", Enum(SPAN_KINDS)),
    one(7, "startTimeUnixNano", Fixed64),
    one(8, "endTimeUnixNano", Fixed64),
    many(9, "attributes", M(&KEY_VALUE)),
    one(10, "droppedAttributesCount", Uint32),
    many(11, "events", M(&EVENT)),
    one(12, "droppedEventsCount", Uint32),
    many(13, "links", M(&LINK)),
    one(14, "droppedLinksCount", Uint32),
    one(15, "status", M(&STATUS)),
]);
pub static KEY_VALUE: Message =
    Message::new(&[one(1, "key", Text), one(2, "value", M(&ANY_VALUE)), one(3, "keyStrindex", Int32)]);
pub static RESOURCE: Message = Message::new(&[
    many(1, "attributes", M(&KEY_VALUE)),
    one(2, "droppedAttributesCount", Uint32),
    many(3, "entityRefs", M(&ENTITY_REF)),
]);
static ENTITY_REF: Message = Message::new(&[
    one(1, "schemaUrl", Text),
    one(2, "type", Text),
    many(3, "idKeys", Text),
    many(4, "descriptionKeys", Text),
]);
static SCOPE: Message = Message::new(&[
    one(1, "name", Text),
    one(2, "version", Text),
    many(3, "attributes", M(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Uint32),
]);
pub static ANY_VALUE: Message = Message::one_of(&[
    one(1, "stringValue", Text),
    one(2, "boolValue", Bool),
    one(3, "intValue", Int64),
    one(4, "doubleValue", Double),
    one(5, "arrayValue", M(&ARRAY_VALUE)),
    one(6, "kvlistValue", M(&KEY_VALUE_LIST)),
    one(7, "bytesValue", Bytes),
    one(8, "stringValueStrindex", Int32),
]);
static ARRAY_VALUE: Message = Message::new(&[many(1, "values", M(&ANY_VALUE))]);
static KEY_VALUE_LIST: Message = Message::new(&[many(1, "values", M(&KEY_VALUE))]);
static EVENT: Message = Message::new(&[
    one(1, "timeUnixNano", Fixed64),
    one(2, "name", Text),
    many(3, "attributes", M(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Uint32),
]);
static LINK: Message = Message::new(&[
    one(1, "traceId", Id),
    one(2, "spanId", Id),
    one(3, "traceState", Text),
    many(4, "attributes", M(&KEY_VALUE)),
    one(5, "droppedAttributesCount", Uint32),
    one(6, "flags", Fixed32),
]);
pub static STATUS: Message = Message::new(&[one(2, "message", Text), one(3, "code", Enum(STATUS_CODES))]);

/// Of grpc.health.v1.
pub static HEALTH_CHECK_REQUEST: Message = Message::new(&[one(1, "service", Text)]);
