//! What is known of the watched processes: the evidence log, read and made findable. Holds what happened
//! within the retention time; every part is bounded. No I/O, and no clock but the one handed in.

use std::collections::{HashMap, VecDeque};

use crate::calls::Calls;
use crate::clock::Clock;
use crate::hash::Hashed;
use crate::lineage::{Lineage, SpanKey};
use crate::log::Read;
use crate::records::{
    Event, Peer, ProcessIdentity, EVENT_CALL, EVENT_GOROUTINE_EXIT, EVENT_HEARTBEAT, EVENT_LOSS,
    EVENT_OVERTAKEN, EVENT_PROCESS, EVENT_PROCESS_EXIT, EVENT_SENDER, EVENT_SPAN_END, EVENT_TRACEPARENT,
    EVENT_WAIT, EVENT_WAIT_GOING_ON, PROCESS_HAS_SPAN_ENDS, WAIT_END_UNKNOWN, WAIT_KERNEL,
};
use crate::span_ends::{SpanEnd, SpanEnds};
use crate::unprobed::{Endpoint, Unprobed};
use crate::waits::{Owner, Waits};

const MOST_SENDERS: usize = 16_384;
const MOST_LOSSES: usize = 1024;
/// Two rounds of the observer.
const LOSSES_APART_NS: u64 = 100_000_000;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub since_ns: u64,
    /// PROCESS_*
    pub flags: u16,
    pub ended_ns: Option<u64>,
    pub identity: ProcessIdentity,
}

/// A time in which events were lost, of one process or, for tgid 0, of any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loss {
    start_ns: u64,
    end_ns: u64,
    tgid: u32,
}

/// Counted since the index was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub records: u64,
    /// Overwritten in the log before they were read.
    pub records_overtaken: u64,
    pub span_ends: u64,
    /// A second end of a span: only the first counts.
    pub span_ends_repeated: u64,
    pub waits: u64,
    /// The goroutine went on, at an unknown time: no evidence.
    pub waits_end_unknown: u64,
    pub losses: u64,
    /// Times that memory was short.
    pub shed: u64,
}

pub struct Index {
    pub span_ends: SpanEnds,
    pub waits: Waits,
    pub calls: Calls,
    pub lineage: Lineage,
    pub unprobed: Unprobed,
    pub clock: Clock,
    pub totals: Totals,
    processes: HashMap<u32, Process, Hashed>,
    losses: VecDeque<Loss>,
    senders: HashMap<Endpoint, u32, Hashed>,
    senders_by_age: VecDeque<Endpoint>,
    retention_ns: u64,
    pub watermark_ns: u64,
    pub going_on_ns: u64,
    pub heartbeat_seen_ns: u64,
    losses_forgotten_until_ns: u64,
    /// Records of an unknown time were lost since this one; the next heartbeat says until when.
    lost_since_ns: Option<u64>,
    tidied_ns: u64,
}

impl Index {
    /// `began_late`: what was in the log before is gone, and nobody knows from when.
    pub fn new(retention_ns: u64, max_waits: usize, max_span_ends: usize, began_late: bool) -> Self {
        Self {
            span_ends: SpanEnds::new(max_span_ends).with_bursts(),
            waits: Waits::new(max_waits),
            calls: Calls::default(),
            lineage: Lineage::default(),
            unprobed: Unprobed::default(),
            clock: Clock::default(),
            totals: Totals::default(),
            processes: HashMap::default(),
            losses: VecDeque::new(),
            senders: HashMap::default(),
            senders_by_age: VecDeque::new(),
            retention_ns,
            watermark_ns: 0,
            going_on_ns: 0,
            heartbeat_seen_ns: 0,
            losses_forgotten_until_ns: 0,
            lost_since_ns: began_late.then_some(0),
            tidied_ns: 0,
        }
    }

    pub fn take(&mut self, read: Read, now_ns: u64) {
        match read {
            Read::Overtaken(records) => {
                self.totals.records_overtaken += records;
                self.take_overtaken();
            }
            Read::Heartbeat { watermark_ns, going_on_ns } => {
                self.take_heartbeat(watermark_ns, going_on_ns, now_ns)
            }
            Read::Records(records) => {
                self.totals.records += records.len() as u64;
                let events = records.iter().map(Event::read);
                let span_ends = events.filter(|event| event.kind == EVENT_SPAN_END);
                self.span_ends.fetch(span_ends.map(|event| span_id(&event)));
                for record in records {
                    self.take_event(&Event::read(record), now_ns);
                }
            }
        }
    }

