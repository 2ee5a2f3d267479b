/* What each process may take of what all share, so that one that takes too much is the only one to lose anything:
 * entries in the maps, and room in the ring buffer.
 *
 * A process owes for the events it has sent, and pays them off at one each config.event_apart_ns. It may owe no more
 * than the ring has room for. So a process alone may fill half of the ring at once, two of them a third each, and
 * whoever has sent little finds room, however many others send all they can: the dynamic thresholds of shared packet
 * buffers (Choudhury and Hahne, 1998), by what was sent of late in place of what lies in the buffer.
 */
#ifndef ENRICHER_BUDGET_H
#define ENRICHER_BUDGET_H

#include "maps.h"

#define EEXIST 17
#define EDQUOT 122

#define RING_RECORD_BYTES (sizeof(struct event) + BPF_RINGBUF_HDR_SZ)
#define KEPT_FOR_SPAN_ENDS 4 /* this part of what a process may owe: without its end a span has no evidence at all */

/* Maps that all processes share, and that one of them could fill. */
enum shared_map { SHARED_GOROUTINES, SHARED_SPANS, SHARED_SLEEPERS, SHARED_CONNECTIONS, SHARED_MAPS };

struct usage {
	__u64 paid_at_ns; /* when it will owe nothing any more */
	__s32 entries[SHARED_MAPS]; /* for a moment one too few: an entry may be deleted before it is counted */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, struct usage);
} usages SEC(".maps");

static __always_inline struct usage *usage_of(__u16 slot)
{
	__u32 index = slot;

	return bpf_map_lookup_elem(&usages, &index);
}

/* Whether the process may send another event, which then is charged to it. */
static __always_inline bool charge_event(enum probe_program program, __u16 slot)
{
	__u64 now = bpf_ktime_get_ns(), taken = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	struct usage *usage = usage_of(slot);
	__u64 most_ns, owed_ns;

	if (!usage)
		return false;
	most_ns = taken < config.ring_bytes ?
			  (config.ring_bytes - taken) / RING_RECORD_BYTES * config.event_apart_ns :
			  0;
	if (program != PROGRAM_SPAN_END)
		most_ns -= most_ns / KEPT_FOR_SPAN_ENDS;
	owed_ns = usage->paid_at_ns > now ? usage->paid_at_ns - now : 0;
	if (owed_ns > most_ns)
		return false;
	/* If several threads begin to owe at once, all but one get their first event for nothing. */
	if (owed_ns)
		__sync_fetch_and_add(&usage->paid_at_ns, config.event_apart_ns);
	else
		usage->paid_at_ns = now + config.event_apart_ns;
	return true;
}

/* Room for an event of the process with this slot; counted if there is none. The caller reads the clock for end_ns only
 * now: whoever has drained the ring up to its head at time T then knows that no event with end_ns <= T is still to
 * come. */
static __always_inline struct event *reserve(enum probe_program program, __u16 slot)
{
	struct event *event;

	if (!charge_event(program, slot)) {
		count_loss(program, COUNTER_OVER_BUDGET, slot);
		return NULL;
	}
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		count_loss(program, COUNTER_RING_FULL, slot);
	return event;
}

/* A wake-up of the reader costs many times what the probe itself does; it comes by itself, on a timer. */
static __always_inline void submit(enum probe_program program, struct event *event)
{
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	count(program, COUNTER_EVENTS);
}

static __always_inline __s32 most_entries(enum shared_map shared)
{
	switch (shared) {
	case SHARED_GOROUTINES:
		return config.most_goroutines;
	case SHARED_SPANS:
		return config.most_spans;
	case SHARED_SLEEPERS:
		return config.most_sleepers;
	default:
		return config.most_connections;
	}
}

/* Puts a new entry into `map`, which is charged to the process. Returns 0; -EEXIST if there is one; or another negative
 * errno, after it was counted as a loss of the process. */
static __always_inline long insert(enum probe_program program, void *map, enum shared_map shared, const void *key,
				   const void *value, __u16 slot)
{
	struct usage *usage = usage_of(slot);
	long error;

	if (!usage || usage->entries[shared] >= most_entries(shared)) {
		count_loss(program, COUNTER_OVER_BUDGET, slot);
		return -EDQUOT;
	}
	error = bpf_map_update_elem(map, key, value, BPF_NOEXIST);
	if (!error) {
		__sync_fetch_and_add(&usage->entries[shared], 1);
	} else if (error != -EEXIST) {
		count_loss(program, COUNTER_MAP_FULL, slot);
		FAILED(program, error);
	}
	return error;
}

/* Takes an entry out that was charged to `slot`. Returns false if it was gone already. */
static __always_inline bool take_out(void *map, enum shared_map shared, const void *key, __u16 slot)
{
	struct usage *usage = usage_of(slot);

	if (bpf_map_delete_elem(map, key))
		return false;
	if (usage)
		__sync_fetch_and_add(&usage->entries[shared], -1);
	return true;
}

#endif
