/* Who runs: the goroutine behind a set of registers. */
#ifndef ENRICHER_GOROUTINE_H
#define ENRICHER_GOROUTINE_H

#include "maps.h"

struct identity {
	__u64 goid;
	__u64 parent_goid;
};

/* The runtime counts in g.trackingSeq how often a goroutine has left the running state: by parking, by being
 * preempted, and up to Go 1.25 by entering a system call. From a call that said EAGAIN to the next call that is
 * layout->wait_steps, or less where the descriptor was ready meanwhile. */
static __always_inline long read_tracking_seq(const struct process_layout *layout, __u64 g, __u8 *seq)
{
	return bpf_probe_read_user(seq, sizeof(*seq), (void *)(g + layout->g_tracking_seq));
}

#define WAIT_REASON_IO 2 /* waitReasonIOWait, the third since Go 1.11 */

/* Whether a goroutine that has left the running state `steps` times since it was told EAGAIN has waited for nothing
 * but its descriptor. One step more is allowed if it was a preemption, which leaves the reason of the last wait as it
 * is: on a busy machine a goroutine may be preempted before it can call again. */
static __always_inline bool waited_only_for_io(const struct process_layout *layout, __u64 g, __u8 steps)
{
	__u8 reason = 0;

	if (steps <= layout->wait_steps)
		return true;
	return steps == layout->wait_steps + 1 &&
	       !bpf_probe_read_user(&reason, sizeof(reason), (void *)(g + layout->g_waitreason)) &&
	       reason == WAIT_REASON_IO;
}

/* Reads the ids of the goroutine `g`. Returns 0, or a negative errno if the memory cannot be read. */
static __always_inline long read_goroutine(const struct process_layout *layout, __u64 g, struct identity *who)
{
	long error = bpf_probe_read_user(&who->goid, sizeof(who->goid), (void *)(g + layout->g_goid));

	who->parent_goid = 0;
	if (error || layout->g_parent_goid == OFFSET_NONE)
		return error;
	return bpf_probe_read_user(&who->parent_goid, sizeof(who->parent_goid),
				   (void *)(g + layout->g_parent_goid));
}

/* Whether `g` is the goroutine that its thread runs for the user. The scheduler makes its own calls (futex,
 * epoll) on g0, where this is false. */
static __always_inline bool is_user_goroutine(const struct process_layout *layout, __u64 g)
{
	__u64 m = 0, curg = 0;

	if (!g || bpf_probe_read_user(&m, sizeof(m), (void *)(g + layout->g_m)) || !m)
		return false;
	return !bpf_probe_read_user(&curg, sizeof(curg), (void *)(m + layout->m_curg)) && curg == g;
}

#endif
