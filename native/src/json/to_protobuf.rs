//! JSON in, protobuf out, in one pass: serde_json reads, and what it finds is written at once. The length
//! before a message is known only behind it, so one byte is left free and the message moved where that is
//! too few: every byte is moved at most once for each message around it.

use std::fmt::{self, Write as _};

use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::Engine as _;
use serde_core::de::{self, DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{JsonError, MAX_PATH};
use crate::protobuf::{varint_bytes, varint_size, FIXED32, FIXED64, LENGTH, MAX_DEPTH, VARINT};
use crate::schema::{Kind, Message, Named, REQUEST};

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, LENIENT);

/// The request as protobuf, of at most `limit` bytes. What is in the fewest bytes in JSON is not longer in
/// protobuf, so memory is bounded by the text.
pub fn to_protobuf(json: &[u8], limit: usize) -> Result<Vec<u8>, JsonError> {
    let text = std::str::from_utf8(json).map_err(|error| JsonError {
        too_large: false,
        path: String::new(),
        at: error.valid_up_to(),
        problem: "not UTF-8".to_owned(),
    })?;
    let mut writer =
        Writer { out: Vec::with_capacity((json.len() / 2).min(limit)), limit, ..Writer::default() };
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.disable_recursion_limit(); // messages have their own, and what is unknown is skipped without
    match reader.deserialize_any(Whole(&mut writer)).and_then(|()| reader.end()) {
        Ok(()) => Ok(writer.out),
        Err(error) => Err(writer.explain(&error, text)),
    }
}

/// A step on the way to an error.
enum Step {
    Field(&'static str),
    Item(usize),
}

enum Problem {
    Says(&'static str),
    TooLarge,
}

#[derive(Default)]
struct Writer {
    out: Vec<u8>,
    limit: usize,
    /// How deep the message that is being written is nested.
    depth: u32,
    /// Where an error is, from the inside out. Filled on the way back.
    path: Vec<Step>,
    problem: Option<Problem>,
}

impl Writer {
    fn fail<E: de::Error>(&mut self, problem: Problem) -> E {
        self.problem = Some(problem);
        E::custom("") // what is said is made by `explain`
    }

    fn fail_type<E: de::Error>(&mut self, field: &Named, is_item: bool) -> E {
        let expected = match field.kind {
            _ if field.repeated && !is_item => "expected an array",
            Kind::Text => "expected a string",
            Kind::Bytes => "expected a string of base64",
            Kind::Id => "expected a string of hexadecimal digits",
            Kind::Bool => "expected true or false",
            Kind::Int32 | Kind::Int64 => "expected an integer in range",
            Kind::Uint32 | Kind::Fixed32 | Kind::Fixed64 => "expected an unsigned integer in range",
            Kind::Double => "expected a number",
            Kind::Enum(_) => "expected a number or name of this enum",
            Kind::Message(_) => "expected an object",
        };
        self.fail(Problem::Says(expected))
    }

    fn explain(self, error: &serde_json::Error, text: &str) -> JsonError {
        let said = error.to_string();
        let (too_large, problem) = match self.problem {
            Some(Problem::TooLarge) => (true, format!("longer than {} bytes as protobuf", self.limit)),
            Some(Problem::Says(problem)) => (false, problem.to_owned()),
            // The parser's own words, without its notion of where. It repeats no content.
            None => (false, said.split(" at line ").next().unwrap_or_default().to_owned()),
        };
        let line_start =
            text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
        JsonError { too_large, path: path_text(&self.path), at: line_start + error.column(), problem }
    }

