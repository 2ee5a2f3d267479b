//! One walk over a serialised ExportTraceServiceRequest: it is valid or not, exactly as protobuf would find
//! it, and its spans are told with what a join needs to know of them. And its counterpart: the same bytes
//! with attributes added to some spans.
//! Nothing is decoded and encoded again: unknown fields, repeated fields and odd encodings leave as they came.

use crate::ascii;
use crate::protobuf::{check_content, Malformed, Reader, FIXED64, LENGTH, VARINT};
use crate::schema::{Field, KEY_VALUE, REQUEST, RESOURCE_SPANS, SCOPE_SPANS, SPAN, STATUS as STATUS_MESSAGE};

// Tags of one byte: field number and wire type. FLAGS has a second byte, 1.
const TRACE_ID: u8 = 1 << 3 | 2;
const SPAN_ID: u8 = 2 << 3 | 2;
const TRACE_STATE: u8 = 3 << 3 | 2;
const PARENT_SPAN_ID: u8 = 4 << 3 | 2;
const NAME: u8 = 5 << 3 | 2;
const KIND: u8 = 6 << 3;
const START: u8 = 7 << 3 | 1;
const END: u8 = 8 << 3 | 1;
const STATUS: u8 = 15 << 3 | 2;
const STATUS_CODE: u8 = 3 << 3;
const FLAGS: u8 = (16 << 3 | 5) & 0x7f | 0x80;
const ATTRIBUTE: u8 = 9 << 3 | 2;
const KEY: u8 = 1 << 3 | 2;
const VALUE: u8 = 2 << 3 | 2;
const STRING_VALUE: u8 = 1 << 3 | 2;
const BOOL_VALUE: u8 = 2 << 3;
const INT_VALUE: u8 = 3 << 3;
const DOUBLE_VALUE: u8 = 4 << 3 | 1;

/// Room for spans is made by this; more is made when they are smaller.
const USUAL_SPAN_SIZE: usize = 400;

/// One that is not ASCII has those before it looked at again, and so has each that follows: more would let a
/// single span of half a million attributes be looked through half a million times.
const ATTRIBUTES_AT_ONCE: usize = 32;

/// How deep a span is nested: request, ResourceSpans, ScopeSpans, Span.
const SPAN_DEPTH: u32 = 3;

const TRACE_STATE_NUMBER: u32 = 3;
const STATUS_ERROR: i32 = 2;

pub const KIND_SERVER: i32 = 2;
pub const KIND_CONSUMER: i32 = 5;

/// A length-delimited field: where its length stands, and its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub length_at: u32,
    pub start: u32,
    pub end: u32,
}

/// What a join needs to know of a span. Of ids that are not 16 and 8 bytes long nothing is kept: such a span
/// is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanRecord {
    pub trace_id: [u8; 16],
    pub span_id: u64,
    pub start_unix_ns: u64,
    pub end_unix_ns: u64,
    pub kind: i32,
    pub extent: Extent,
    /// Of its ScopeSpans in `Scan::scopes`.
    pub scope: u32,
    pub has_ids: bool,
    pub has_parent: bool,
    /// Its status is ERROR.
    pub is_error: bool,
    /// It has one that is not empty; what it says, `Scan::trace_state` reads.
    pub has_trace_state: bool,
}

impl SpanRecord {
    /// Whether a response can be written after the span's end. Not of consumers and of spans without a parent:
    /// what their goroutine writes next may be of their next job, which nothing is read for in between.
    #[inline]
    pub fn can_have_tail(&self) -> bool {
        self.kind == KIND_SERVER
    }
}

/// All fields of a span that are read, as they came; the last of a repeated field counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanFields<'a> {
    pub trace_id: &'a [u8],
    pub span_id: &'a [u8],
    pub parent_span_id: &'a [u8],
    pub trace_state: &'a [u8],
    pub kind: i32,
    pub start_unix_ns: u64,
    pub end_unix_ns: u64,
    pub status_code: i32,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    pub spans: Vec<SpanRecord>,
    /// Each ScopeSpans, and which of `resources` it is in.
    pub scopes: Vec<(Extent, u32)>,
    pub resources: Vec<Extent>,
    pub last_end_unix_ns: u64,
    /// Over the spans that can have a tail.
    pub last_tail_end_unix_ns: u64,
}

