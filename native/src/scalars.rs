//! Single attributes of spans and resources, read on demand: for the few spans that nothing better ties to a process.

use crate::protobuf::{Malformed, Reader, FIXED64, LENGTH, VARINT};
use crate::schema::{Message, ANY_VALUE, KEY_VALUE, RESOURCE, RESOURCE_SPANS, SPAN};
use crate::wire::{Extent, Scan};

/// What a body that was scanned may nest; it was checked then.
const DEPTH: u32 = 4;
const SPAN_ATTRIBUTES: u32 = 9;
const RESOURCE_ATTRIBUTES: u32 = 1;
const RESOURCE_OF_SPANS: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<'a> {
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
}

/// Key and value of those wanted, as they come; arrays and maps are left out.
pub type Found<'a> = Vec<(&'a str, Scalar<'a>)>;

pub fn of_span<'a>(scan: &Scan, body: &'a [u8], ordinal: usize, wanted: impl Fn(&str) -> bool) -> Found<'a> {
    let mut found = vec![];
    let span = slice(body, scan.spans[ordinal].extent);
    let _ = attributes(span, SPAN_ATTRIBUTES, &SPAN, &wanted, &mut found); // what was scanned is well-formed
    found
}

/// The Resource messages of a ResourceSpans, which protobuf merges if there is more than one.
pub fn resources(body: &[u8], resource_spans: Extent) -> Vec<&[u8]> {
    let mut found = vec![];
    let mut reader = Reader::new(slice(body, resource_spans));
    while let Ok((number, wire)) = if reader.is_at_end() { Err(Malformed) } else { reader.tag() } {
        let read = if (number, wire) == (RESOURCE_OF_SPANS, LENGTH) {
            reader.delimited().map(|resource| found.push(resource))
        } else if wire == LENGTH {
            reader.delimited().map(drop) // the spans, which were checked when they were scanned
        } else {
            reader.check(number, wire, &RESOURCE_SPANS, 1)
        };
        if read.is_err() {
            break;
        }
    }
    found
}

pub fn of_resource<'a>(body: &'a [u8], resource_spans: Extent, wanted: impl Fn(&str) -> bool) -> Found<'a> {
    let mut found = vec![];
    for resource in resources(body, resource_spans) {
        let _ = attributes(resource, RESOURCE_ATTRIBUTES, &RESOURCE, &wanted, &mut found);
        // as above
    }
    found
}

fn slice(body: &[u8], extent: Extent) -> &[u8] {
    &body[extent.start as usize..extent.end as usize]
}

fn attributes<'a>(
    bytes: &'a [u8],
    field: u32,
    message: &Message,
    wanted: &impl Fn(&str) -> bool,
    found: &mut Found<'a>,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(bytes);
    while !reader.is_at_end() {
        let (number, wire) = reader.tag()?;
        if (number, wire) == (field, LENGTH) {
            found.extend(key_value(reader.delimited()?)?.filter(|(key, _)| wanted(key)));
        } else {
            reader.check(number, wire, message, DEPTH)?;
        }
    }
    Ok(())
}

fn key_value(bytes: &[u8]) -> Result<Option<(&str, Scalar<'_>)>, Malformed> {
    let (mut key, mut value) = ("", None);
    let mut reader = Reader::new(bytes);
    while !reader.is_at_end() {
        match reader.tag()? {
            (1, LENGTH) => key = text(reader.delimited()?)?,
            (2, LENGTH) => value = scalar(reader.delimited()?)?.or(value),
            (number, wire) => reader.check(number, wire, &KEY_VALUE, DEPTH)?,
        }
    }
    Ok(value.map(|value| (key, value)))
}

fn scalar(bytes: &[u8]) -> Result<Option<Scalar<'_>>, Malformed> {
    let mut value = None;
    let mut reader = Reader::new(bytes);
    while !reader.is_at_end() {
        match reader.tag()? {
            (1, LENGTH) => value = Some(Scalar::Text(text(reader.delimited()?)?)),
            (2, VARINT) => value = Some(Scalar::Bool(reader.varint()? != 0)),
            (3, VARINT) => value = Some(Scalar::Int(reader.varint()? as i64)),
            (4, FIXED64) => value = Some(Scalar::Double(f64::from_bits(reader.fixed64()?))),
            (number, wire) => {
                value = None; // another kind of value, which is the one that counts
                reader.check(number, wire, &ANY_VALUE, DEPTH)?;
            }
        }
    }
    Ok(value)
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed)
}