    fn put<E: de::Error>(&mut self, bytes: &[u8]) -> Result<(), E> {
        if self.out.len() + bytes.len() > self.limit {
            return Err(self.fail(Problem::TooLarge));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn put_varint<E: de::Error>(&mut self, value: u64) -> Result<(), E> {
        self.put(&varint_bytes(value)[..varint_size(value)])
    }

    fn put_tag<E: de::Error>(&mut self, number: u32, wire: u32) -> Result<(), E> {
        self.put_varint(u64::from(number << 3 | wire))
    }

    fn put_delimited<E: de::Error>(&mut self, number: u32, bytes: &[u8]) -> Result<(), E> {
        self.put_tag(number, LENGTH)?;
        self.put_varint(bytes.len() as u64)?;
        self.put(bytes)
    }

    /// Puts its length before all that was written from `start` on, where a byte is free for it.
    fn close<E: de::Error>(&mut self, start: usize) -> Result<(), E> {
        let size = self.out.len() - start - 1;
        let width = varint_size(size as u64);
        if width > 1 {
            self.put(&[0; 10][..width - 1])?;
            self.out.copy_within(start + 1..start + 1 + size, start + width);
        }
        self.out[start..start + width].copy_from_slice(&varint_bytes(size as u64)[..width]);
        Ok(())
    }

    fn message<'de, A: MapAccess<'de>>(
        &mut self,
        message: &'static Message,
        mut map: A,
    ) -> Result<(), A::Error> {
        if self.depth > MAX_DEPTH {
            return Err(self.fail(Problem::Says("nested too deep")));
        }
        self.depth += 1;
        let (mut seen, mut is_set, mut next) = (0u32, false, 0);
        while let Some(found) = map.next_key_seed(Key { fields: message.fields, next })? {
            let Some(at) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let field = &message.fields[at];
            let before = self.out.len();
            let content = Content { to: self, field, is_item: false, keeps_zero: message.one_of };
            let mut result = map.next_value_seed(content);
            if result.is_ok() && seen & 1 << at != 0 {
                result = Err(self.fail(Problem::Says("given twice")));
            }
            // Of these, what is not null has been written.
            if result.is_ok() && message.one_of && self.out.len() > before {
                if is_set {
                    result = Err(self.fail(Problem::Says("only one of these fields may be given")));
                }
                is_set = true;
            }
            if let Err(error) = result {
                self.path.push(Step::Field(field.name));
                return Err(error);
            }
            seen |= 1 << at;
            next = at + 1;
        }
        self.depth -= 1;
        Ok(())
    }
}

fn path_text(inside_out: &[Step]) -> String {
    let mut path = String::new();
    for step in inside_out.iter().rev() {
        let _ = match step {
            // Writing to a string does not fail.
            Step::Field(name) if path.is_empty() => path.write_str(name),
            Step::Field(name) => write!(path, ".{name}"),
            Step::Item(number) => write!(path, "[{number}]"),
        };
    }
    if path.len() > MAX_PATH {
        let half = MAX_PATH / 2 - 3;
        path.replace_range(half..path.len() - half, " ... ");
    }
    path
}

struct Whole<'w>(&'w mut Writer);

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.message(&REQUEST, map)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Err(self.0.fail(Problem::Says("expected an object")))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.visit_unit()
    }
}

/// Reads a key; its value is the place of the field of this name, if there is one.
struct Key {
    fields: &'static [Named],
    /// The one that probably comes, as most write them in the order of the .proto file.
    next: usize,
}

impl Key {
    fn find(&self, key: &str) -> Option<usize> {
        let named = |name: &str| {
            let is_next = self.fields.get(self.next).is_some_and(|field| field.name == name);
            if is_next {
                Some(self.next)
            } else {
                self.fields.iter().position(|field| field.name == name)
            }
        };
        named(key).or_else(|| named(&camel_case(key)?))
    }
}

/// Of a name as it stands in the .proto file, which JSON parsers have to know, too.
fn camel_case(key: &str) -> Option<String> {
    let is_snake = key.contains('_') && key.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    if !is_snake || key.len() > 40 || key.contains("__") || key.ends_with('_') {
        return None;
    }
    let mut words = key.split('_');
    let mut name = words.next()?.to_owned();
    for word in words {
        name.push_str(&word[..1].to_ascii_uppercase());
        name.push_str(&word[1..]);
    }
    Some(name)
}

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<usize>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.find(key))
    }
}

/// The value of a field, or of one item of it.
struct Content<'w> {
    to: &'w mut Writer,
    field: &'static Named,
    is_item: bool,
    /// Whether 0 is told from nothing.
    keeps_zero: bool,
}

enum Number {
    Whole(i128),
    /// With a fraction, or beyond an i128.
    Other,
}

impl Number {
    /// A whole number may be written as 1.0 or 1e3, too.
    fn of_float(value: f64) -> Self {
        if value.fract() == 0.0 && value.abs() < 2f64.powi(100) {
            Self::Whole(value as i128)
        } else {
            Self::Other
        }
    }

    /// In quotes.
    fn of_text(text: &str) -> Self {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map_or(Self::Other, Self::Whole);
        }
        float_of_text(text).map_or(Self::Other, Self::of_float)
    }
}

/// A JSON number in quotes.
fn float_of_text(text: &str) -> Option<f64> {
    let is_bare =
        text.ends_with(|last: char| last.is_ascii_digit()) && !text.starts_with(char::is_whitespace);
    if is_bare {
        serde_json::from_str(text).ok()
    } else {
        None
    }
}