    fn take_overtaken(&mut self) {
        self.lost_since_ns.get_or_insert(self.watermark_ns);
        self.waits.lost(0);
    }

    fn take_event(&mut self, event: &Event, now_ns: u64) {
        match event.kind {
            EVENT_WAIT | EVENT_WAIT_GOING_ON => self.take_wait(event),
            EVENT_SPAN_END => self.take_span_end(event),
            EVENT_HEARTBEAT => self.take_heartbeat(event.start_ns, event.end_ns, now_ns),
            EVENT_LOSS => self.take_loss(event.start_ns, event.end_ns, event.tgid),
            EVENT_PROCESS => self.take_process(event),
            EVENT_PROCESS_EXIT => {
                self.waits.process_ended(event.tgid, event.end_ns);
                self.unprobed.process_ended(event.tgid);
                if let Some(process) = self.processes.get_mut(&event.tgid) {
                    process.ended_ns = Some(event.end_ns);
                }
            }
            EVENT_SENDER => self.take_sender(event),
            EVENT_CALL => self.calls.take(event),
            EVENT_GOROUTINE_EXIT => self.lineage.exited((event.tgid, event.goid), event.end_ns),
            EVENT_TRACEPARENT => self.unprobed.take_traceparent(event),
            EVENT_OVERTAKEN => self.take_overtaken(),
            _ => {} // of a newer observer: nothing that could be used here
        }
    }

    fn take_wait(&mut self, event: &Event) {
        let owner = self.owner(event);
        self.totals.waits += 1;
        if event.flags & WAIT_END_UNKNOWN != 0 {
            self.totals.waits_end_unknown += 1;
            self.waits.withdraw(owner, event);
            return;
        }
        self.waits.insert(owner, *event);
        self.lineage.take_wait(event);
        if event.kind == EVENT_WAIT {
            if self.has_span_ends(event.tgid) {
                self.calls.take_wait(event);
            } else {
                self.unprobed.take_wait(event, endpoint_of(&event.peer()));
            }
        }
    }

    fn has_span_ends(&self, tgid: u32) -> bool {
        self.processes.get(&tgid).is_none_or(|process| process.flags & PROCESS_HAS_SPAN_ENDS != 0)
    }

    /// Where span ends are not seen, spans are found by their process: there the sleeps of all its threads
    /// are kept together, whichever goroutine they were of.
    fn owner(&self, event: &Event) -> Owner {
        let by_process = event.wait_kind == WAIT_KERNEL && !self.has_span_ends(event.tgid);
        (event.tgid, if by_process { 0 } else { event.goid })
    }

    fn take_span_end(&mut self, event: &Event) {
        let end = SpanEnd::of(event);
        self.totals.span_ends += 1;
        self.waits.was_running((event.tgid, event.goid), event.end_ns);
        if !self.span_ends.insert(end) {
            self.totals.span_ends_repeated += 1;
            return;
        }
        if end.is_start_known() {
            let watched_ns = self.processes.get(&end.tgid).map_or(0, |process| process.since_ns);
            self.calls.span_ended(&end, watched_ns);
        }
        let parent_span_id = u64::from_le_bytes(event.span().parent_span_id);
        if parent_span_id != 0 && self.has_something(&end) {
            let child = SpanKey { trace_id: end.trace_id, span_id: end.span_id };
            self.lineage.add_child(parent_span_id, child, end.end_ns);
        }
    }

    /// Whether the span may have evidence that is of its parent's interest. More may say so than have.
    fn has_something(&self, end: &SpanEnd) -> bool {
        let blocked = |goid: u64| self.waits.of((end.tgid, goid)).reaching(end.start_ns).next().is_some();
        let mut made = self.lineage.made_by((end.tgid, end.started_goid()), end.start_ns, end.end_ns);
        blocked(end.goid)
            || self.calls.has_span(end.span_id)
            || self.lineage.has_children(end.span_id)
            || made.next().is_some()
    }

