//! Reads the message of a call, within its limits of size, of time and of memory that all of them share.

use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::server::Shared;
use super::status::{refusal, CANCELLED};
use super::under_way::Coming;
use crate::compression::{Decoder, Encoding, Unusable};
use crate::queue::{code, Answer, Outcome, RETRY_DELAY_NS};

/// Of a message that is longer, room is made as it comes. Room that nothing has come into takes no memory.
const FIRST_ROOM: usize = 512 << 10;
/// What a call takes whose message has yet to come.
const CALL_BYTES: usize = 4 << 10;
/// Decoding this much takes about half a millisecond: then others are served.
const DECODED_AT_ONCE: usize = 256 << 10;
const MOST_DISCARDED: usize = 8 << 20;
const DISCARDED_FOR: Duration = Duration::from_secs(1);
/// Of gRPC: whether the message is compressed, and its length.
const PREFIX_BYTES: usize = 5;

type Next = Option<Result<Frame<Bytes>, hyper::Error>>;

/// Why a message was not taken.
pub struct Refused {
    pub outcome: Outcome,
    pub answer: Answer,
}

impl Refused {
    fn new(outcome: Outcome, code: u32, message: impl Into<String>) -> Self {
        Self { outcome, answer: refusal(code, message) }
    }

    pub fn malformed(message: &str) -> Self {
        Self::new(Outcome::Malformed, code::INVALID_ARGUMENT, message)
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(
            Outcome::TooLarge,
            code::RESOURCE_EXHAUSTED,
            format!("the request has more than {limit} bytes"),
        )
    }

    pub fn failed(message: &str) -> Self {
        Self::new(Outcome::Failed, code::INTERNAL, message)
    }

    pub fn no_room() -> Self {
        let mut refused = Self::new(Outcome::Busy, code::UNAVAILABLE, "too many requests are on their way");
        refused.answer.retry_after_ns = Some(RETRY_DELAY_NS);
        refused
    }

    fn abandoned() -> Self {
        Self::new(Outcome::Abandoned, CANCELLED, "the sender has gone")
    }
}

/// A message as it came, maybe compressed. It counts among those under way until it is dropped.
pub struct Message {
    pub bytes: Bytes,
    pub is_compressed: bool,
    _room: Option<Coming>,
}

/// The one message of a call of gRPC.
pub async fn of_grpc(body: Incoming, shared: &Shared, limit: usize) -> Result<Message, Refused> {
    in_time(shared, read_grpc(body, shared, limit)).await
}

/// The content of a request of HTTP.
pub async fn of_http(body: &mut Incoming, shared: &Shared, limit: usize) -> Result<Message, Refused> {
    in_time(shared, read_http(body, shared, limit)).await
}

async fn in_time(
    shared: &Shared,
    reading: impl Future<Output = Result<Message, Refused>>,
) -> Result<Message, Refused> {
    let read = timeout(shared.limits.message_timeout, reading).await.unwrap_or_else(|_| {
        shared.counters.slow_messages.add(1);
        let message = format!("the message took longer than {:?}", shared.limits.message_timeout);
        Err(Refused::new(Outcome::Abandoned, CANCELLED, message))
    });
    if let Ok(message) = &read {
        shared.counters.received_bytes.add(message.bytes.len() as u64);
    }
    read
}

async fn read_grpc(mut body: Incoming, shared: &Shared, limit: usize) -> Result<Message, Refused> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut had = 0;
    let mut content = Content::new(shared);
    let mut length = 0;
    while let Some(mut data) = content.next(&mut body).await? {
        if had < PREFIX_BYTES {
            let take = data.len().min(PREFIX_BYTES - had);
            data.copy_to_slice(&mut prefix[had..had + take]);
            had += take;
            if had < PREFIX_BYTES {
                continue;
            }
            length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            if prefix[0] > 1 {
                return Err(Refused::malformed("the prefix of the message is not gRPC's"));
            }
            if length > limit {
                return Err(Refused::too_large(limit));
            }
        }
        if data.len() > length - content.bytes.len() {
            return Err(Refused::malformed("there is more than one message in the call"));
        }
        content.push(&data, length);
    }
    if had == 0 {
        return Err(Refused::malformed("there is no message in the call"));
    }
    if had < PREFIX_BYTES || content.bytes.len() < length {
        return Err(Refused::malformed("the message breaks off"));
    }
    Ok(content.into_message(prefix[0] == 1))
}