impl Content<'_> {
    fn is_scalar(&self) -> bool {
        self.is_item || !self.field.repeated
    }

    fn mismatch<T, E: de::Error>(self) -> Result<T, E> {
        Err(self.to.fail_type(self.field, self.is_item))
    }

    fn number<E: de::Error>(self, number: Number) -> Result<(), E> {
        let (Number::Whole(value), true) = (number, self.is_scalar()) else { return self.mismatch() };
        // A negative varint has 64 bits, whatever its type.
        let (wire, bits) = match self.field.kind {
            Kind::Int32 | Kind::Enum(_) => {
                (VARINT, i32::try_from(value).map(|value| i64::from(value) as u64))
            }
            Kind::Int64 => (VARINT, i64::try_from(value).map(|value| value as u64)),
            Kind::Uint32 => (VARINT, u32::try_from(value).map(u64::from)),
            Kind::Fixed32 => (FIXED32, u32::try_from(value).map(u64::from)),
            Kind::Fixed64 => (FIXED64, u64::try_from(value)),
            _ => return self.mismatch(),
        };
        let Ok(bits) = bits else { return self.mismatch() };
        if bits == 0 && !self.keeps_zero {
            return Ok(());
        }
        self.to.put_tag(self.field.number, wire)?;
        match wire {
            VARINT => self.to.put_varint(bits),
            FIXED32 => self.to.put(&(bits as u32).to_le_bytes()),
            _ => self.to.put(&bits.to_le_bytes()),
        }
    }

    fn double<E: de::Error>(self, value: f64) -> Result<(), E> {
        if value.to_bits() == 0 && !self.keeps_zero {
            return Ok(());
        }
        self.to.put_tag(self.field.number, FIXED64)?;
        self.to.put(&value.to_le_bytes())
    }

    fn bytes<E: de::Error>(self, bytes: &[u8]) -> Result<(), E> {
        if bytes.is_empty() && !self.keeps_zero && !self.is_item {
            return Ok(());
        }
        self.to.put_delimited(self.field.number, bytes)
    }

    fn id<E: de::Error>(self, hex: &str) -> Result<(), E> {
        // Of another length than OTLP's it is not refused either in protobuf.
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
        let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
        let mut id = [0; 16];
        if rest.is_empty() && pairs.len() <= id.len() {
            for (byte, [high, low]) in id.iter_mut().zip(pairs) {
                match (digit(*high), digit(*low)) {
                    (Some(high), Some(low)) => *byte = high << 4 | low,
                    _ => return self.mismatch(),
                }
            }
            return self.bytes(&id[..pairs.len()]);
        }
        let long: Option<Vec<u8>> =
            pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
        match long {
            Some(id) if rest.is_empty() => self.bytes(&id),
            _ => self.mismatch(),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Content<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Content<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    /// null is the default of any field, but no item of an array.
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        if self.is_item {
            self.mismatch()
        } else {
            Ok(())
        }
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        match self.field.kind {
            Kind::Bool if self.is_scalar() && (value || self.keeps_zero) => {
                self.to.put_tag(self.field.number, VARINT)?;
                self.to.put(&[value.into()])
            }
            Kind::Bool if self.is_scalar() => Ok(()),
            _ => self.mismatch(),
        }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => self.double(value as f64),
            _ => self.number(Number::Whole(value.into())),
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => self.double(value as f64),
            _ => self.number(Number::Whole(value.into())),
        }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => self.double(value),
            _ => self.number(Number::of_float(value)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if !self.is_scalar() {
            return self.mismatch();
        }
        match self.field.kind {
            Kind::Text => self.bytes(text.as_bytes()),
            Kind::Id => self.id(text),
            Kind::Bytes => {
                let engine = if text.contains(['-', '_']) { BASE64_URL } else { BASE64 };
                match engine.decode(text) {
                    Ok(bytes) => self.bytes(&bytes),
                    Err(_) => self.mismatch(),
                }
            }
            Kind::Double => match text {
                "NaN" => self.double(f64::NAN),
                "Infinity" => self.double(f64::INFINITY),
                "-Infinity" => self.double(f64::NEG_INFINITY),
                _ => match float_of_text(text) {
                    Some(value) => self.double(value),
                    None => self.mismatch(),
                },
            },
            Kind::Enum(names) => match names.iter().position(|name| *name == text) {
                Some(value) => self.number(Number::Whole(value as i128)),
                None => self.number(Number::of_text(text)),
            },
            Kind::Bool | Kind::Message(_) => self.mismatch(),
            _ => self.number(Number::of_text(text)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if self.is_scalar() {
            return self.mismatch();
        }
        let Self { to, field, keeps_zero, .. } = self;
        for number in 0.. {
            match items.next_element_seed(Content { to, field, is_item: true, keeps_zero }) {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(error) => {
                    to.path.push(Step::Item(number));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let (Kind::Message(message), true) = (self.field.kind, self.is_scalar()) else {
            return self.mismatch();
        };
        self.to.put_tag(self.field.number, LENGTH)?;
        let start = self.to.out.len();
        self.to.put(&[0])?; // its length
        self.to.message(message, map)?;
        self.to.close(start)
    }
}
