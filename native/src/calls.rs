//! Which connection a client's call took: what the goroutines of that connection are blocked in while the call is under
//! way belongs to the span that made it.
//!
//! On HTTP/1 a connection serves one call at a time, and the call is under way until the connection is given back or
//! taken again. A reader blocks there between calls, too; that wait ends later, so it is told by its end.
//! On HTTP/2 the connection is one for many calls; while it has nothing to read, it has nothing for any of them.

use std::collections::{HashMap, VecDeque};

use crate::hash::Hashed;
use crate::recent::Recent;
use crate::records::{Event, Peer, CALL_MULTIPLEXED, CALL_OVER, WAIT_FOR_WRITE};
use crate::span_ends::SpanEnd;
use crate::waits::reach_ns;

const MOST: usize = 65_536;
/// Of one connection. A span ends soon after its call, so few are needed.
const TIMES_KEPT: usize = 64;

/// From the arrival of an answer to the end of the client's span that waited for it, or a quarter of the span: on a busy
/// machine a goroutine is late to run.
const ANSWERED_NS: u64 = 10_000_000;

type Goroutine = (u32, u64);
type Descriptor = (u32, i32);
/// Descriptors are used again: the ends tell which connection it is.
type Socket = (Descriptor, u16, u16, [u8; 16]);

#[derive(Clone, Copy)]
struct Call {
    at_ns: u64,
    socket: Socket,
    is_multiplexed: bool,
}

/// A wait of a connection, begun no earlier than the call that it belongs to.
#[derive(Clone, Copy)]
pub struct CallWait {
    pub wait: Event,
    pub end_of_call: EndOfCall,
}

/// What is known of the end of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EndOfCall {
    /// The connection was given back, or the client's span ended with what the connection waited for last.
    Seen,
    /// On a connection for many; the client's span ended when it had waited for nothing for a while.
    Late,
    /// On a connection for many; the span is not that of a call.
    Unknown,
    /// The first call on its connection, with no wait known: the reader may have been parked since before anybody
    /// watched. The wait is empty.
    Unseen,
}

/// Longer than clients keep a connection that is not used (90 s in net/http).
const OLDEST_CONNECTION_NS: u64 = 120_000_000_000;

#[derive(Default)]
struct Connection {
    /// When it was taken for a call, and given back.
    changed_at_ns: VecDeque<u64>,
    first_ns: u64,
    last_ns: u64,
}

pub struct Calls {
    by_goroutine: Recent<Goroutine, Call>,
    connections: HashMap<Socket, Connection, Hashed>,
    waits: Recent<Socket, Event>,
    by_span: Recent<u64, CallWait>,
    pub total: u64,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            by_goroutine: Recent::new(MOST),
            connections: HashMap::default(),
            waits: Recent::new(MOST),
            by_span: Recent::new(MOST),
            total: 0,
        }
    }
}

impl Calls {
    pub fn take(&mut self, event: &Event) {
        let is_multiplexed = event.flags & CALL_MULTIPLEXED != 0;
        let connection = self.connections.entry(socket_of(event)).or_default();
        if connection.first_ns == 0 {
            connection.first_ns = event.start_ns;
        }
        connection.last_ns = event.start_ns;
        if !is_multiplexed {
            if connection.changed_at_ns.len() == TIMES_KEPT {
                connection.changed_at_ns.pop_front();
            }
            connection.changed_at_ns.push_back(event.start_ns);
        }
        if event.flags & CALL_OVER == 0 {
            let call = Call { at_ns: event.start_ns, socket: socket_of(event), is_multiplexed };
            self.total += 1;
            self.by_goroutine.push(event.start_ns, (event.tgid, event.goid), call);
        }
    }

    /// Whether calls say whose this wait is: it was over when a call had used its connection. Before, in the making of
    /// the connection, it is of whoever had it made.
    pub fn tell_of(&self, wait: &Event) -> bool {
        let connection = self.connections.get(&socket_of(wait));
        connection.is_some_and(|connection| connection.first_ns < reach_ns(wait))
    }

    /// A wait that is over.
    pub fn take_wait(&mut self, wait: &Event) {
        if !self.connections.is_empty() && self.connections.contains_key(&socket_of(wait)) {
            self.waits.push(wait.end_ns, socket_of(wait), *wait);
        }
    }

