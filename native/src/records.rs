//! The records that probes, observer and pipeline exchange.
//!
//! Generated from probes/events.h by scripts/generate_records.py: change them there. What a field means is
//! said in that header. Times are CLOCK_MONOTONIC in nanoseconds.

pub const EVENTS_VERSION: u32 = 2;
pub const RECORD_SIZE: usize = 112;

pub const EVENT_WAIT: u16 = 1;
pub const EVENT_WAIT_GOING_ON: u16 = 2;
pub const EVENT_SPAN_END: u16 = 3;
pub const EVENT_PROCESS_EXEC: u16 = 4;
pub const EVENT_PROCESS_EXIT: u16 = 5;
pub const EVENT_CALL: u16 = 6;
pub const EVENT_TRACEPARENT: u16 = 7;
pub const EVENT_GOROUTINE_EXIT: u16 = 8;
pub const EVENT_HEARTBEAT: u16 = 32;
pub const EVENT_LOSS: u16 = 33;
pub const EVENT_PROCESS: u16 = 34;
pub const EVENT_SENDER: u16 = 35;
pub const EVENT_OVERTAKEN: u16 = 36;

pub const WAIT_KERNEL: u8 = 1;
pub const WAIT_PARKED: u8 = 2;

pub const WAIT_FOR_WRITE: u16 = 1;
pub const WAIT_END_UNKNOWN: u16 = 2;
pub const WAIT_END_OF_FILE: u16 = 4;
pub const CALL_MULTIPLEXED: u16 = 8;
pub const PROCESS_HAS_GOROUTINES: u16 = 16;
pub const PROCESS_HAS_SPAN_ENDS: u16 = 32;
pub const PROCESS_HAS_SPAN_STARTS: u16 = 64;
pub const PROCESS_HAS_LINEAGE: u16 = 128;
pub const PROCESS_HAS_CALLS: u16 = 256;
pub const SPAN_ENDED_BY_CHILD: u16 = 512;
pub const TRACEPARENT_WRITTEN: u16 = 1024;
pub const PROCESS_WANTS_HEADERS: u16 = 2048;
pub const CALL_OVER: u16 = 8192;
pub const PROCESS_HAS_EXITS: u16 = 16384;
pub const SPAN_OF_CLIENT: u16 = 4096;

pub const FD_UNKNOWN: u8 = 0;
pub const FD_PIPE: u8 = 1;
pub const FD_CHARACTER_DEVICE: u8 = 2;
pub const FD_DIRECTORY: u8 = 4;
pub const FD_BLOCK_DEVICE: u8 = 6;
pub const FD_FILE: u8 = 8;
pub const FD_SOCKET: u8 = 12;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub start_ns: u64,
    pub end_ns: u64,
    pub goid: u64,
    pub parent_goid: u64,
    pub tgid: u32,
    pub tid: u32,
    pub kind: u16,
    pub flags: u16,
    pub syscall: u16,
    pub error: u16,
    pub fd: i32,
    pub wait_kind: u8,
    pub fd_type: u8,
    pub tail_of_ns: u64,
    pub root_goid: u64,
    pub root_ns: u64,
    pub detail: [u8; 32],
}