    fn take_heartbeat(&mut self, watermark_ns: u64, going_on_ns: u64, now_ns: u64) {
        if watermark_ns > self.watermark_ns {
            self.watermark_ns = watermark_ns;
            self.heartbeat_seen_ns = now_ns;
            if let Some(since_ns) = self.lost_since_ns.take() {
                self.take_loss(since_ns, watermark_ns, 0);
            }
        }
        self.going_on_ns = self.going_on_ns.max(going_on_ns.min(watermark_ns));
    }

    /// A process that loses something at every tick would fill the list: what follows upon its last loss is one with it.
    fn take_loss(&mut self, start_ns: u64, end_ns: u64, tgid: u32) {
        self.waits.lost(tgid);
        self.note_loss(start_ns, end_ns, tgid);
    }

    fn note_loss(&mut self, start_ns: u64, end_ns: u64, tgid: u32) {
        self.totals.losses += 1;
        let last = self.losses.iter_mut().rev().find(|loss| loss.tgid == tgid);
        if let Some(last) = last.filter(|last| start_ns <= last.end_ns.saturating_add(LOSSES_APART_NS)) {
            last.start_ns = last.start_ns.min(start_ns);
            last.end_ns = last.end_ns.max(end_ns);
            return;
        }
        let mut loss = Loss { start_ns, end_ns, tgid };
        // More than this are a storm; what is between two of them counts as lost, too.
        if self.losses.len() == MOST_LOSSES {
            if let Some(last) = self.losses.pop_back() {
                loss = Loss {
                    start_ns: last.start_ns.min(start_ns),
                    end_ns: last.end_ns.max(end_ns),
                    tgid: if last.tgid == tgid { tgid } else { 0 },
                };
            }
        }
        self.losses.push_back(loss);
    }

    fn take_process(&mut self, event: &Event) {
        let known = self.processes.get(&event.tgid);
        if known.is_some_and(|process| process.since_ns < event.start_ns) {
            self.waits.lost(event.tgid); // another image or another process, or nobody watched for a while
        }
        let identity = event.process();
        let process = Process { since_ns: event.start_ns, flags: event.flags, ended_ns: None, identity };
        self.processes.insert(event.tgid, process);
    }

    fn take_sender(&mut self, event: &Event) {
        let Some(endpoint) = endpoint_of(&event.peer()) else { return };
        if self.senders.insert(endpoint, event.tgid).is_none() {
            self.senders_by_age.push_back(endpoint);
        }
        if self.senders.len() > MOST_SENDERS {
            if let Some(oldest) = self.senders_by_age.pop_front() {
                self.senders.remove(&oldest);
            }
        }
    }

    /// Forgets what is older than the retention time.
    pub fn expire(&mut self) {
        self.forget(self.watermark_ns.saturating_sub(self.retention_ns));
    }

    /// Forgets all but the newest, as memory is short: of what is older than `keep_ns`, evidence counts as lost.
    pub fn shed(&mut self, keep_ns: u64) {
        let before_ns = self.watermark_ns.saturating_sub(keep_ns);
        self.note_loss(0, before_ns, 0);
        self.totals.shed += 1;
        self.forget(before_ns);
        self.waits.shrink();
        self.calls.shrink();
        self.lineage.shrink();
        self.unprobed.shrink();
    }

    fn forget(&mut self, before_ns: u64) {
        self.span_ends.expire(before_ns);
        self.waits.expire(before_ns);
        self.calls.expire(before_ns);
        self.lineage.expire(before_ns);
        self.unprobed.expire(before_ns);
        if before_ns > self.tidied_ns.saturating_add(self.retention_ns) {
            self.tidied_ns = before_ns;
            self.unprobed.forget_readers(before_ns);
        }
        for loss in self.losses.iter().filter(|loss| loss.end_ns < before_ns) {
            self.losses_forgotten_until_ns = self.losses_forgotten_until_ns.max(loss.end_ns);
        }
        self.losses.retain(|loss| loss.end_ns >= before_ns);
        if self.processes.values().any(|process| process.ended_before(before_ns)) {
            self.processes.retain(|_, process| !process.ended_before(before_ns));
            self.senders.retain(|_, tgid| self.processes.contains_key(tgid));
            self.senders_by_age.retain(|endpoint| self.senders.contains_key(endpoint));
        }
    }