    /// A span has ended: the calls made in it, and in no span inside of it, are its own. Their waits are in the log
    /// already, as the answer came before the end.
    ///
    /// The end of a call on a connection for many is not seen. A client's span ends with its answer, which is what the
    /// connection waited for last; a span that goes on for longer does something else by then, while the connection
    /// waits for others. What is written is of anybody.
    ///
    /// `watched_ns`: since when the process is watched.
    pub fn span_ended(&mut self, end: &SpanEnd, watched_ns: u64) {
        let (started_on, start_ns, end_ns) = ((end.tgid, end.started_goid()), end.start_ns, end.end_ns);
        if !self.by_goroutine.has(&started_on) {
            return;
        }
        let calls = self.by_goroutine.take(&started_on, |call| (start_ns..=end_ns).contains(&call.at_ns));
        for call in calls {
            let until_ns = end_ns.min(self.over_ns(&call));
            let of_call = self.waits.of(&call.socket).filter(|wait| {
                wait.goid != started_on.1
                    && (call.at_ns + 1..=until_ns).contains(&wait.end_ns)
                    && (!call.is_multiplexed || is_for_answer(wait))
            });
            let of_call: Vec<Event> = of_call.copied().collect();
            let is_first = self
                .connections
                .get(&call.socket)
                .is_some_and(|connection| connection.first_ns == call.at_ns);
            if of_call.is_empty() && is_first && call.at_ns < watched_ns.saturating_add(OLDEST_CONNECTION_NS)
            {
                let ((tgid, fd), ..) = call.socket;
                let wait = Event { start_ns: call.at_ns, end_ns: call.at_ns, tgid, fd, ..Event::default() };
                self.by_span.push(end_ns, end.span_id, CallWait { wait, end_of_call: EndOfCall::Unseen });
            }
            let last_ns = of_call.iter().map(|wait| wait.end_ns).max().unwrap_or(0);
            let end_of_call = if !call.is_multiplexed || (end.is_of_client() && last_ns >= answered_ns(end)) {
                EndOfCall::Seen
            } else if end.is_of_client() {
                EndOfCall::Late
            } else {
                EndOfCall::Unknown
            };
            for wait in of_call {
                let wait = Event { start_ns: wait.start_ns.max(call.at_ns), ..wait };
                self.by_span.push(end_ns, end.span_id, CallWait { wait, end_of_call });
            }
        }
    }

    fn over_ns(&self, call: &Call) -> u64 {
        let times = self.connections.get(&call.socket).map(|connection| &connection.changed_at_ns);
        let next = times.and_then(|times| times.iter().find(|at_ns| **at_ns > call.at_ns));
        next.copied().unwrap_or(u64::MAX)
    }

    #[inline]
    pub fn of_span(&self, span_id: u64) -> impl Iterator<Item = &CallWait> {
        self.by_span.of(&span_id)
    }

    #[inline]
    pub fn has_span(&self, span_id: u64) -> bool {
        self.by_span.has(&span_id)
    }

    pub fn shrink(&mut self) {
        self.by_goroutine.shrink();
        self.waits.shrink();
        self.by_span.shrink();
    }

    pub fn expire(&mut self, before_ns: u64) {
        self.by_goroutine.expire(before_ns);
        self.waits.expire(before_ns);
        self.by_span.expire(before_ns);
        if self.connections.len() >= MOST || self.waits.is_empty() {
            self.connections.retain(|_, connection| connection.last_ns >= before_ns);
        }
    }

    pub fn forgotten(&self) -> u64 {
        self.by_goroutine.forgotten + self.waits.forgotten + self.by_span.forgotten
    }

    pub fn forgotten_until_ns(&self) -> u64 {
        let kept = [self.by_goroutine.forgotten_until_ns, self.waits.forgotten_until_ns];
        kept.into_iter().fold(self.by_span.forgotten_until_ns, u64::max)
    }
}

fn is_for_answer(wait: &Event) -> bool {
    wait.flags & WAIT_FOR_WRITE == 0
}

/// Since when an answer can have come that a client's span ended with.
pub fn answered_ns(end: &SpanEnd) -> u64 {
    let duration_ns = end.end_ns.saturating_sub(end.start_ns);
    end.end_ns.saturating_sub(ANSWERED_NS.max(duration_ns / 4))
}

fn socket_of(event: &Event) -> Socket {
    let Peer { port, local_port, address, .. } = event.peer();
    ((event.tgid, event.fd), port, local_port, address)
}
