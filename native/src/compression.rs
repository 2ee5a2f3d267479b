//! The encodings of requests: taken apart within a limit, and put on.
//!
//! A few bytes may stand for gigabytes. So a decoder makes its output in steps, and never holds more of it
//! than the limit and one step of the library's own.

use std::io::{Cursor, Read, Write};

use bytes::Bytes;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

/// Streams of the Go library that most senders use have windows of 8 MiB; more than this is memory that a
/// sender could take with a header of a few bytes.
const ZSTD_WINDOW_LOG: u32 = 23;
/// What deflate can at most make of a byte; zstd can make more, and grows as it goes.
const DEFLATE_RATIO: usize = 1032;
/// Requests of 512 spans: level 1 makes 1.2 times what level 6 makes, in a quarter of the time.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    /// A zlib stream (RFC 1950), as HTTP and gRPC have it.
    Deflate,
    Zstd,
}

impl Encoding {
    /// All of them, as told to a peer whose own is not among them.
    pub const ACCEPTED: &str = "identity,gzip,deflate,zstd";

    pub fn by_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"" | b"identity" => Self::Identity,
            b"gzip" | b"x-gzip" => Self::Gzip,
            b"deflate" => Self::Deflate,
            b"zstd" => Self::Zstd,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is longer than the limit.
    TooLarge,
    /// It is not what its encoding says, or breaks off.
    Malformed,
}

/// The decoded bytes, at most `limit` of them.
pub fn decompress(encoding: Encoding, encoded: &[u8], limit: usize) -> Result<Bytes, Unusable> {
    let mut decoder = Decoder::new(encoding, Bytes::copy_from_slice(encoded), limit)?;
    while !decoder.step(usize::MAX)? {}
    Ok(decoder.into_decoded())
}

/// Decodes in steps, so that others can be served in between.
pub struct Decoder {
    source: Source,
    decoded: Vec<u8>,
    limit: usize,
}

enum Source {
    Identity(Cursor<Bytes>),
    Gzip(MultiGzDecoder<Cursor<Bytes>>),
    Deflate(ZlibDecoder<Cursor<Bytes>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Cursor<Bytes>>>),
}

impl Decoder {
    pub fn new(encoding: Encoding, encoded: Bytes, limit: usize) -> Result<Self, Unusable> {
        let room = match encoding {
            Encoding::Identity => encoded.len(),
            Encoding::Gzip => size_at_the_end(&encoded).min(encoded.len().saturating_mul(DEFLATE_RATIO)),
            Encoding::Deflate | Encoding::Zstd => encoded.len().saturating_mul(4),
        };
        let encoded = Cursor::new(encoded);
        let source = match encoding {
            Encoding::Identity => Source::Identity(encoded),
            Encoding::Gzip => Source::Gzip(MultiGzDecoder::new(encoded)),
            Encoding::Deflate => Source::Deflate(ZlibDecoder::new(encoded)),
            Encoding::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(encoded).map_err(|_| Unusable::Malformed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|_| Unusable::Malformed)?;
                Source::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { source, decoded: Vec::with_capacity(room.min(limit)), limit })
    }

    /// Makes at most `most` bytes more; true when that was the last of it.
    pub fn step(&mut self, most: usize) -> Result<bool, Unusable> {
        // One byte beyond the limit is asked for: only then is it known that there are more.
        let wanted = most.min(self.limit - self.decoded.len() + 1);
        let made = match &mut self.source {
            Source::Identity(source) => read(source, wanted, &mut self.decoded),
            Source::Gzip(source) => read(source, wanted, &mut self.decoded),
            Source::Deflate(source) => read(source, wanted, &mut self.decoded),
            Source::Zstd(source) => read(source, wanted, &mut self.decoded),
        }?;
        if self.decoded.len() > self.limit {
            return Err(Unusable::TooLarge);
        }
        Ok(made < wanted)
    }

    /// What decoding takes in memory now.
    pub fn memory(&self) -> usize {
        let window = match &self.source {
            // It keeps what it has made, as far as the sender may refer back to.
            Source::Zstd(_) => self.decoded.len().min(1 << ZSTD_WINDOW_LOG),
            _ => 0,
        };
        self.decoded.capacity() + window
    }

    pub fn into_decoded(self) -> Bytes {
        self.decoded.into()
    }
}

fn read(source: &mut impl Read, wanted: usize, decoded: &mut Vec<u8>) -> Result<usize, Unusable> {
    source.take(wanted as u64).read_to_end(decoded).map_err(|_| Unusable::Malformed)
}

/// What a gzip stream says at its end of its length (RFC 1952, ISIZE): a guess, as the sender wrote it.
fn size_at_the_end(encoded: &[u8]) -> usize {
    encoded.last_chunk::<4>().map_or(0, |size| u32::from_le_bytes(*size) as usize)
}

/// The bytes of all segments, as one.
pub fn compress(encoding: Encoding, segments: &[Bytes]) -> Bytes {
    let size: usize = segments.iter().map(Bytes::len).sum();
    let room = Vec::with_capacity(size / 4 + 64);
    let written = match encoding {
        Encoding::Identity => write(Vec::with_capacity(size), segments),
        Encoding::Gzip => write(GzEncoder::new(room, flate2::Compression::new(GZIP_LEVEL)), segments)
            .and_then(GzEncoder::finish),
        Encoding::Deflate => write(ZlibEncoder::new(room, flate2::Compression::new(GZIP_LEVEL)), segments)
            .and_then(ZlibEncoder::finish),
        Encoding::Zstd => zstd::stream::write::Encoder::new(room, ZSTD_LEVEL)
            .and_then(|encoder| write(encoder, segments))
            .and_then(zstd::stream::write::Encoder::finish),
    };
    written.expect("memory takes whatever is written to it").into()
}

fn write<W: Write>(mut sink: W, segments: &[Bytes]) -> std::io::Result<W> {
    for segment in segments {
        sink.write_all(segment)?;
    }
    Ok(sink)
}

#[cfg(test)]
mod tests;
