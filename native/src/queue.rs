//! The bounded queue that every accepted span is in, from its admission until it is sent or dropped.
//!
//! Held by the join, ready to be sent and in retry are the same to its bounds, so what they promise holds for
//! the process, and there is one place where a full pipeline says no. Bounded by requests, as the collector's
//! is, and by bytes, as 1,000 requests of 4 MiB would be 4 GiB.
//!
//! offer → take_new → put → take → release. Requests concatenate, so what has come in the meantime is handed
//! on as one: an entry.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::protobuf::Malformed;
use crate::wire::{self, Scan};

/// gRPC's codes, as far as a sender is told them here.
pub mod code {
    pub const OK: u32 = 0;
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
}

/// What a sender is asked to wait when the queue is full. Long against the time the queue needs to make room,
/// short against what SDKs keep retrying for (about a minute).
pub const RETRY_DELAY_NS: u64 = 1_000_000_000;

/// A span with its ids has 30 bytes. Of smaller ones, which nobody can use, millions would fit into a request,
/// and each costs more memory here than it has itself.
const LEAST_SPAN_BYTES: usize = 16;

/// What became of a request, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The bounded queue answers for it now.
    Accepted,
    Malformed,
    TooLarge,
    /// The queue is full, or memory is short.
    Busy,
    ShuttingDown,
    /// A fault of this program.
    Failed,
    Unauthenticated,
    /// Its sender has gone before it was whole.
    Abandoned,
}

impl Outcome {
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Accepted, "accepted"),
        (Self::Malformed, "malformed"),
        (Self::TooLarge, "too_large"),
        (Self::Busy, "busy"),
        (Self::ShuttingDown, "shutting_down"),
        (Self::Failed, "failed"),
        (Self::Unauthenticated, "unauthenticated"),
        (Self::Abandoned, "abandoned"),
    ];
}

/// What a sender is told: a status of gRPC, which HTTP maps to its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: u32,
    /// For a person to read.
    pub message: String,
    /// The RetryInfo, if the sender is to come again.
    pub retry_after_ns: Option<u64>,
}

impl Answer {
    pub fn ok() -> Self {
        Self { code: code::OK, message: String::new(), retry_after_ns: None }
    }

    fn refusal(outcome: Outcome, message: &str) -> Self {
        let (code, retry_after_ns) = match outcome {
            Outcome::Accepted => (code::OK, None),
            Outcome::Malformed => (code::INVALID_ARGUMENT, None),
            Outcome::TooLarge => (code::RESOURCE_EXHAUSTED, None),
            Outcome::Busy => (code::UNAVAILABLE, Some(RETRY_DELAY_NS)),
            Outcome::ShuttingDown => (code::UNAVAILABLE, None),
            _ => (code::INTERNAL, None),
        };
        Self { code, message: message.into(), retry_after_ns }
    }

    /// What is told to those that still wait when everything ends.
    pub fn shutting_down() -> Self {
        Self::refusal(Outcome::ShuttingDown, "shutting down")
    }
}

pub enum Offered {
    Answered(Answer),
    /// The answer comes later; a sender that is dropped means that everything ends.
    Waiting(oneshot::Receiver<Answer>),
}

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub requests: usize,
    pub bytes: usize,
    /// Of a single request.
    pub body_bytes: usize,
    /// Senders are answered by `Entry::answer`, not at once.
    pub answers_late: bool,
}

/// A request that was accepted, and nobody has looked at yet.
struct Arrived {
    body: Bytes,
    scan: Scan,
    peer: Arc<str>,
    reply: Option<oneshot::Sender<Answer>>,
    /// As of `Entry`.
    id: i64,
}

/// One request, or several joined, on the way through.
pub struct Entry {
    pub requests: u64,
    /// Which spans came from whom: the ordinal of the first, and the sender.
    pub peers: Vec<(u32, Arc<str>)>,
    state: Mutex<State>,
}

