/* The contract between the probes, the observer and the pipeline: what travels through the ring
 * buffers and the evidence log, and what the observer writes into the maps of the probes.
 *
 * enricher/evidence/records.py and native/src/records.rs are generated from this file
 * (scripts/generate_records.py). Times are CLOCK_MONOTONIC in nanoseconds. Everything is fixed width
 * and little-endian, as the log is shared memory and not a wire format.
 */
#ifndef ENRICHER_EVENTS_H
#define ENRICHER_EVENTS_H

#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

#define EVENTS_VERSION 2

enum event_kind {
	/* from the probes */
	EVENT_WAIT = 1, /* a system call was blocked from start_ns to end_ns, and is so no more */
	EVENT_WAIT_GOING_ON = 2, /* blocked since start_ns, and still so at end_ns; an EVENT_WAIT with the same
				  * tgid, goid, fd and start_ns replaces it */
	EVENT_SPAN_END = 3, /* the SDK's End() was called at end_ns; the span was started at start_ns on goroutine
			     * root_goid, both 0 if that was not seen */
	EVENT_PROCESS_EXEC = 4, /* for discovery; the pipeline has no use for it */
	EVENT_PROCESS_EXIT = 5,
	EVENT_CALL = 6, /* at start_ns the goroutine chose the connection `fd` (and `peer`) for a call as a client, or
			 * (CALL_OVER) gave it back to wait for the next */
	EVENT_TRACEPARENT = 7, /* at start_ns the goroutine read, or wrote, a request on `fd` whose header names `span`:
				* of what is read the trace and the caller's span */
	EVENT_GOROUTINE_EXIT = 8, /* at end_ns, of one with a root that has waited */
	/* from the observer */
	EVENT_HEARTBEAT = 32, /* every event up to start_ns is in the log (the watermark), and every wait that was
			       * going on at end_ns, too; end_ns <= start_ns */
	EVENT_LOSS = 33, /* events between start_ns and end_ns were lost, of process tgid or, if 0, of any */
	EVENT_PROCESS = 34, /* process tgid is watched from start_ns on; flags: PROCESS_* */
	EVENT_SENDER = 35, /* the TCP connection of `peer` (the sender's own address and port) is of tgid */
	EVENT_OVERTAKEN = 36, /* in recordings only: events were lost from the last heartbeat to the next one */
};

enum wait_kind {
	WAIT_KERNEL = 1, /* the thread slept inside the call */
	WAIT_PARKED = 2, /* EAGAIN or EINPROGRESS until the same goroutine's next call on that descriptor */
};

enum event_flag {
	WAIT_FOR_WRITE = 1, /* connect, send and write calls; otherwise accept, receive and read calls */
	WAIT_END_UNKNOWN = 2, /* the goroutine went on without calling again: end_ns is only the latest it can be */
	WAIT_END_OF_FILE = 4, /* the call that ended the wait read nothing: the other end has closed */
	CALL_MULTIPLEXED = 8, /* other calls may be under way on the connection (HTTP/2) */
	PROCESS_HAS_GOROUTINES = 16, /* the layout of its Go runtime is known: waits carry goids */
	PROCESS_HAS_SPAN_ENDS = 32, /* the layout of its SDK is known and End() is probed */
	PROCESS_HAS_SPAN_STARTS = 64, /* so are the places where spans are started */
	PROCESS_HAS_LINEAGE = 128, /* so is the place where goroutines are made */
	PROCESS_HAS_CALLS = 256, /* so are those where a client takes a connection */
	SPAN_ENDED_BY_CHILD = 512, /* SPAN_END: on a goroutine made, inside the span, by the one that started it */
	TRACEPARENT_WRITTEN = 1024, /* the header was in what a client wrote, otherwise in what a server read */
	PROCESS_WANTS_HEADERS = 2048, /* its span ends are not seen: look for `traceparent` in what it reads and writes */
	CALL_OVER = 8192,
	PROCESS_HAS_EXITS = 16384, /* the end of goroutines is probed */
	SPAN_OF_CLIENT = 4096, /* SPAN_END: its kind is client */
};

/* What the descriptor of a wait is; the values are S_IFMT of the inode >> 12. */
enum fd_type {
	FD_UNKNOWN = 0,
	FD_PIPE = 1,
	FD_CHARACTER_DEVICE = 2,
	FD_DIRECTORY = 4,
	FD_BLOCK_DEVICE = 6,
	FD_FILE = 8,
	FD_SOCKET = 12,
};

/* The other end of a socket. family: AF_INET (address[0..4]), AF_INET6, AF_UNIX (address: the number of the socket's own
 * inode), 0 if none. */
struct peer {
	__u16 family;
	__u16 port; /* host byte order */
	__u16 local_port;
	__u16 protocol; /* IPPROTO_TCP, IPPROTO_UDP, ... */
	__u8 address[16]; /* network byte order */
	__u8 label[8]; /* WAIT*: the span id that the goroutine's labels name, 0: none */
};

struct span_ids {
	__u8 trace_id[16];
	__u8 span_id[8];
	__u8 parent_span_id[8]; /* 0: none */
};

/* What the observer knows of a process. */
struct process_identity {
	__u64 start_ticks; /* as in /proc/PID/stat; tells a pid from the one before it */
	__u32 inner_pid; /* its pid in its own pid namespace */
	__u32 reserved;
	__u8 container_id[16]; /* the first half of the id, as bytes; 0: in no container */
};

