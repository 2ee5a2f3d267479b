/* The maps and small steps that the probes share. Each object declares the maps; the loader makes those of
 * one name one map. Sizes are set by the loader where they are configurable.
 */
#ifndef ENRICHER_MAPS_H
#define ENRICHER_MAPS_H

#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "events.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* tgid */
	__type(value, struct process_layout);
} processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROGRAM_COUNT * COUNTERS_EACH);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* How many events were lost, all causes together, by the slot of the process. The observer looks at every tick,
 * without a system call. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

/* Where a helper failed, for the log: one entry a place and errno. */
struct failure {
	__u32 program; /* enum probe_program */
	__u32 line;
	__s32 error; /* negative errno */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct failure);
	__type(value, __u64);
} failures SEC(".maps");

/* A goroutine, by the address of its runtime.g: that is in R14 at every system call, so that finding the
 * entry reads no memory of the process. The runtime uses a g again for other goroutines: `goid` tells. */
struct goroutine_key {
	__u64 g;
	__u32 tgid;
	__u32 reserved;
};

enum wait_state {
	NOT_WAITING,
	WAITING, /* since wait_start_ns */
	RESUMED, /* at resumed_ns; the wait goes on if the very next call waits again */
};

struct goroutine {
	__u64 goid;
	__u64 parent_goid;
	__u64 root_goid; /* as in struct event */
	__u64 root_ns;
	__u64 root_g;
	__u64 inside_since_ns; /* while open_spans: since when there has always been one */
	__u64 seen_ns; /* when it was made, or last began to wait, or started or ended a span */
	__u64 wait_start_ns;
	__u64 resumed_ns;
	__u64 gaps_ns; /* time inside the wait in which the goroutine ran, see begin_park */
	__u64 span_ended_ns; /* of the last span that ended here, 0 once something was read */
	__u64 stack_pointer; /* when it last said EAGAIN */
	__u32 open_spans; /* started here and not ended yet, wherever that will be */
	__s32 fd;
	__u32 tid;
	__u16 syscall;
	__u16 slot; /* that this entry is charged to */
	__u8 class; /* enum syscall_class */
	__u8 state; /* enum wait_state */
	__u8 reported; /* as EVENT_WAIT_GOING_ON */
	__u8 fd_type;
	__u8 tracking_seq; /* when it last said EAGAIN */
	__u8 has_waited; /* since it was made, if it has a root */
	__u8 reserved[2];
	struct peer peer; /* of fd, taken when the wait began: at its end the descriptor may be closed */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct goroutine_key);
	__type(value, struct goroutine);
} goroutines SEC(".maps");

const volatile struct probe_config config = {
	.blocked_threshold_ns = 1000000,
	.chain_gap_ns = 100000,
	.forget_waiting_ns = 600000000000,
	.forget_idle_ns = 12000000000,
	.event_apart_ns = 14000,
	.ring_bytes = 1 << 22,
	.most_goroutines = 8192,
	.most_spans = 16384,
	.most_sleepers = 1024,
	.most_connections = 1024,
};

static __always_inline void count(enum probe_program program, enum probe_counter counter)
{
	__u32 index = program * COUNTERS_EACH + counter;
	__u64 *value = bpf_map_lookup_elem(&counters, &index);

	if (value)
		(*value)++;
}

/* An event, or something that events need, of the process with this slot. 0: it may have been anybody's. */
static __always_inline void count_loss(enum probe_program program, enum probe_counter counter, __u16 slot)
{
	__u32 index = slot;
	__u64 *value = bpf_map_lookup_elem(&losses, &index);

	count(program, counter);
	if (value)
		__sync_fetch_and_add(value, 1);
}

static __noinline __attribute__((unused)) void note_failure(enum probe_program program, __u32 line, long error)
{
	struct failure key = { .program = program, .line = line, .error = error };
	__u64 one = 1, *value = bpf_map_lookup_elem(&failures, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
	else
		bpf_map_update_elem(&failures, &key, &one, BPF_NOEXIST);
}

#define FAILED(program, error) note_failure(program, __LINE__, error)

#endif
