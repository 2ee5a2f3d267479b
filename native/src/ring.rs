//! Drains a BPF ring buffer straight into the evidence log.
//! ! Layout of the map's file: a page with the consumer's position, a page with the producer's, then the
//data, mapped ! twice in a row so that no record is ever split. A record is a header of 8 bytes and its
//content, padded to 8. ! Source: kernel/bpf/ringbuf.c (struct bpf_ringbuf), Linux 5.8. ! ! libbpf's own
//reader would call back for each record; this one copies records in batches and touches the ! consumer's
//position, which the probes read on every event, once a batch.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::{LogWriter, Record};
use crate::mapping::{duplicate, page_size, Access, Mapping};
use crate::records::{
    Event, EVENT_CALL, EVENT_GOROUTINE_EXIT, EVENT_PROCESS_EXEC, EVENT_PROCESS_EXIT, EVENT_SPAN_END,
    EVENT_TRACEPARENT, EVENT_WAIT, EVENT_WAIT_GOING_ON, RECORD_SIZE,
};

const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const HEADER_SIZE: u64 = 8;
const BATCH: usize = 256;
/// Of one call: more than any ring holds, so that a storm of events cannot keep the observer in here.
const MOST_RECORDS: usize = 1 << 20;

/// What one call took out of the ring.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Records that went into the log.
    pub moved: u64,
    /// Records of another size or an unknown kind; left out.
    pub foreign: u64,
    /// The ring was read up to where it had been filled when the call began, or further. If not, a record in
    /// between was still being written.
    pub caught_up: bool,
    /// Processes that began or ended, record after record.
    pub for_observer: Vec<u8>,
}

pub struct Ring {
    consumer: Mapping,
    producer_and_data: Mapping,
    /// In bytes; a power of two.
    size: u64,
    page_size: usize,
}

impl Ring {
    /// `size`: the map's max_entries.
    pub fn new(map_fd: i32, size: u64) -> io::Result<Self> {
        let page_size = page_size();
        if !size.is_power_of_two() || size < page_size as u64 || size > 1 << 32 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let file = duplicate(map_fd)?;
        let consumer = Mapping::new(file.as_fd(), 0, page_size, Access::ReadWrite)?;
        let rest = page_size + 2 * size as usize;
        let producer_and_data = Mapping::new(file.as_fd(), page_size, rest, Access::Read)?;
        Ok(Self { consumer, producer_and_data, size, page_size })
    }

    /// Moves every record up to the first that is still being written.
    pub fn drain(&mut self, log: &mut LogWriter) -> Drained {
        let mut drained = Drained::default();
        let mut batch: Vec<Record> = Vec::with_capacity(BATCH);
        // Nobody else writes this position.
        let mut position = self.consumer_position().load(Ordering::Relaxed);
        // Acquire: the headers of all records before it have been written, if only as busy.
        let until = self.producer_position().load(Ordering::Acquire);
        for _ in 0..MOST_RECORDS {
            let Some((content, next)) = self.record(position, until) else { break };
            if let Some(record) = content {
                self.sort(record, &mut batch, &mut drained);
            }
            position = next;
            if batch.len() == BATCH {
                self.give(&mut batch, position, log);
            }
        }
        self.give(&mut batch, position, log);
        drained.caught_up = position >= until;
        drained
    }

    fn consumer_position(&self) -> &AtomicU64 {
        &self.consumer.words()[0]
    }

    fn producer_position(&self) -> &AtomicU64 {
        &self.producer_and_data.words()[0]
    }

    /// The content of the record at this position (None: it was discarded), and where the next one begins.
    /// None if there is none, or it is still being written.
    fn record(&self, position: u64, until: u64) -> Option<(Option<&[AtomicU64]>, u64)> {
        if position >= until {
            return None;
        }
        let at = (self.page_size as u64 + (position & (self.size - 1))) as usize / 8;
        let words = &self.producer_and_data.words()[at..];
        // Acquire: without the busy bit, the content has been written. The page offset in the upper half is
        // the kernel's own business.
        let header = words[0].load(Ordering::Acquire) as u32;
        if header & BUSY != 0 {
            return None;
        }
        let length = u64::from(header & !DISCARDED);
        let next = position + (HEADER_SIZE + length).next_multiple_of(8);
        let content = words.get(1..1 + length.div_ceil(8) as usize)?;
        let kept = header & DISCARDED == 0;
        Some((kept.then_some(if length == RECORD_SIZE as u64 { content } else { &[] }), next))
    }

    fn sort(&self, words: &[AtomicU64], batch: &mut Vec<Record>, drained: &mut Drained) {
        let Some(words) = words.first_chunk::<{ RECORD_SIZE / 8 }>() else {
            drained.foreign += 1;
            return;
        };
        let mut record = [0; RECORD_SIZE];
        for (word, bytes) in words.iter().zip(record.as_chunks_mut::<8>().0) {
            *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        let kind = Event::read(&record).kind;
        if matches!(kind, EVENT_PROCESS_EXEC | EVENT_PROCESS_EXIT) {
            drained.for_observer.extend_from_slice(&record);
        }
        match kind {
            EVENT_WAIT | EVENT_WAIT_GOING_ON | EVENT_SPAN_END | EVENT_CALL | EVENT_TRACEPARENT
            | EVENT_GOROUTINE_EXIT | EVENT_PROCESS_EXIT => {
                drained.moved += 1;
                batch.push(record);
            }
            EVENT_PROCESS_EXEC => {}
            _ => drained.foreign += 1,
        }
    }

    fn give(&self, batch: &mut Vec<Record>, position: u64, log: &mut LogWriter) {
        log.append(batch);
        batch.clear();
        // Release: the records have been copied before the kernel may write over them.
        self.consumer_position().store(position, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