struct event {
	__u64 start_ns;
	__u64 end_ns;
	__u64 goid; /* 0: not known, the event is the thread's */
	__u64 parent_goid; /* goroutine that made it; 0: not known (Go < 1.21) or none */
	__u32 tgid; /* in the initial pid namespace, as tid */
	__u32 tid;
	__u16 kind; /* enum event_kind */
	__u16 flags; /* enum event_flag */
	__u16 syscall; /* number on this architecture */
	__u16 error; /* errno the call ended with, 0: it succeeded */
	__s32 fd; /* -1: the call has none */
	__u8 wait_kind; /* enum wait_kind */
	__u8 fd_type; /* enum fd_type */
	__u8 reserved[2];
	/* end_ns of the last EVENT_SPAN_END on this goroutine, if it has read nothing since: only then can a wait
	 * be in that span's tail. 0: none. */
	__u64 tail_of_ns;
	/* The nearest ancestor of the goroutine that was inside a span when it made its child, and when that was:
	 * whatever the goroutine does belongs to that span. 0: none known. */
	__u64 root_goid;
	__u64 root_ns;
	union {
		struct peer peer; /* WAIT*, CALL, SENDER */
		struct span_ids span; /* SPAN_END, TRACEPARENT */
		struct process_identity process; /* PROCESS */
	};
};

/* What the probes need to know of a watched process: value of the map `processes`, key: __u32 tgid.
 * Offsets in bytes into the Go structures; OFFSET_NONE where the version has no such field. */
#define OFFSET_NONE 0xffff

struct process_layout {
	__u16 flags; /* PROCESS_* */
	__u16 g_m; /* runtime.g.m */
	__u16 g_goid;
	__u16 g_parent_goid;
	__u16 m_curg; /* runtime.m.curg */
	__u16 span_context; /* recordingSpan.spanContext */
	__u16 span_end_time; /* recordingSpan.endTime */
	__u16 g_tracking_seq; /* runtime.g.trackingSeq, one byte */
	__u16 wait_steps; /* by how much that grows from a call that says EAGAIN to the next one */
	__u16 g_waitreason; /* runtime.g.waitreason, one byte */
	__u16 g_labels; /* runtime.g.labels; OFFSET_NONE: not to be read */
	__u8 labels_kind; /* enum labels_kind */
	__u8 reserved;
	__u16 span_parent; /* recordingSpan.parent, a trace.SpanContext */
	__u16 slot; /* of the process in the maps `usages` and `losses`; 0: shared by all that have none of their own */
	__u16 poll_sysfd; /* internal/poll.FD.Sysfd within net.netFD */
	__u16 net_family; /* net.netFD.family */
	__u16 net_sotype; /* net.netFD.sotype */
	__u16 span_kind; /* recordingSpan.spanKind */
	__u16 g_gopc; /* runtime.g.gopc */
};

#define SLOTS 1024

/* What runtime.g.labels points to. */
enum labels_kind {
	LABELS_MAP = 1, /* a map[string]string, up to Go 1.23 */
	LABELS_SLICE = 2, /* a slice of pairs of strings, from Go 1.24 on */
};

/* Set before load: the only variable of the probes' .rodata. */
struct probe_config {
	__u64 blocked_threshold_ns;
	__u64 chain_gap_ns; /* EAGAIN cycles of one call with at most this between them are one wait */
	__u64 forget_waiting_ns; /* a goroutine that has waited for so long leaves the map: it may be long gone */
	__u64 forget_idle_ns; /* one that does not wait and was not seen for so long, too: its span's tail is over */
	/* What one process may take of what all share. */
	__u64 event_apart_ns; /* on average it may send an event each so many ns */
	__u32 ring_bytes; /* of the map `events` */
	__u32 most_goroutines; /* entries */
	__u32 most_spans;
	__u32 most_sleepers;
	__u32 most_connections; /* whose headers are read */
	__u32 reserved;
};

/* Index of the per-CPU array `counters`. A program owns COUNTERS_EACH entries. */
enum probe_program {
	PROGRAM_SYS_EXIT,
	PROGRAM_SCHED_SWITCH,
	PROGRAM_SCAN,
	PROGRAM_SPAN_END,
	PROGRAM_PROCESS_EXEC,
	PROGRAM_PROCESS_EXIT,
	PROGRAM_PROCESS_FORK,
	PROGRAM_MARK_THREADS,
	PROGRAM_SPAN_START,
	PROGRAM_GOROUTINE_MADE,
	PROGRAM_GOROUTINE_EXIT,
	PROGRAM_CALL,
	PROGRAM_HEADERS,
	PROGRAM_COUNT,
};

enum probe_counter {
	COUNTER_EVENTS, /* put into the ring buffer */
	COUNTER_RING_FULL, /* lost, as the ring buffer was full */
	COUNTER_MAP_FULL, /* lost, as a map was full */
	COUNTER_READ_FAILED, /* left off, as memory of the process could not be read */
	COUNTER_UNKNOWN_END, /* waits whose end is not known (WAIT_END_UNKNOWN), whether or not one was sent */
	COUNTER_OVER_BUDGET, /* lost, as the process had taken its share */
	COUNTERS_EACH,
};

#ifdef __cplusplus
#define ENRICHER_ASSERT(what) static_assert(what, #what)
#else
#define ENRICHER_ASSERT(what) _Static_assert(what, #what)
#endif
ENRICHER_ASSERT(sizeof(struct event) == 112);
ENRICHER_ASSERT(sizeof(struct process_layout) == 38);
ENRICHER_ASSERT(sizeof(struct peer) == sizeof(struct span_ids));
ENRICHER_ASSERT(sizeof(struct peer) == sizeof(struct process_identity));

#endif
