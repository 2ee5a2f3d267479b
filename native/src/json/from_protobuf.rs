//! Protobuf in, JSON out, as the collector writes it: one line, fields in the order of the .proto file, what
//! holds its default left out, 64-bit integers in quotes, ids in hex. A field that came more than once is
//! what protobuf makes of it: the last one, or for a message all of them together. Unknown fields have no
//! name, so JSON cannot tell them.

use std::ops::Range;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;

use crate::protobuf::{validate, Malformed, Reader, FIXED32, FIXED64, LENGTH, VARINT};
use crate::schema::{Kind, Message, Named, REQUEST};

/// Protobuf has no longer messages; positions here have 32 bits.
const MAX_SIZE: usize = i32::MAX as usize;

/// One line without its end. At most 14 times as long as `body`.
pub fn from_protobuf(body: &[u8]) -> Result<Vec<u8>, Malformed> {
    if body.len() > MAX_SIZE {
        return Err(Malformed);
    }
    validate(body, &REQUEST, 0)?;
    let mut writer = Writer {
        body,
        out: Vec::with_capacity(3 * body.len() + 2),
        found: vec![],
        pieces: vec![(0, body.len())],
    };
    writer.message(&REQUEST, 0..1)?;
    Ok(writer.out)
}

/// A field as it came.
#[derive(Clone, Copy)]
struct Found {
    /// Its place in `Message::fields`.
    field: u32,
    /// Of a number its bits, of all else where it starts and ends in the body.
    value: Value,
}

#[derive(Clone, Copy)]
enum Value {
    Bits(u64),
    Place(u32, u32),
}

struct Writer<'a> {
    body: &'a [u8],
    out: Vec<u8>,
    /// The fields of all messages from the outermost to the one that is being written.
    found: Vec<Found>,
    /// Where the content of these messages is; in more than one piece, if the field came more than once.
    pieces: Vec<(usize, usize)>,
}