struct State {
    body: Option<Bytes>,
    /// What the bound counts for it.
    counted: usize,
    spans: u64,
    /// What the queue counts for it.
    counted_spans: u64,
    replies: Vec<oneshot::Sender<Answer>>,
    /// Its number in a durable store; 0: it is in none.
    id: i64,
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it leaves. None: it was dropped from memory, and must be restored before it is used.
    pub fn body(&self) -> Option<Bytes> {
        self.state().body.clone()
    }

    pub fn set_body(&self, body: Option<Bytes>) {
        self.state().body = body;
    }

    /// That leave in it.
    pub fn spans(&self) -> u64 {
        self.state().spans
    }

    /// So many were left out when it was decided. The queue counts them until it is put, or released.
    pub fn sampled_out(&self, spans: u64) {
        let mut state = self.state();
        state.spans = state.spans.saturating_sub(spans);
    }

    pub fn id(&self) -> i64 {
        self.state().id
    }

    pub fn set_id(&self, id: i64) {
        self.state().id = id;
    }

    /// How many senders wait for their answer.
    pub fn waiting(&self) -> usize {
        self.state().replies.len()
    }

    /// Answers those that wait.
    pub fn answer(&self, answer: &Answer) {
        let replies = std::mem::take(&mut self.state().replies);
        for reply in replies {
            // A sender that has gone meanwhile is no error.
            let _ = reply.send(answer.clone());
        }
    }
}

#[derive(Default)]
struct Inner {
    arrived: VecDeque<Arrived>,
    ready: VecDeque<Arc<Entry>>,
    requests: usize,
    bytes: usize,
    spans: u64,
    woken: bool,
    /// Nothing new is taken.
    ending: bool,
    /// Memory is short.
    refusing: bool,
    /// Nothing more will be put.
    closed: bool,
}

#[derive(Default)]
pub struct Counters {
    requests: [AtomicU64; Outcome::ALL.len()],
    refused_spans: [AtomicU64; Outcome::ALL.len()],
    accepted_spans: AtomicU64,
}

impl Counters {
    pub fn requests(&self, outcome: Outcome) -> u64 {
        self.requests[outcome as usize].load(Ordering::Relaxed)
    }

    pub fn refused_spans(&self, outcome: Outcome) -> u64 {
        self.refused_spans[outcome as usize].load(Ordering::Relaxed)
    }

    pub fn accepted_spans(&self) -> u64 {
        self.accepted_spans.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Accepted and not yet sent or dropped, wherever they are.
    pub requests: usize,
    pub bytes: usize,
    pub spans: u64,
    /// Entries that wait to be sent.
    pub ready: usize,
}

pub struct Queue {
    pub bounds: Bounds,
    pub counters: Counters,
    inner: Mutex<Inner>,
    has_arrived: Condvar,
    is_ready: Condvar,
}

impl Queue {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            counters: Counters::default(),
            inner: Mutex::default(),
            has_arrived: Condvar::new(),
            is_ready: Condvar::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic halfway through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one ExportTraceServiceRequest, or says why not. Any thread; about 25 µs for 512 spans.
    pub fn offer(&self, body: Bytes, peer: &Arc<str>) -> Offered {
        if body.len() > self.bounds.body_bytes {
            return self.refuse(Outcome::TooLarge, "the request is too large", 0);
        }
        let Ok(scan) = wire::scan(&body) else {
            return self.refuse(Outcome::Malformed, "not a valid ExportTraceServiceRequest", 0);
        };
        let spans = scan.spans.len();
        if spans == 0 {
            // Nothing in it to deliver.
            self.count(Outcome::Accepted);
            return Offered::Answered(Answer::ok());
        }
        if spans * LEAST_SPAN_BYTES > self.bounds.body_bytes {
            return self.refuse(Outcome::TooLarge, &format!("{spans} spans in one request"), spans);
        }
        let (reply, answer) = if self.bounds.answers_late {
            let (reply, answer) = oneshot::channel();
            (Some(reply), Some(answer))
        } else {
            (None, None)
        };
        let size = body.len();
        let mut inner = self.inner();
        if inner.ending {
            drop(inner);
            return self.refuse(Outcome::ShuttingDown, "shutting down", spans);
        }
        // An empty queue takes a request of any size: there is a limit for a single one.
        if inner.refusing || (inner.requests > 0 && self.is_full(&inner, size)) {
            let message = if inner.refusing { "memory is short" } else { "the queue is full" };
            drop(inner);
            return self.refuse(Outcome::Busy, message, spans);
        }
        inner.requests += 1;
        inner.bytes += size;
        inner.spans += spans as u64;
        inner.arrived.push_back(Arrived { body, scan, peer: peer.clone(), reply, id: 0 });
        drop(inner);
        self.has_arrived.notify_one();
        self.count(Outcome::Accepted);
        self.counters.accepted_spans.fetch_add(spans as u64, Ordering::Relaxed);
        answer.map_or_else(|| Offered::Answered(Answer::ok()), Offered::Waiting)
    }

