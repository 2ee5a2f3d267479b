/* Who runs: the goroutine behind a set of registers. */
#ifndef ENRICHER_GOROUTINE_H
#define ENRICHER_GOROUTINE_H

#include "maps.h"

struct identity {
	__u64 goid;
	__u64 parent_goid;
};

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