impl Writer<'_> {
    fn message(&mut self, message: &'static Message, pieces: Range<usize>) -> Result<(), Malformed> {
        let first = self.found.len();
        for piece in pieces {
            self.find_fields(message, self.pieces[piece])?;
        }
        if message.one_of {
            self.keep_last(first);
        } else if !self.found[first..].is_sorted_by_key(|found| found.field) {
            self.found[first..].sort_by_key(|found| found.field); // keeps the order of equal ones
        }
        self.out.push(b'{');
        let before = self.out.len();
        let mut from = first;
        while let Some(Found { field, .. }) = self.found.get(from).copied() {
            let same = self.found[from..].iter().take_while(|found| found.field == field).count();
            let start = self.out.len();
            if start > before {
                self.out.push(b',');
            }
            if !self.field(&message.fields[field as usize], from..from + same, message.one_of)? {
                self.out.truncate(start);
            }
            from += same;
        }
        self.out.push(b'}');
        self.found.truncate(first);
        Ok(())
    }

    /// Appends those of a message to `found`, in the order in which they came.
    fn find_fields(&mut self, message: &'static Message, (at, end): (usize, usize)) -> Result<(), Malformed> {
        let mut reader = Reader { bytes: self.body, at, end };
        while !reader.is_at_end() {
            let (number, wire) = reader.tag()?;
            let known =
                message.fields.iter().position(|field| field.number == number && wire_of(field.kind) == wire);
            let Some(field) = known else {
                reader.check(number, wire, message, 0)?;
                continue;
            };
            let value = match wire {
                VARINT => Value::Bits(reader.varint()?),
                FIXED64 => Value::Bits(reader.fixed64()?),
                FIXED32 => Value::Bits(reader.fixed32()?.into()),
                _ => {
                    let (start, end) = reader.range()?;
                    Value::Place(start as u32, end as u32)
                }
            };
            self.found.push(Found { field: field as u32, value });
        }
        Ok(())
    }

    /// Of fields that exclude each other the last counts, with those of its kind that came right before it.
    fn keep_last(&mut self, first: usize) {
        let Some(last) = self.found[first..].last().copied() else { return };
        let same = self.found[first..].iter().rev().take_while(|found| found.field == last.field).count();
        self.found.drain(first..self.found.len() - same);
    }

    /// Writes a name and what all of these are together. False if that is the default, which is left out.
    fn field(
        &mut self,
        field: &'static Named,
        found: Range<usize>,
        keeps_zero: bool,
    ) -> Result<bool, Malformed> {
        self.out.push(b'"');
        self.out.extend_from_slice(field.name.as_bytes());
        self.out.extend_from_slice(b"\":");
        let last = found.end - 1;
        match field.kind {
            _ if field.repeated => {
                self.out.push(b'[');
                for at in found {
                    self.item(field, at)?;
                    self.out.push(b',');
                }
                self.out.pop();
                self.out.push(b']');
                Ok(true)
            }
            Kind::Message(message) => self.merged(message, found).map(|()| true),
            kind => match self.found[last].value {
                Value::Bits(bits) => Ok(self.number(kind, bits) || keeps_zero),
                Value::Place(start, end) => {
                    self.text(kind, start as usize..end as usize)?;
                    Ok(start != end || keeps_zero)
                }
            },
        }
    }

    fn item(&mut self, field: &'static Named, at: usize) -> Result<(), Malformed> {
        match (field.kind, self.found[at].value) {
            (Kind::Message(message), _) => self.merged(message, at..at + 1),
            (kind, Value::Place(start, end)) => self.text(kind, start as usize..end as usize),
            (kind, Value::Bits(bits)) => {
                self.number(kind, bits);
                Ok(())
            }
        }
    }

    fn merged(&mut self, message: &'static Message, found: Range<usize>) -> Result<(), Malformed> {
        let first = self.pieces.len();
        self.pieces.extend(self.found[found].iter().filter_map(|found| match found.value {
            Value::Place(start, end) => Some((start as usize, end as usize)),
            Value::Bits(_) => None,
        }));
        self.message(message, first..self.pieces.len())?;
        self.pieces.truncate(first);
        Ok(())
    }

    fn text(&mut self, kind: Kind, place: Range<usize>) -> Result<(), Malformed> {
        let bytes = &self.body[place];
        if let Kind::Text = kind {
            return push_json(&mut self.out, std::str::from_utf8(bytes).map_err(|_| Malformed)?);
        }
        self.out.push(b'"');
        if let Kind::Id = kind {
            let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
            self.out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
        } else {
            self.out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
        }
        self.out.push(b'"');
        Ok(())
    }

    /// False if it is 0.
    fn number(&mut self, kind: Kind, bits: u64) -> bool {
        // Of what is wider than its type protobuf takes the lower half.
        let result = match kind {
            Kind::Bool => push_json(&mut self.out, &(bits != 0)),
            Kind::Double => self.double(f64::from_bits(bits)),
            Kind::Int32 | Kind::Enum(_) => push_json(&mut self.out, &(bits as i32)),
            Kind::Uint32 | Kind::Fixed32 => push_json(&mut self.out, &(bits as u32)),
            Kind::Int64 => push_quoted(&mut self.out, &(bits as i64)),
            _ => push_quoted(&mut self.out, &bits),
        };
        let is_wide = matches!(kind, Kind::Bool | Kind::Double | Kind::Int64 | Kind::Fixed64);
        result.is_ok() && if is_wide { bits != 0 } else { bits as u32 != 0 }
    }

    fn double(&mut self, value: f64) -> Result<(), Malformed> {
        let name = match value {
            f64::INFINITY => "Infinity",
            f64::NEG_INFINITY => "-Infinity",
            _ if value.is_nan() => "NaN",
            _ => return push_json(&mut self.out, &value),
        };
        push_json(&mut self.out, name)
    }
}

fn push_quoted(out: &mut Vec<u8>, value: &impl serde_core::Serialize) -> Result<(), Malformed> {
    out.push(b'"');
    push_json(out, value)?;
    out.push(b'"');
    Ok(())
}

/// Escapes what has to be, line ends among it. Writing such values to memory does not fail.
fn push_json(out: &mut Vec<u8>, value: &(impl serde_core::Serialize + ?Sized)) -> Result<(), Malformed> {
    serde_json::to_writer(out, value).map_err(|_| Malformed)
}

fn wire_of(kind: Kind) -> u32 {
    match kind {
        Kind::Text | Kind::Bytes | Kind::Id | Kind::Message(_) => LENGTH,
        Kind::Bool | Kind::Int32 | Kind::Uint32 | Kind::Int64 | Kind::Enum(_) => VARINT,
        Kind::Fixed32 => FIXED32,
        Kind::Fixed64 | Kind::Double => FIXED64,
    }
}