    /// A request that never got as far as `offer`.
    pub fn refused(&self, outcome: Outcome) {
        self.count(outcome);
    }

    fn count(&self, outcome: Outcome) {
        self.counters.requests[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn refuse(&self, outcome: Outcome, message: &str, spans: usize) -> Offered {
        self.count(outcome);
        self.counters.refused_spans[outcome as usize].fetch_add(spans as u64, Ordering::Relaxed);
        Offered::Answered(Answer::refusal(outcome, message))
    }

    /// All that has come, the oldest first, joined to entries of at most `join_bytes` (a larger request stands
    /// alone). Blocks while there is nothing, for at most `timeout`, and until `wake`.
    pub fn take_new(&self, timeout: Duration, join_bytes: usize) -> Vec<(Arc<Entry>, Scan)> {
        let mut inner = self.inner();
        let until = Instant::now() + timeout;
        while inner.arrived.is_empty() && !inner.woken {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner = self.has_arrived.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.woken = false;
        let mut arrived = std::mem::take(&mut inner.arrived);
        drop(inner);
        let mut entries = Vec::new();
        while let Some(first) = arrived.pop_front() {
            let mut size = first.body.len();
            let mut joined = vec![first];
            while let Some(next) = arrived.front() {
                size += next.body.len();
                if size > join_bytes || next.id != 0 || joined[0].id != 0 {
                    break;
                }
                joined.extend(arrived.pop_front());
            }
            entries.push(join(joined));
        }
        entries
    }

    /// Ends the wait of `take_new`.
    pub fn wake(&self) {
        self.inner().woken = true;
        self.has_arrived.notify_one();
    }

    /// These are decided and can be sent. What they have grown by meanwhile is taken over the bound.
    pub fn put(&self, entries: Vec<Arc<Entry>>) {
        let mut inner = self.inner();
        for entry in &entries {
            let mut state = entry.state();
            if let Some(body) = &state.body {
                inner.bytes = inner.bytes + body.len() - state.counted;
                state.counted = body.len();
            }
            inner.spans -= state.counted_spans - state.spans;
            state.counted_spans = state.spans;
        }
        inner.ready.extend(entries);
        drop(inner);
        // Whoever takes them takes as many as fit, and wakes the next if some are left.
        self.is_ready.notify_one();
    }

    /// Takes in what a durable store has kept under `id`, to be decided anew. False while there is no room.
    pub fn restore(&self, body: Bytes, id: i64) -> Result<bool, Malformed> {
        let scan = wire::scan(&body)?;
        let mut inner = self.inner();
        if inner.requests > 0 && self.is_full(&inner, body.len()) {
            return Ok(false);
        }
        inner.requests += 1;
        inner.bytes += body.len();
        inner.spans += scan.spans.len() as u64;
        inner.arrived.push_back(Arrived { body, scan, peer: Arc::from(""), reply: None, id });
        drop(inner);
        self.has_arrived.notify_one();
        Ok(true)
    }

    fn is_full(&self, inner: &Inner, size: usize) -> bool {
        inner.requests >= self.bounds.requests || inner.bytes + size > self.bounds.bytes
    }

    /// The oldest that are ready, together at most `max_bytes`, but always one. Blocks while there is none.
    /// Empty after `timeout`, and once the queue is finished.
    pub fn take(&self, max_bytes: usize, timeout: Option<Duration>) -> Vec<Arc<Entry>> {
        let mut inner = self.inner();
        let until = timeout.map(|timeout| Instant::now() + timeout);
        while inner.ready.is_empty() && !inner.closed {
            inner = match until {
                None => self.is_ready.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Vec::new();
                    }
                    self.is_ready.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        let mut taken = Vec::new();
        let mut room = max_bytes;
        while let Some(entry) = inner.ready.front() {
            let size = entry.state().counted;
            if !taken.is_empty() && size > room {
                break;
            }
            room = room.saturating_sub(size);
            taken.extend(inner.ready.pop_front());
        }
        if !inner.ready.is_empty() {
            self.is_ready.notify_one();
        }
        taken
    }

    /// These are sent or dropped: their places are free. Whoever still waits is told that all is well.
    pub fn release(&self, entries: &[Arc<Entry>]) {
        let mut inner = self.inner();
        for entry in entries {
            inner.requests -= entry.requests as usize;
            let state = entry.state();
            inner.bytes -= state.counted;
            inner.spans -= state.counted_spans;
        }
        drop(inner);
        for entry in entries {
            entry.answer(&Answer::ok());
        }
    }

    /// Refuses what is offered, while memory is short.
    pub fn set_refusing(&self, refusing: bool) {
        self.inner().refusing = refusing;
    }

    /// Takes nothing new from now on.
    pub fn end_intake(&self) {
        self.inner().ending = true;
        self.wake();
    }

    /// Nothing more will be put: `take` gives what is left, then nothing.
    pub fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        inner.ending = true;
        drop(inner);
        self.is_ready.notify_all();
    }

    /// Closed, and nothing left to take.
    pub fn is_finished(&self) -> bool {
        let inner = self.inner();
        inner.closed && inner.ready.is_empty()
    }

    pub fn statistics(&self) -> Statistics {
        let inner = self.inner();
        Statistics {
            requests: inner.requests,
            bytes: inner.bytes,
            spans: inner.spans,
            ready: inner.ready.len(),
        }
    }
}

fn join(mut joined: Vec<Arrived>) -> (Arc<Entry>, Scan) {
    let mut peers: Vec<(u32, Arc<str>)> = Vec::new();
    let mut replies = Vec::new();
    let requests = joined.len() as u64;
    let id = joined[0].id;
    let (body, scan) = if joined.len() == 1 {
        let only = joined.remove(0);
        peers.push((0, only.peer));
        replies.extend(only.reply);
        (only.body, only.scan)
    } else {
        let size = joined.iter().map(|arrived| arrived.body.len()).sum();
        let mut body = Vec::with_capacity(size);
        let mut scan = Scan::with_room(joined.iter().map(|arrived| arrived.scan.spans.len()).sum());
        for arrived in joined {
            if peers.last().is_none_or(|(_, last)| *last != arrived.peer) {
                peers.push((scan.spans.len() as u32, arrived.peer));
            }
            scan.append(&arrived.scan, body.len() as u32);
            body.extend_from_slice(&arrived.body);
            replies.extend(arrived.reply);
        }
        (Bytes::from(body), scan)
    };
    let spans = scan.spans.len() as u64;
    let state = State { counted: body.len(), body: Some(body), spans, counted_spans: spans, replies, id };
    let entry = Entry { requests, peers, state: Mutex::new(state) };
    (Arc::new(entry), scan)
}

#[cfg(test)]
mod tests;