    pub fn process(&self, tgid: u32) -> Option<&Process> {
        self.processes.get(&tgid)
    }

    /// Those watched, or ended within the retention time, by pid.
    pub fn processes(&self) -> impl Iterator<Item = (u32, &Process)> {
        self.processes.iter().map(|(tgid, process)| (*tgid, process))
    }

    /// How many processes are watched now.
    pub fn watched(&self) -> usize {
        self.processes.values().filter(|process| process.ended_ns.is_none()).count()
    }

    /// Those among them, or ended a short time ago, whose span ends are not seen.
    pub fn watched_without_span_ends(&self) -> usize {
        self.processes.values().filter(|process| process.flags & PROCESS_HAS_SPAN_ENDS == 0).count()
    }

    pub fn sender(&self, endpoint: &Endpoint) -> Option<u32> {
        self.senders.get(endpoint).copied()
    }

    pub fn sender_count(&self) -> usize {
        self.senders.len()
    }

    pub fn process_count(&self) -> usize {
        self.processes.len()
    }

    pub fn loss_count(&self) -> usize {
        self.losses.len()
    }

    /// Waits, and what was known of losses, up to this time may have been forgotten: of a span that began
    /// before, nobody can say that everything is known.
    pub fn forgotten_until_ns(&self) -> u64 {
        self.waits
            .forgotten_until_ns
            .max(self.losses_forgotten_until_ns)
            .max(self.calls.forgotten_until_ns())
            .max(self.lineage.forgotten_until_ns())
            .max(self.unprobed.forgotten_until_ns())
    }

    /// Whether something of a span with these times may have been missed, if it was of this process: some was
    /// lost, or the process ran and was not watched yet. `tick_ns`: the unit of `start_ticks`.
    pub fn misses(&self, tgid: u32, start_ns: u64, end_ns: u64, tick_ns: u64) -> bool {
        let Some(process) = self.processes.get(&tgid) else { return false };
        if process.since_ns <= start_ns {
            let end_is_forgotten = end_ns <= self.span_ends.forgotten_until_ns;
            return end_is_forgotten || self.is_not_all_known(start_ns, end_ns, tgid);
        }
        // Otherwise another process, that has the same resource or, later, the same pid.
        (1..=start_ns).contains(&process.identity.start_ticks.saturating_mul(tick_ns))
    }

    /// Whether evidence of this process (0: of any) between the two times was lost, may have been forgotten, or
    /// is not all here yet.
    pub fn is_not_all_known(&self, start_ns: u64, end_ns: u64, tgid: u32) -> bool {
        start_ns < self.forgotten_until_ns()
            || end_ns > self.watermark_ns
            || self.lost(start_ns, end_ns, tgid)
    }

    /// Whether evidence of this process (0: of any) between the two times was lost.
    pub fn lost(&self, start_ns: u64, end_ns: u64, tgid: u32) -> bool {
        let unfinished = self.lost_since_ns.is_some_and(|since_ns| since_ns <= end_ns);
        let overlaps = |loss: &Loss| {
            let concerned = loss.tgid == 0 || tgid == 0 || loss.tgid == tgid;
            concerned && loss.start_ns <= end_ns && start_ns <= loss.end_ns
        };
        unfinished || self.losses.iter().any(overlaps)
    }
}

impl Process {
    fn ended_before(&self, time_ns: u64) -> bool {
        self.ended_ns.is_some_and(|ended_ns| ended_ns < time_ns)
    }
}

fn span_id(event: &Event) -> u64 {
    u64::from_le_bytes(event.span().span_id)
}

fn endpoint_of(peer: &Peer) -> Option<Endpoint> {
    match peer.family {
        AF_INET => {
            let ipv4: [u8; 4] = *peer.address.first_chunk()?;
            Some((std::net::Ipv4Addr::from(ipv4).to_ipv6_mapped().octets(), peer.port))
        }
        AF_INET6 => Some((peer.address, peer.port)),
        _ => None,
    }
}
