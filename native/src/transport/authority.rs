//! Over a Unix socket, gRPC's clients in C++, Python and Java name its path as `:authority`, which is none
//! (RFC 3986, 3.2), and h2 resets each of their calls. Nobody here asks for it: so it is replaced on its way
//! in, by a host of one letter.
//!
//! What follows in the block of headers does not change by that. A value that goes into the table of HPACK
//! becomes shorter, so here entries leave that table later than the client thinks, and what it still refers to
//! is there (RFC 7541, 4.3).

use std::io;
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// A longer frame is refused (RFC 9113, 4.2), by h2.
const MAX_FRAME_BYTES: usize = 16 << 10;
/// Its number in the static table, and its name, plain and in Huffman's code.
const AUTHORITY: usize = 1;
const NAMES: [&[u8]; 2] = [b"\x0a:authority", b"\x88\xb8\x3b\x53\x39\xec\x32\x7d\x7f"];
/// A string of one byte.
const HOST: [u8; 2] = [1, b'x'];

/// Frames on their way in, as far as their limits must be known.
enum Expected {
    /// So many bytes that stay as they are.
    Untouched(usize),
    /// The head of a frame, or all of one with headers: what there is of it, and how long it will be.
    Whole(Vec<u8>, usize),
}

pub struct PlainAuthority<S> {
    inner: S,
    expected: Expected,
    /// Rewritten, and not yet taken.
    ready: Vec<u8>,
    taken: usize,
}

