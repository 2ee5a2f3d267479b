//! The protobuf wire format, read exactly as strictly as upb reads it (the C library under Python's
//! protobuf), found by experiment with protobuf 7.36 and held by the property tests: a varint may have ten
//! bytes and its surplus bits are dropped; tags and lengths have at most five bytes and fit 32 and 31 bits;
//! field number 0 is refused, except inside an unknown group; a field with another wire type than its own is
//! an unknown field; messages and groups nest at most 100 deep. Spec:
//! https://protobuf.dev/programming-guides/encoding/

use crate::schema::{Field, Message};

/// The bytes are not a valid message; nothing is known of where or why, as nobody can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// How deep messages and groups may nest below the outermost message.
pub const MAX_DEPTH: u32 = 100;

pub const VARINT: u32 = 0;
pub const FIXED64: u32 = 1;
pub const LENGTH: u32 = 2;
const GROUP: u32 = 3;
const END_GROUP: u32 = 4;
pub const FIXED32: u32 = 5;

/// Reads one message from front to back.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    /// Where the message ends in `bytes`.
    pub end: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, end: bytes.len() }
    }

    #[inline(always)]
    pub fn is_at_end(&self) -> bool {
        self.at == self.end
    }

    #[inline(always)]
    fn byte(&mut self) -> Result<u8, Malformed> {
        if self.at >= self.end {
            return Err(Malformed);
        }
        let byte = self.bytes[self.at];
        self.at += 1;
        Ok(byte)
    }

    #[inline(always)]
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(first.into());
        }
        self.long_varint(first, 10)
    }

    #[cold]
    fn long_varint(&mut self, first: u8, max_bytes: u32) -> Result<u64, Malformed> {
        let mut value = u64::from(first & 0x7f);
        for at in 1..max_bytes {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << (7 * at); // of the tenth byte one bit has room
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Field number and wire type together. The number may be 0.
    #[inline(always)]
    fn raw_tag(&mut self) -> Result<u32, Malformed> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(first.into());
        }
        u32::try_from(self.long_varint(first, 5)?).map_err(|_| Malformed)
    }

    /// Field number and wire type.
    #[inline(always)]
    pub fn tag(&mut self) -> Result<(u32, u32), Malformed> {
        let tag = self.raw_tag()?;
        if tag < 8 {
            return Err(Malformed);
        }
        Ok((tag >> 3, tag & 7))
    }

    /// The bytes of a length-delimited field, whose tag has been read, as a range of `bytes`.
    #[inline(always)]
    pub fn range(&mut self) -> Result<(usize, usize), Malformed> {
        let first = self.byte()?;
        let length = if first < 0x80 { first.into() } else { self.long_varint(first, 5)? };
        // Not more than 31 bits in upb; a message that long does not reach this place.
        if length > (self.end - self.at) as u64 {
            return Err(Malformed);
        }
        let start = self.at;
        self.at += length as usize;
        Ok((start, self.at))
    }

    #[inline(always)]
    pub fn delimited(&mut self) -> Result<&'a [u8], Malformed> {
        let (start, end) = self.range()?;
        Ok(&self.bytes[start..end])
    }

    #[inline(always)]
    pub fn fixed64(&mut self) -> Result<u64, Malformed> {
        let chunk = self.bytes[self.at..self.end].first_chunk().ok_or(Malformed)?;
        self.at += 8;
        Ok(u64::from_le_bytes(*chunk))
    }

    pub fn fixed32(&mut self) -> Result<u32, Malformed> {
        let chunk = self.bytes[self.at..self.end].first_chunk().ok_or(Malformed)?;
        self.at += 4;
        Ok(u32::from_le_bytes(*chunk))
    }

    fn skip_bytes(&mut self, count: usize) -> Result<(), Malformed> {
        if self.end - self.at < count {
            return Err(Malformed);
        }
        self.at += count;
        Ok(())
    }

    /// Reads over the rest of a field with this tag, and checks what its message says about it.
    /// `depth`: how deep this message is nested.
    pub fn check(&mut self, number: u32, wire: u32, message: &Message, depth: u32) -> Result<(), Malformed> {
        match wire {
            LENGTH => check_content(self.delimited()?, message.field(number), depth),
            GROUP => self.skip_group(number, depth + 1),
            _ => self.skip_scalar(wire),
        }
    }

    /// Reads over the rest of a field with this tag, of a message that was checked before.
    pub fn skip(&mut self, number: u32, wire: u32, depth: u32) -> Result<(), Malformed> {
        match wire {
            LENGTH => self.range().map(drop),
            GROUP => self.skip_group(number, depth + 1),
            _ => self.skip_scalar(wire),
        }
    }

    fn skip_scalar(&mut self, wire: u32) -> Result<(), Malformed> {
        match wire {
            VARINT => self.varint().map(drop),
            FIXED64 => self.skip_bytes(8),
            FIXED32 => self.skip_bytes(4),
            _ => Err(Malformed),
        }
    }

    fn skip_group(&mut self, number: u32, depth: u32) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed);
        }
        loop {
            let tag = self.raw_tag()?;
            match tag & 7 {
                LENGTH => drop(self.range()?),
                GROUP => self.skip_group(tag >> 3, depth + 1)?,
                END_GROUP if tag >> 3 == number => return Ok(()),
                wire => self.skip_scalar(wire)?,
            }
        }
    }
}

/// Whether `bytes`, nested `depth` deep, are a valid message of this type.
pub fn validate(bytes: &[u8], message: &Message, depth: u32) -> Result<(), Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed);
    }
    let mut reader = Reader::new(bytes);
    while !reader.is_at_end() {
        let (number, wire) = reader.tag()?;
        reader.check(number, wire, message, depth)?;
    }
    Ok(())
}

/// Whether the content of a length-delimited field of a message that is nested `depth` deep is valid.
#[inline]
pub fn check_content(bytes: &[u8], field: Field, depth: u32) -> Result<(), Malformed> {
    match field {
        Field::Opaque => Ok(()),
        Field::Text => std::str::from_utf8(bytes).map(drop).map_err(|_| Malformed),
        Field::Message(inner) => validate(bytes, inner, depth + 1),
    }
}

/// How many bytes `value` takes as a varint.
pub fn varint_size(value: u64) -> usize {
    (((63 - (value | 1).leading_zeros()) * 9 + 73) / 64) as usize
}

/// `value` as a varint of the fewest bytes: the first `varint_size(value)` of these.
pub fn varint_bytes(mut value: u64) -> [u8; 10] {
    let mut bytes = [0; 10];
    let mut at = 0;
    while value >= 0x80 {
        bytes[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    bytes[at] = value as u8;
    bytes
}