/// Reads a whole request.
pub fn scan(body: &[u8]) -> Result<Scan, Malformed> {
    // The same code, compiled for what most processors can: 5 % less time.
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
        // SAFETY: the processor has what it is compiled for.
        return unsafe { scan_avx2(body) };
    }
    scan_request(body)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn scan_avx2(body: &[u8]) -> Result<Scan, Malformed> {
    scan_request(body)
}

/// Positions are 32 bits, as protobuf itself ends at 2 GiB.
#[inline(always)]
fn scan_request(body: &[u8]) -> Result<Scan, Malformed> {
    if body.len() > i32::MAX as usize {
        return Err(Malformed);
    }
    let mut scan = Scan { spans: Vec::with_capacity(body.len() / USUAL_SPAN_SIZE + 1), ..Scan::default() };
    let mut reader = Reader::new(body);
    while !reader.is_at_end() {
        let (number, wire) = reader.tag()?;
        if (number, wire) == (1, LENGTH) {
            let extent = extent(&mut reader)?;
            scan.resources.push(extent);
            scan_resource(within(body, extent), &mut scan)?;
        } else {
            reader.check(number, wire, &REQUEST, 0)?;
        }
    }
    Ok(scan)
}

#[inline(always)]
fn extent(reader: &mut Reader) -> Result<Extent, Malformed> {
    let length_at = reader.at as u32;
    let (start, end) = reader.range()?;
    Ok(Extent { length_at, start: start as u32, end: end as u32 })
}

#[inline(always)]
fn within(body: &[u8], extent: Extent) -> Reader<'_> {
    Reader { bytes: body, at: extent.start as usize, end: extent.end as usize }
}

#[inline(always)]
fn scan_resource(mut reader: Reader, scan: &mut Scan) -> Result<(), Malformed> {
    let resource = scan.resources.len() as u32 - 1;
    while !reader.is_at_end() {
        let (number, wire) = reader.tag()?;
        if (number, wire) == (2, LENGTH) {
            let extent = extent(&mut reader)?;
            scan.scopes.push((extent, resource));
            scan_scope(within(reader.bytes, extent), scan)?;
        } else {
            reader.check(number, wire, &RESOURCE_SPANS, 1)?;
        }
    }
    Ok(())
}

#[inline(always)]
fn scan_scope(mut reader: Reader, scan: &mut Scan) -> Result<(), Malformed> {
    let scope = scan.scopes.len() as u32 - 1;
    while !reader.is_at_end() {
        let (number, wire) = reader.tag()?;
        if (number, wire) == (2, LENGTH) {
            let extent = extent(&mut reader)?;
            let fields = read_span(within(reader.bytes, extent))?;
            add_span(&fields, extent, scope, scan);
        } else {
            reader.check(number, wire, &SCOPE_SPANS, 2)?;
        }
    }
    Ok(())
}

#[inline(always)]
fn add_span(fields: &SpanFields, extent: Extent, scope: u32, scan: &mut Scan) {
    let ids = <[u8; 16]>::try_from(fields.trace_id).ok().zip(<[u8; 8]>::try_from(fields.span_id).ok());
    let (trace_id, span_id) = ids.unwrap_or_default();
    let span = SpanRecord {
        trace_id,
        span_id: u64::from_le_bytes(span_id),
        start_unix_ns: fields.start_unix_ns,
        end_unix_ns: fields.end_unix_ns,
        kind: fields.kind,
        extent,
        scope,
        has_ids: ids.is_some(),
        has_parent: !fields.parent_span_id.is_empty(),
        is_error: fields.status_code == STATUS_ERROR,
        has_trace_state: !fields.trace_state.is_empty(),
    };
    scan.last_end_unix_ns = scan.last_end_unix_ns.max(span.end_unix_ns);
    if span.can_have_tail() {
        scan.last_tail_end_unix_ns = scan.last_tail_end_unix_ns.max(span.end_unix_ns);
    }
    scan.spans.push(span);
}