impl Event {
    pub fn read(bytes: &[u8; 112]) -> Self {
        Self {
            start_ns: u64::from_le_bytes([
                bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
            ]),
            end_ns: u64::from_le_bytes([
                bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
            ]),
            goid: u64::from_le_bytes([
                bytes[16], bytes[17], bytes[18], bytes[19], bytes[20], bytes[21], bytes[22], bytes[23],
            ]),
            parent_goid: u64::from_le_bytes([
                bytes[24], bytes[25], bytes[26], bytes[27], bytes[28], bytes[29], bytes[30], bytes[31],
            ]),
            tgid: u32::from_le_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]),
            tid: u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]),
            kind: u16::from_le_bytes([bytes[40], bytes[41]]),
            flags: u16::from_le_bytes([bytes[42], bytes[43]]),
            syscall: u16::from_le_bytes([bytes[44], bytes[45]]),
            error: u16::from_le_bytes([bytes[46], bytes[47]]),
            fd: i32::from_le_bytes([bytes[48], bytes[49], bytes[50], bytes[51]]),
            wait_kind: bytes[52],
            fd_type: bytes[53],
            tail_of_ns: u64::from_le_bytes([
                bytes[56], bytes[57], bytes[58], bytes[59], bytes[60], bytes[61], bytes[62], bytes[63],
            ]),
            root_goid: u64::from_le_bytes([
                bytes[64], bytes[65], bytes[66], bytes[67], bytes[68], bytes[69], bytes[70], bytes[71],
            ]),
            root_ns: u64::from_le_bytes([
                bytes[72], bytes[73], bytes[74], bytes[75], bytes[76], bytes[77], bytes[78], bytes[79],
            ]),
            detail: *bytes[80..].first_chunk().expect("a constant range"),
        }
    }

    pub fn bytes(&self) -> [u8; 112] {
        let mut bytes = [0; 112];
        bytes[0..8].copy_from_slice(&self.start_ns.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.end_ns.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.goid.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.parent_goid.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.tgid.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.tid.to_le_bytes());
        bytes[40..42].copy_from_slice(&self.kind.to_le_bytes());
        bytes[42..44].copy_from_slice(&self.flags.to_le_bytes());
        bytes[44..46].copy_from_slice(&self.syscall.to_le_bytes());
        bytes[46..48].copy_from_slice(&self.error.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.fd.to_le_bytes());
        bytes[52] = self.wait_kind;
        bytes[53] = self.fd_type;
        bytes[56..64].copy_from_slice(&self.tail_of_ns.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.root_goid.to_le_bytes());
        bytes[72..80].copy_from_slice(&self.root_ns.to_le_bytes());
        bytes[80..112].copy_from_slice(&self.detail);
        bytes
    }

    pub fn peer(&self) -> Peer {
        Peer::read(&self.detail)
    }

    pub fn span(&self) -> SpanIds {
        SpanIds::read(&self.detail)
    }

    pub fn process(&self) -> ProcessIdentity {
        ProcessIdentity::read(&self.detail)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub family: u16,
    pub port: u16,
    pub local_port: u16,
    pub protocol: u16,
    pub address: [u8; 16],
    pub label: [u8; 8],
}

impl Peer {
    pub fn read(bytes: &[u8; 32]) -> Self {
        Self {
            family: u16::from_le_bytes([bytes[0], bytes[1]]),
            port: u16::from_le_bytes([bytes[2], bytes[3]]),
            local_port: u16::from_le_bytes([bytes[4], bytes[5]]),
            protocol: u16::from_le_bytes([bytes[6], bytes[7]]),
            address: *bytes[8..].first_chunk().expect("a constant range"),
            label: *bytes[24..].first_chunk().expect("a constant range"),
        }
    }

    pub fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0..2].copy_from_slice(&self.family.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.port.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.local_port.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.protocol.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.address);
        bytes[24..32].copy_from_slice(&self.label);
        bytes
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanIds {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub parent_span_id: [u8; 8],
}

impl SpanIds {
    pub fn read(bytes: &[u8; 32]) -> Self {
        Self {
            trace_id: *bytes[0..].first_chunk().expect("a constant range"),
            span_id: *bytes[16..].first_chunk().expect("a constant range"),
            parent_span_id: *bytes[24..].first_chunk().expect("a constant range"),
        }
    }

    pub fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.span_id);
        bytes[24..32].copy_from_slice(&self.parent_span_id);
        bytes
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessIdentity {
    pub start_ticks: u64,
    pub inner_pid: u32,
    pub container_id: [u8; 16],
}

impl ProcessIdentity {
    pub fn read(bytes: &[u8; 32]) -> Self {
        Self {
            start_ticks: u64::from_le_bytes([
                bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
            ]),
            inner_pid: u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            container_id: *bytes[16..].first_chunk().expect("a constant range"),
        }
    }

    pub fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0..8].copy_from_slice(&self.start_ticks.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.inner_pid.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.container_id);
        bytes
    }
}
