/* Telling of waits in which a goroutine was parked. */
#ifndef ENRICHER_PARKS_H
#define ENRICHER_PARKS_H

#include "goroutine.h"
#include "maps.h"
#include "syscalls.h"

/* Room for an event, filled but for its label; NULL if there is none. `end_ns` 0: now. The scan gives the time at
 * which it began instead: a wait that ends meanwhile then ends later than it was last seen going on, in whichever
 * order the two are told. */
static __always_inline struct event *reserve_park(enum probe_program program, __u32 tgid, __u32 tid,
						  const struct goroutine *goroutine, enum event_kind kind,
						  __u16 flags, long ret, __u64 end_ns)
{
	struct event *event = reserve(program, goroutine->slot);

	if (!event)
		return NULL;
	*event = (struct event){
		.start_ns = goroutine->wait_start_ns,
		.end_ns = end_ns ? end_ns : bpf_ktime_get_ns(),
		.goid = goroutine->goid,
		.parent_goid = goroutine->parent_goid,
		.tgid = tgid,
		.tid = tid,
		.kind = kind,
		.flags = flags | (goroutine->class == CLASS_WRITE ? WAIT_FOR_WRITE : 0),
		.syscall = goroutine->syscall,
		.error = ret < 0 ? -ret : 0,
		.fd = goroutine->fd,
		.wait_kind = WAIT_PARKED,
		.fd_type = goroutine->fd_type,
		.tail_of_ns = goroutine->span_ended_ns,
		/* What it does inside a span of its own is that one's, and comes to the outer spans through it. */
		.root_goid = goroutine->open_spans ? 0 : goroutine->root_goid,
		.root_ns = goroutine->open_spans ? 0 : goroutine->root_ns,
	};
	event->peer = goroutine->peer;
	return event;
}

/* The goroutine runs again, and not because its call went on: a deadline passed, or it was cancelled. When
 * that was is not known, so the wait is no evidence; a report that it is going on is taken back. */
static __always_inline void end_unknown(enum probe_program program, __u32 tgid, __u32 tid, struct goroutine *goroutine)
{
	struct event *event;

	goroutine->state = NOT_WAITING;
	count(program, COUNTER_UNKNOWN_END);
	if (!goroutine->reported)
		return;
	goroutine->reported = 0;
	event = reserve_park(program, tgid, tid, goroutine, EVENT_WAIT, WAIT_END_UNKNOWN, 0, 0);
	if (event)
		submit(program, event);
}

/* Has the entry be about goroutine `who`, and forget another one that the g was before. */
static __always_inline void take_over(enum probe_program program, const struct goroutine_key *key,
				      struct goroutine *goroutine, const struct identity *who)
{
	if (goroutine->goid == who->goid)
		return;
	if (goroutine->state == WAITING)
		end_unknown(program, key->tgid, goroutine->tid, goroutine);
	*goroutine = (struct goroutine){
		.goid = who->goid,
		.parent_goid = who->parent_goid,
		.slot = goroutine->slot,
	};
}

#endif