/// Reads and checks one span. What SDKs write, in the order of field numbers, has short ways.
#[inline(always)]
fn read_span<'a>(mut reader: Reader<'a>) -> Result<SpanFields<'a>, Malformed> {
    let mut fields = read_plain_head(&mut reader);
    skip_plain_attributes(&mut reader);
    fields.status_code = read_plain_tail(&mut reader);
    while !reader.is_at_end() {
        match reader.tag()? {
            (1, LENGTH) => fields.trace_id = reader.delimited()?,
            (2, LENGTH) => fields.span_id = reader.delimited()?,
            (TRACE_STATE_NUMBER, LENGTH) => {
                fields.trace_state = reader.delimited()?;
                check_content(fields.trace_state, Field::Text, SPAN_DEPTH)?;
            }
            (4, LENGTH) => fields.parent_span_id = reader.delimited()?,
            (6, VARINT) => fields.kind = reader.varint()? as i32,
            (7, FIXED64) => fields.start_unix_ns = reader.fixed64()?,
            (8, FIXED64) => {
                fields.end_unix_ns = reader.fixed64()?;
                skip_plain_attributes(&mut reader);
            }
            (9, LENGTH) => {
                check_content(reader.delimited()?, Field::Message(&KEY_VALUE), SPAN_DEPTH)?;
                skip_plain_attributes(&mut reader);
            }
            (15, LENGTH) => merge_status(reader.delimited()?, &mut fields.status_code)?,
            (number, wire) => reader.check(number, wire, &SPAN, SPAN_DEPTH)?,
        }
    }
    Ok(fields)
}

/// Of a Status that is there more than once, protobuf merges what each says.
#[cold]
fn merge_status(status: &[u8], code: &mut i32) -> Result<(), Malformed> {
    let mut reader = Reader::new(status);
    while !reader.is_at_end() {
        match reader.tag()? {
            (3, VARINT) => *code = reader.varint()? as i32,
            (number, wire) => reader.check(number, wire, &STATUS_MESSAGE, SPAN_DEPTH + 1)?,
        }
    }
    Ok(())
}

/// Reads from a span's ids to its end time, if it begins as SDKs write it. If not, reads nothing.
#[inline(always)]
fn read_plain_head<'a>(reader: &mut Reader<'a>) -> SpanFields<'a> {
    plain_head(&reader.bytes[reader.at..reader.end]).map_or_else(SpanFields::default, |(size, fields)| {
        reader.at += size;
        fields
    })
}

#[inline(always)]
fn plain_head(span: &[u8]) -> Option<(usize, SpanFields<'_>)> {
    let (ids, mut rest) = span.split_first_chunk::<28>()?;
    if ids[..2] != [TRACE_ID, 16] || ids[18..20] != [SPAN_ID, 8] {
        return None;
    }
    let mut trace_state: &[u8] = &[];
    if let [TRACE_STATE, size @ 0..0x80, after @ ..] = rest {
        (trace_state, rest) = after.split_at_checked(usize::from(*size))?;
    }
    let mut parent_span_id: &[u8] = &[];
    if let [PARENT_SPAN_ID, 8, after @ ..] = rest {
        (parent_span_id, rest) = after.split_at_checked(8)?;
    }
    let [NAME, size, after @ ..] = rest else { return None };
    let (name, rest) = after.split_at_checked(usize::from(*size))?;
    let times = rest.first_chunk::<20>()?;
    let plain = *size < 0x80 && times[0] == KIND && times[1] < 0x80 && times[2] == START && times[11] == END;
    if !plain || !name.is_ascii() || !trace_state.is_ascii() {
        return None;
    }
    let fields = SpanFields {
        trace_id: &ids[2..18],
        span_id: &ids[20..],
        parent_span_id,
        trace_state,
        kind: times[1].into(),
        start_unix_ns: u64::from_le_bytes(*times[3..].first_chunk()?),
        end_unix_ns: u64::from_le_bytes(*times[12..].first_chunk()?),
        status_code: 0,
    };
    Some((span.len() - rest.len() + times.len(), fields))
}

/// Reads a status without a message, and steps over flags. The status code; 0 is that of none.
#[inline(always)]
fn read_plain_tail(reader: &mut Reader) -> i32 {
    let mut rest = &reader.bytes[reader.at..reader.end];
    let mut code = 0;
    match rest {
        [STATUS, 0, after @ ..] => rest = after,
        [STATUS, 2, STATUS_CODE, value @ 0..0x80, after @ ..] => (code, rest) = (i32::from(*value), after),
        _ => (),
    }
    if let [FLAGS, 1, _, _, _, _, after @ ..] = rest {
        rest = after;
    }
    reader.at = reader.end - rest.len();
    code
}