async fn read_http(body: &mut Incoming, shared: &Shared, limit: usize) -> Result<Message, Refused> {
    // What the head says of the length; hyper sees to it that no more comes.
    let length = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if length.is_some_and(|length| length > limit) {
        return Err(Refused::too_large(limit));
    }
    let mut content = Content::new(shared);
    while let Some(data) = content.next(body).await? {
        if data.len() > limit - content.bytes.len() {
            return Err(Refused::too_large(limit));
        }
        content.push(&data, length.unwrap_or(limit));
    }
    Ok(content.into_message(false))
}

/// Reads on, for a while, what nobody wants any more. A connection of HTTP/1 that is closed with something unread is
/// reset, and with it goes the answer that says why.
pub async fn discard(body: &mut Incoming) {
    if body.size_hint().lower() > MOST_DISCARDED as u64 {
        return;
    }
    let reading = async {
        let mut left = MOST_DISCARDED;
        while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout(DISCARDED_FOR, reading).await;
}

/// What has come of a message.
///
/// It is copied: pieces are slices of the buffer that was read into, which is as long as any of them is held.
struct Content<'a> {
    shared: &'a Shared,
    bytes: Vec<u8>,
    room: Option<Coming>,
}

impl<'a> Content<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, bytes: Vec::new(), room: None }
    }

    /// The next piece.
    async fn next(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Refused> {
        loop {
            let frame = match poll_once(body).await {
                Poll::Ready(frame) => frame,
                Poll::Pending => self.wait(body).await?,
            };
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(Refused::abandoned()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// What has to wait takes part of the room that all share; what is there at once, as mostly, does not.
    async fn wait(&mut self, body: &mut Incoming) -> Result<Next, Refused> {
        let room = self.room.get_or_insert_with(|| self.shared.under_way.begin());
        room.takes(self.bytes.len() + CALL_BYTES).map_err(|_| Refused::no_room())?;
        tokio::select! {
            biased;
            frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)) => Ok(frame),
            () = room.given_up() => {
                self.shared.counters.stalled_messages.add(1);
                Err(Refused::no_room())
            }
        }
    }

    /// `length`: what the message may come to.
    fn push(&mut self, data: &[u8], length: usize) {
        let needed = self.bytes.len() + data.len();
        if needed > self.bytes.capacity() {
            let room = needed.max(2 * self.bytes.capacity()).max(FIRST_ROOM).min(length.max(needed));
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
    }

    fn into_message(self, is_compressed: bool) -> Message {
        Message { bytes: self.bytes.into(), is_compressed, _room: self.room }
    }
}

async fn poll_once(body: &mut Incoming) -> Poll<Next> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context))).await
}

/// The message without its compression, at most `limit` bytes.
pub async fn decoded(
    message: Message,
    encoding: Encoding,
    shared: &Shared,
    limit: usize,
) -> Result<Bytes, Refused> {
    if encoding == Encoding::Identity {
        shared.counters.decoded_bytes.add(message.bytes.len() as u64);
        return Ok(message.bytes);
    }
    let refused = |unusable| match unusable {
        Unusable::TooLarge => Refused::too_large(limit),
        Unusable::Malformed => Refused::malformed(&format!("the message is not {}", encoding.name())),
    };
    let mut decoder = Decoder::new(encoding, message.bytes.clone(), limit).map_err(refused)?;
    let mut room = None;
    while !decoder.step(DECODED_AT_ONCE).map_err(refused)? {
        let coming = room.get_or_insert_with(|| shared.under_way.begin());
        coming.takes(decoder.memory()).map_err(|_| Refused::no_room())?;
        tokio::task::yield_now().await;
    }
    let bytes = decoder.into_decoded();
    shared.counters.decoded_bytes.add(bytes.len() as u64);
    Ok(bytes)
}
