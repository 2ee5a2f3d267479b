/* Who runs: the goroutine behind a set of registers. */
#ifndef ENRICHER_GOROUTINE_H
#define ENRICHER_GOROUTINE_H

#include "budget.h"
#include "maps.h"

struct identity {
	__u64 goid;
	__u64 parent_goid;
};

/* runtime.g from goid to parentGoid, with all that is read of it between the two: a read of the process's memory costs
 * 60 ns however much it reads, as much as all else that is done at most calls. */
#define G_VIEW_WORDS 17

struct g_view {
	__u64 words[G_VIEW_WORDS];
};

static __always_inline long view_g(const struct process_layout *layout, __u64 g, struct g_view *view)
{
	return bpf_probe_read_user(view, sizeof(*view), (void *)(g + layout->g_goid));
}

/* 0 for what is outside of the view, as OFFSET_NONE is. */
static __always_inline __u64 g_word(const struct process_layout *layout, const struct g_view *view, __u16 offset)
{
	__u32 at = ((__u32)offset - layout->g_goid) / sizeof(__u64);

	return at < G_VIEW_WORDS ? view->words[at] : 0;
}

static __always_inline __u8 g_byte(const struct process_layout *layout, const struct g_view *view, __u16 offset)
{
	__u32 at = (__u32)offset - layout->g_goid;

	return at < sizeof(*view) ? ((const __u8 *)view->words)[at] : 0;
}

/* Whether the m of `g` says that it runs `g`. */
static __always_inline bool is_current(const struct process_layout *layout, __u64 g)
{
	__u64 m = 0, curg = 0;

	return !bpf_probe_read_user(&m, sizeof(m), (void *)(g + layout->g_m)) && m &&
	       !bpf_probe_read_user(&curg, sizeof(curg), (void *)(m + layout->m_curg)) && curg == g;
}

/* Whether `g`, with this view of it, is the goroutine that its thread runs for the user. The scheduler makes its own
 * calls (futex, epoll) on g0, and C code has anything in R14. `known`: the entry of g, if it has one. A g that is known
 * is that of a goroutine for as long as the process lives; such a g has an m as long as it runs, and only then. */
static __always_inline bool is_running(const struct process_layout *layout, __u64 g, const struct g_view *view,
				       const struct goroutine *known)
{
	__u64 m = 0;

	if (!view->words[0])
		return false;
	if (known && known->goid == view->words[0])
		return !bpf_probe_read_user(&m, sizeof(m), (void *)(g + layout->g_m)) && m;
	return is_current(layout, g);
}

static __always_inline struct identity identity_in(const struct process_layout *layout, const struct g_view *view)
{
	return (struct identity){
		.goid = view->words[0],
		.parent_goid = g_word(layout, view, layout->g_parent_goid),
	};
}

#define WAIT_REASON_IO 2 /* waitReasonIOWait, the third since Go 1.11 */

/* Whether a goroutine has waited for nothing but its descriptor since it was told EAGAIN, when its g.trackingSeq was
 * `seq`. The runtime counts there how often a goroutine has left the running state: by parking, by being preempted, by
 * having its stack grow, and up to Go 1.25 by entering a system call. To the next call that is layout->wait_steps, or
 * less where the descriptor was ready meanwhile.
 *
 * One step more is allowed if it was a preemption, which leaves the reason of the last wait as it is: on a busy machine
 * a goroutine may be preempted before it can call again. And another one if its stack was moved: that of a young
 * goroutine often grows as it parks for the first time (1 in 100 first waits on a busy machine). */
static __always_inline bool waited_only_for_io(const struct process_layout *layout, const struct g_view *view, __u8 seq,
					       bool moved)
{
	__u8 steps = g_byte(layout, view, layout->g_tracking_seq) - seq;

	return steps <= layout->wait_steps ||
	       (steps <= layout->wait_steps + 1 + moved &&
		g_byte(layout, view, layout->g_waitreason) == WAIT_REASON_IO);
}

/* Reads the ids of the goroutine `g`. Returns 0, or a negative errno if the memory cannot be read. */
static __always_inline long read_goroutine(const struct process_layout *layout, __u64 g, struct identity *who)
{
	struct g_view view;
	long error = view_g(layout, g, &view);

	*who = error ? (struct identity){} : identity_in(layout, &view);
	return error;
}

/* The entry of `key`, which may be about another goroutine than the one that is there now: see take_over(). NULL if there
 * is no room for it, which is counted. `found` is what a look-up gave. */
static __always_inline struct goroutine *enter(enum probe_program program, const struct process_layout *layout,
					       const struct goroutine_key *key, struct goroutine *found)
{
	struct goroutine fresh = { .slot = layout->slot };
	long error;

	if (found)
		return found;
	error = insert(program, &goroutines, SHARED_GOROUTINES, key, &fresh, layout->slot);
	return error && error != -EEXIST ? NULL : bpf_map_lookup_elem(&goroutines, key);
}

/* Memory that a goroutine has is always there: where it cannot be read, what is left off is lost. */
static __always_inline void count_unread(enum probe_program program, __u32 line, const struct process_layout *layout,
					 long error)
{
	count_loss(program, COUNTER_READ_FAILED, layout->slot);
	note_failure(program, line, error);
}

#define UNREAD(program, layout, error) count_unread(program, __LINE__, layout, error)

/* `g` could not be viewed: a loss if it is that of a goroutine. What C code has in R14 is none. */
#define UNVIEWED(program, layout, g, known, error)                                                                  \
	do {                                                                                                        \
		if ((known) || is_current(layout, g))                                                               \
			UNREAD(program, layout, error);                                                             \
	} while (0)

#endif