/// Most of a request's bytes are attributes of spans, so these have a short way: steps over all that follow
/// and are as SDKs write them: tags and lengths of one byte each, first the key and then a string, bool, int
/// or double. Stops at the first that is not so, or not valid.
/// Only the shape is looked at one by one. That tags, lengths and text are ASCII is found for many of them in
/// one pass at vector speed: when exactly as many bytes have their high bit set as those of the numbers do.
#[inline(always)]
fn skip_plain_attributes(reader: &mut Reader) {
    loop {
        let mut rest = &reader.bytes[reader.at..reader.end];
        let mut high = 0;
        for _ in 0..ATTRIBUTES_AT_ONCE {
            let Some((size, high_in_number)) = plain_attribute(rest) else { break };
            high += high_in_number;
            rest = &rest[size..];
        }
        let end = reader.end - rest.len();
        if end == reader.at || ascii::count_high(&reader.bytes[reader.at..end]) != high {
            return;
        }
        reader.at = end;
    }
}

/// The size of the attribute that `rest` begins with, if it has the plain shape, and how many bytes of its
/// value have their high bit set, if it is a number. Lengths are taken as if they were one byte, which the
/// caller checks.
#[inline(always)]
fn plain_attribute(rest: &[u8]) -> Option<(usize, usize)> {
    let [tag, size, key_tag, key_size, after @ ..] = rest else { return None };
    let (size, key_size) = (usize::from(*size), usize::from(*key_size));
    // In a value of two bytes or more, there are four from its tag on.
    if *tag != ATTRIBUTE || *key_tag != KEY || size < key_size + 6 || size - 2 > after.len() {
        return None;
    }
    let [value_tag, value_size, kind, first] = *after[key_size..].first_chunk()?;
    let value_size = usize::from(value_size);
    if value_tag != VALUE || key_size + 4 + value_size != size {
        return None;
    }
    if kind == STRING_VALUE {
        return (usize::from(first) + 2 == value_size).then_some((2 + size, 0));
    }
    let high = u64::from_le_bytes(*rest[..2 + size].last_chunk()?) & ascii::HIGH_BITS;
    match kind {
        // A varint, of up to eight bytes here: all have the high bit set, but for the last.
        INT_VALUE | BOOL_VALUE if (2..=9).contains(&value_size) => {
            let unrelated = 72 - 8 * value_size as u32;
            let all_but_last = ascii::HIGH_BITS << 8 >> 8 >> unrelated;
            (high >> unrelated == all_but_last).then_some((2 + size, value_size - 2))
        }
        DOUBLE_VALUE if value_size == 9 => Some((2 + size, high.count_ones() as usize)),
        _ => None,
    }
}

impl Scan {
    /// An empty one with room for so many spans.
    pub fn with_room(spans: usize) -> Self {
        Self { spans: Vec::with_capacity(spans), ..Self::default() }
    }

    /// Makes it the scan of its body and, behind that, of another one: requests concatenate. `at`: where the
    /// other body begins.
    pub fn append(&mut self, other: &Self, at: u32) {
        let moved = |extent: Extent| Extent {
            length_at: extent.length_at + at,
            start: extent.start + at,
            end: extent.end + at,
        };
        let (scopes, resources) = (self.scopes.len() as u32, self.resources.len() as u32);
        self.spans.extend(other.spans.iter().map(|span| SpanRecord {
            extent: moved(span.extent),
            scope: span.scope + scopes,
            ..*span
        }));
        self.scopes.extend(other.scopes.iter().map(|(extent, of)| (moved(*extent), of + resources)));
        self.resources.extend(other.resources.iter().map(|extent| moved(*extent)));
        self.last_end_unix_ns = self.last_end_unix_ns.max(other.last_end_unix_ns);
        self.last_tail_end_unix_ns = self.last_tail_end_unix_ns.max(other.last_tail_end_unix_ns);
    }

    /// All that is read of one span, from the body that was scanned.
    pub fn fields<'a>(&self, body: &'a [u8], ordinal: usize) -> SpanFields<'a> {
        // It was read before without an error, and a Request never changes.
        read_span(within(body, self.spans[ordinal].extent)).unwrap_or_default()
    }

    /// The field that holds a span's tracestate, which is the last of them; None if there is none.
    pub fn trace_state(&self, body: &[u8], ordinal: usize) -> Option<Extent> {
        let mut reader = within(body, self.spans[ordinal].extent);
        let mut found = None;
        while !reader.is_at_end() {
            match reader.tag().ok()? {
                (TRACE_STATE_NUMBER, LENGTH) => found = extent(&mut reader).ok(),
                (number, wire) => reader.skip(number, wire, SPAN_DEPTH).ok()?,
            }
        }
        found
    }
}

#[cfg(test)]
pub mod tests;