impl<S> PlainAuthority<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, expected: Expected::Untouched(PREFACE_BYTES), ready: Vec::new(), taken: 0 }
    }

    /// All of `bytes`, which are of one head or frame at most, has come.
    fn whole(&mut self, bytes: Vec<u8>) {
        if bytes.len() > HEAD_BYTES {
            self.ready = rewritten(bytes);
            self.taken = 0;
            self.expected = Expected::Whole(Vec::new(), HEAD_BYTES);
            return;
        }
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        if bytes[3] == HEADERS && length > 0 && length <= MAX_FRAME_BYTES {
            self.expected = Expected::Whole(bytes, HEAD_BYTES + length);
        } else {
            self.ready = bytes;
            self.taken = 0;
            self.expected = Expected::Untouched(length);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PlainAuthority<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        loop {
            if me.taken < me.ready.len() {
                let count = into.remaining().min(me.ready.len() - me.taken);
                into.put_slice(&me.ready[me.taken..me.taken + count]);
                me.taken += count;
                return Poll::Ready(Ok(()));
            }
            match &mut me.expected {
                Expected::Untouched(0) => me.expected = Expected::Whole(Vec::new(), HEAD_BYTES),
                Expected::Untouched(left) => {
                    let before = into.filled().len();
                    let mut part = (&mut me.inner).take(*left as u64);
                    ready!(Pin::new(&mut part).poll_read(context, into))?;
                    *left -= into.filled().len() - before;
                    return Poll::Ready(Ok(()));
                }
                Expected::Whole(have, length) => {
                    let mut space = [0; 2048];
                    let wanted = space.len().min(*length - have.len());
                    let mut part = ReadBuf::new(&mut space[..wanted]);
                    ready!(Pin::new(&mut me.inner).poll_read(context, &mut part))?;
                    if part.filled().is_empty() {
                        return Poll::Ready(Ok(())); // it breaks off, which is the end
                    }
                    have.extend_from_slice(part.filled());
                    if have.len() == *length {
                        let whole = std::mem::take(have);
                        me.whole(whole);
                    }
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PlainAuthority<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

/// The frame with another authority; as it was where there is none, or it cannot be read.
fn rewritten(frame: Vec<u8>) -> Vec<u8> {
    let flags = frame[4];
    let mut start = HEAD_BYTES;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.saturating_sub(frame[start].into());
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    let Some((from, to)) = frame.get(start..end).and_then(find_authority) else { return frame };
    let mut rewritten = Vec::with_capacity(frame.len());
    rewritten.extend_from_slice(&frame[..start + from]);
    rewritten.extend_from_slice(&HOST);
    rewritten.extend_from_slice(&frame[start + to..]);
    let length = ((rewritten.len() - HEAD_BYTES) as u32).to_be_bytes();
    rewritten[..3].copy_from_slice(&length[1..]);
    rewritten
}

/// Where the value of `:authority` stands in a block, with its length; None also where it is in the table
/// already, as what went into the table is what was made of it here.
fn find_authority(block: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        // RFC 7541, 6: indexed; with indexing; a new size of the table; without indexing.
        let (prefix_bits, has_value) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(block, &mut at, prefix_bits)?;
        if !has_value {
            continue;
        }
        let name = at;
        if index == 0 {
            skip_string(block, &mut at)?;
        }
        let is_authority = index == AUTHORITY || NAMES.contains(&&block[name..at]);
        let value = at;
        skip_string(block, &mut at)?;
        if is_authority && at - value > HOST.len() {
            return Some((value, at));
        }
    }
    None
}

fn skip_string(block: &[u8], at: &mut usize) -> Option<()> {
    let length = integer(block, at, 7)?;
    *at = at.checked_add(length).filter(|end| *end <= block.len())?;
    Some(())
}

/// RFC 7541, 5.1.
fn integer(block: &[u8], at: &mut usize, prefix_bits: u32) -> Option<usize> {
    let most = (1 << prefix_bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A POST; the authority with indexing and, to all appearances, in Huffman's code; a path; a name of its own.
    const BLOCK: [&[u8]; 4] =
        [&[0x83, 0x3f, 0x00], &[0x41], &[0x85, 1, 2, 3, 4, 5], &[0x04, 1, b'/', 0x00, 2, b'a', b'b', 0]];

    async fn through(sent: &[u8], piece: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(piece);
        let sent = sent.to_vec();
        let writing = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut client, &sent).await.unwrap();
        });
        let mut came = Vec::new();
        PlainAuthority::new(server).read_to_end(&mut came).await.unwrap();
        writing.await.unwrap();
        came
    }

    #[tokio::test]
    async fn only_the_authority_is_replaced_however_the_bytes_come() {
        let preface = [b'p'; PREFACE_BYTES];
        let block = BLOCK.concat();
        let replaced = [BLOCK[0], BLOCK[1], &HOST, BLOCK[3]].concat();
        let dressed = |block: &[u8]| [&[3, 0, 0, 0, 0, 9][..], block, &[0; 3]].concat();
        let data = vec![7; 100_000];
        let rest = [frame(4, 0, &[]), frame(0, 0, &data[..50_000]), frame(0, 1, &[1])].concat();
        let sent =
            [&preface[..], &rest, &frame(1, 4, &block), &rest, &frame(1, 0x2c, &dressed(&block)), &rest];
        let wanted = [
            &preface[..],
            &rest,
            &frame(1, 4, &replaced),
            &rest,
            &frame(1, 0x2c, &dressed(&replaced)),
            &rest,
        ];
        for piece in [1, 3, 10, 1000, 1 << 20] {
            assert_eq!(through(&sent.concat(), piece).await, wanted.concat(), "{piece}");
        }
    }

    #[tokio::test]
    async fn its_name_may_be_spelt_out() {
        let preface = [b'p'; PREFACE_BYTES];
        for name in NAMES {
            let (sent, wanted) = ([&[0x40], name, b"\x04/run"].concat(), [&[0x40], name, &HOST].concat());
            let came = through(&[&preface[..], &frame(1, 4, &sent)].concat(), 64).await;
            assert_eq!(came, [&preface[..], &frame(1, 4, &wanted)].concat());
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_stays_as_it_is() {
        let preface = [b'p'; PREFACE_BYTES];
        for block in
            [&[0x41][..], &[0x41, 0x7f, 1], &[0x7f, 0xff, 0xff, 0xff, 0xff], &[0x00, 9], &[0x41, 1, b'y']]
        {
            let sent = [&preface[..], &frame(1, 4, block), &frame(1, 8, &[200, 1])].concat();
            assert_eq!(through(&sent, 64).await, sent);
        }
    }
}
