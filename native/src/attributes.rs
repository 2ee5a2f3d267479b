//! Encodes span attributes as a run of fields that can stand at the end of any Span.
//! Source: opentelemetry-proto, trace/v1 Span.attributes (field 9), common/v1 KeyValue and AnyValue.

use crate::protobuf::{varint_bytes, varint_size};

const SPAN_ATTRIBUTES: u8 = 9 << 3 | 2;
const KEY: u8 = 1 << 3 | 2;
const VALUE: u8 = 2 << 3 | 2;
const STRING: u8 = 1 << 3 | 2;
const BOOL: u8 = 2 << 3;
const INT: u8 = 3 << 3;
const DOUBLE: u8 = 4 << 3 | 1;

pub enum Value<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
}

impl Value<'_> {
    fn size(&self) -> usize {
        1 + match self {
            Value::Bool(_) => 1,
            Value::Int(value) => varint_size(*value as u64),
            Value::Double(_) => 8,
            Value::Text(value) => varint_size(value.len() as u64) + value.len(),
        }
    }

    fn push(&self, run: &mut Vec<u8>) {
        match self {
            Value::Bool(value) => run.extend([BOOL, u8::from(*value)]),
            Value::Int(value) => {
                run.push(INT);
                push_varint(*value as u64, run);
            }
            Value::Double(value) => {
                run.push(DOUBLE);
                run.extend(value.to_le_bytes());
            }
            Value::Text(value) => push_delimited(STRING, value.as_bytes(), run),
        }
    }
}

/// Appends one attribute to the run.
pub fn push_attribute(key: &str, value: &Value, run: &mut Vec<u8>) {
    let value_size = value.size();
    let size =
        1 + varint_size(key.len() as u64) + key.len() + 1 + varint_size(value_size as u64) + value_size;
    run.push(SPAN_ATTRIBUTES);
    push_varint(size as u64, run);
    push_delimited(KEY, key.as_bytes(), run);
    run.push(VALUE);
    push_varint(value_size as u64, run);
    value.push(run);
}

fn push_varint(value: u64, run: &mut Vec<u8>) {
    run.extend_from_slice(&varint_bytes(value)[..varint_size(value)]);
}

pub fn push_delimited(tag: u8, bytes: &[u8], run: &mut Vec<u8>) {
    run.push(tag);
    push_varint(bytes.len() as u64, run);
    run.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::{validate, Reader};
    use crate::schema::{KEY_VALUE, SPAN};

    #[test]
    fn a_run_is_a_valid_span_of_attributes() {
        let mut run = Vec::new();
        push_attribute("flag", &Value::Bool(true), &mut run);
        push_attribute("count", &Value::Int(-1), &mut run);
        push_attribute("duration", &Value::Double(0.25), &mut run);
        push_attribute(&"long ".repeat(60), &Value::Text(&"é".repeat(9000)), &mut run);
        assert_eq!(validate(&run, &SPAN, 0), Ok(()));
        let mut reader = Reader::new(&run);
        let mut attributes = 0;
        while !reader.is_at_end() {
            assert_eq!(reader.tag(), Ok((9, 2)));
            assert_eq!(validate(reader.delimited().unwrap(), &KEY_VALUE, 0), Ok(()));
            attributes += 1;
        }
        assert_eq!(attributes, 4);
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let mut run = Vec::new();
        push_attribute("a", &Value::Int(300), &mut run);
        assert_eq!(run, [0x4a, 8, 0x0a, 1, b'a', 0x12, 3, 0x18, 0xac, 0x02]);
    }

    #[test]
    fn varint_size_is_where_a_varint_ends() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1 << shift, (1 << shift) + 1] {
                let bytes = varint_bytes(value);
                let end = bytes.iter().position(|byte| *byte < 0x80).unwrap() + 1;
                assert_eq!(end, varint_size(value), "{value}");
            }
        }
    }
}
