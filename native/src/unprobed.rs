//! What ties waits to spans in processes whose span ends are not seen: labels of goroutines, headers of requests,
//! connections and who reads them.

use std::collections::HashMap;

use crate::hash::Hashed;
use crate::recent::Recent;
use crate::records::{Event, FD_SOCKET, TRACEPARENT_WRITTEN, WAIT_FOR_WRITE};

const MOST: usize = 65_536;

/// One end of a connection; an IPv4 address as it is mapped into IPv6.
pub type Endpoint = ([u8; 16], u16);

/// Who reads from a connection.
#[derive(Clone, Copy)]
struct ReaderOf {
    tgid: u32,
    goid: u64,
    local_port: u16,
    since_ns: u64,
    last_ns: u64,
    /// Two connections have this other end, in different network namespaces or to different ports of ours.
    is_ambiguous: bool,
}

pub struct Unprobed {
    labelled: Recent<u64, Event>,
    by_descriptor: Recent<(u32, i32), Event>,
    by_maker: Recent<(u32, u64), Event>,
    traceparents: Recent<(bool, [u8; 16], u64), Event>,
    /// When a header went over a descriptor.
    headers_on: Recent<(u32, i32), u64>,
    readers: HashMap<Endpoint, ReaderOf, Hashed>,
}

impl Default for Unprobed {
    fn default() -> Self {
        Self {
            labelled: Recent::new(MOST),
            by_descriptor: Recent::new(MOST),
            by_maker: Recent::new(MOST),
            traceparents: Recent::new(MOST),
            headers_on: Recent::new(MOST),
            readers: HashMap::default(),
        }
    }
}

impl Unprobed {
    /// A wait that is over. `other_end`: of its socket.
    pub fn take_wait(&mut self, wait: &Event, other_end: Option<Endpoint>) {
        let at_ns = wait.end_ns;
        let label = u64::from_le_bytes(wait.peer().label);
        if label != 0 {
            self.labelled.push(at_ns, label, *wait);
        }
        if wait.fd_type == FD_SOCKET {
            self.by_descriptor.push(at_ns, (wait.tgid, wait.fd), *wait);
        }
        if wait.parent_goid != 0 {
            self.by_maker.push(at_ns, (wait.tgid, wait.parent_goid), *wait);
        }
        if let Some(other_end) = other_end.filter(|_| wait.goid != 0 && wait.flags & WAIT_FOR_WRITE == 0) {
            self.note_reader(other_end, wait);
        }
    }

    fn note_reader(&mut self, other_end: Endpoint, wait: &Event) {
        let reader = ReaderOf {
            tgid: wait.tgid,
            goid: wait.goid,
            local_port: wait.peer().local_port,
            since_ns: wait.start_ns,
            last_ns: wait.end_ns,
            is_ambiguous: false,
        };
        let Some(known) = self.readers.get_mut(&other_end) else {
            if self.readers.len() < MOST {
                self.readers.insert(other_end, reader);
            }
            return;
        };
        known.last_ns = wait.end_ns;
        if (known.tgid, known.local_port) != (reader.tgid, reader.local_port) {
            known.is_ambiguous = true;
        } else if known.goid != wait.goid && wait.parent_goid != known.goid {
            // A new connection from the same port. A child of the reader, as net/http has, only looks out for a close.
            *known = reader;
        }
    }

    /// Process and goroutine.
    pub fn reader_of(&self, other_end: &Endpoint, before_ns: u64) -> Option<(u32, u64)> {
        let reader = self.readers.get(other_end)?;
        (!reader.is_ambiguous && reader.since_ns <= before_ns).then_some((reader.tgid, reader.goid))
    }

    pub fn take_traceparent(&mut self, event: &Event) {
        let span = event.span();
        let key = (event.flags & TRACEPARENT_WRITTEN != 0, span.trace_id, u64::from_le_bytes(span.span_id));
        self.traceparents.push(event.start_ns, key, *event);
        self.headers_on.push(event.start_ns, (event.tgid, event.fd), event.start_ns);
    }

    /// And when the next header went over that descriptor, or 0. None also if there was more than one: a proxy that
    /// hands on what it got, or a retry.
    pub fn traceparent(&self, is_written: bool, trace_id: [u8; 16], span_id: u64) -> Option<(Event, u64)> {
        let mut found = self.traceparents.of(&(is_written, trace_id, span_id));
        let first = found.next()?;
        let newest_first = self.headers_on.of(&(first.tgid, first.fd)).rev();
        let next_ns = newest_first.take_while(|at_ns| **at_ns > first.start_ns).last().copied().unwrap_or(0);
        found.next().is_none().then_some((*first, next_ns))
    }

    pub fn labelled(&self, span_id: u64) -> Vec<Event> {
        sorted(self.labelled.of(&span_id).copied())
    }

    pub fn ended_on(&self, tgid: u32, fd: i32, start_ns: u64, end_ns: u64) -> Vec<Event> {
        let waits = self.by_descriptor.of(&(tgid, fd));
        sorted(waits.filter(|wait| (start_ns + 1..=end_ns).contains(&wait.end_ns)).copied())
    }

    /// Goroutines made by this one that were blocked in that time.
    pub fn made_by(&self, tgid: u32, goid: u64, start_ns: u64, end_ns: u64) -> Vec<u64> {
        let waits = self.by_maker.of(&(tgid, goid));
        let mut made: Vec<u64> = waits
            .filter(|wait| wait.start_ns < end_ns && start_ns < wait.end_ns)
            .map(|wait| wait.goid)
            .collect();
        made.sort_unstable();
        made.dedup();
        made
    }

    pub fn shrink(&mut self) {
        self.labelled.shrink();
        self.by_descriptor.shrink();
        self.by_maker.shrink();
        self.traceparents.shrink();
        self.headers_on.shrink();
    }

    pub fn expire(&mut self, before_ns: u64) {
        self.labelled.expire(before_ns);
        self.by_descriptor.expire(before_ns);
        self.by_maker.expire(before_ns);
        self.traceparents.expire(before_ns);
        self.headers_on.expire(before_ns);
    }

    pub fn process_ended(&mut self, tgid: u32) {
        self.readers.retain(|_, reader| reader.tgid != tgid);
    }

    /// Those not seen to read for so long: the connection may be closed, and the port another's.
    pub fn forget_readers(&mut self, before_ns: u64) {
        self.readers.retain(|_, reader| reader.last_ns >= before_ns);
    }

    pub fn forgotten_until_ns(&self) -> u64 {
        let kept = [self.labelled.forgotten_until_ns, self.by_descriptor.forgotten_until_ns];
        kept.into_iter().fold(self.by_maker.forgotten_until_ns, u64::max)
    }
}

fn sorted(waits: impl Iterator<Item = Event>) -> Vec<Event> {
    let mut waits: Vec<Event> = waits.collect();
    waits.sort_by_key(|wait| wait.start_ns);
    waits
}
