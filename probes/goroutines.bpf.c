/* Which goroutines were made inside a span.
 *
 * Attached inside the function literal of runtime.newproc, to its call of runqput: a call is emulated by the kernel, the
 * new goroutine is whole by then and in RBX, and nobody runs it yet. R14 holds g0 there, as the literal runs on the
 * system stack; the goroutine that makes another one is the current one of its m.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.h"
#include "goroutine.h"
#include "maps.h"
#include "parks.h"

char LICENSE[] SEC("license") = "GPL";

/* Reads who made the goroutine `g`, and its own ids. */
static __always_inline long read_made(const struct process_layout *layout, __u64 maker, __u64 g, __u64 *maker_goid,
				      struct identity *made)
{
	long error = read_goroutine(layout, g, made);

	if (layout->g_parent_goid != OFFSET_NONE) {
		*maker_goid = made->parent_goid;
		return error;
	}
	return error ?: bpf_probe_read_user(maker_goid, sizeof(*maker_goid), (void *)(maker + layout->g_goid));
}

/* The attach cookie has the place of a function, as seen from here, whose goroutines wait for nobody: net/http has one
 * look out, while a request is served, whether its client goes away. */
static __always_inline bool is_nobodys(struct pt_regs *ctx, const struct process_layout *layout)
{
	__u64 cookie = bpf_get_attach_cookie(ctx), gopc = 0, start = ctx->ip + (__s32)cookie;

	return cookie && !bpf_probe_read_user(&gopc, sizeof(gopc), (void *)(ctx->bx + layout->g_gopc)) &&
	       gopc - start <= cookie >> 32;
}

SEC("uprobe")
int goroutine_made(struct pt_regs *ctx)
{
	struct goroutine_key key = {};
	__u64 m = 0, maker_g = 0, maker_goid = 0;
	struct process_layout *layout;
	struct goroutine *maker, *made;
	struct identity who;
	long error;

	key.tgid = bpf_get_current_pid_tgid() >> 32;
	layout = bpf_map_lookup_elem(&processes, &key.tgid);
	if (!layout || !(layout->flags & PROCESS_HAS_LINEAGE))
		return 0;
	error = bpf_probe_read_user(&m, sizeof(m), (void *)(ctx->r14 + layout->g_m));
	if (!error)
		error = bpf_probe_read_user(&maker_g, sizeof(maker_g), (void *)(m + layout->m_curg));
	if (error)
		goto failed;
	if (!maker_g)
		return 0; /* made by the scheduler, for a timer: of nobody */
	key.g = maker_g;
	maker = bpf_map_lookup_elem(&goroutines, &key);
	if (!maker || !(maker->open_spans || maker->root_goid))
		return 0;
	error = read_made(layout, maker_g, ctx->bx, &maker_goid, &who);
	if (error)
		goto failed;
	if (maker_goid != maker->goid)
		return 0; /* the entry is about another goroutine that had this g */
	if (is_nobodys(ctx, layout))
		return 0;
	key.g = ctx->bx;
	made = enter(PROGRAM_GOROUTINE_MADE, layout, &key, bpf_map_lookup_elem(&goroutines, &key));
	if (!made)
		return 0;
	take_over(PROGRAM_GOROUTINE_MADE, &key, made, &who);
	made->seen_ns = bpf_ktime_get_ns();
	if (maker->open_spans) {
		made->root_goid = maker->goid;
		made->root_ns = made->seen_ns;
		made->root_g = maker_g;
	} else {
		made->root_goid = maker->root_goid;
		made->root_ns = maker->root_ns;
		made->root_g = maker->root_g;
	}
	return 0;
failed:
	UNREAD(PROGRAM_GOROUTINE_MADE, layout, error);
	return 0;
}

/* Attached inside runtime.goexit1, on the goroutine that ends. Told only of one made inside a span that has waited: what
 * it waited for counts for the span only if it ended with it. */
SEC("uprobe")
int goroutine_exit(struct pt_regs *ctx)
{
	struct goroutine_key key = { .g = ctx->r14 };
	struct process_layout *layout;
	struct goroutine *goroutine;
	struct identity who;
	struct event *event;

	key.tgid = bpf_get_current_pid_tgid() >> 32;
	goroutine = bpf_map_lookup_elem(&goroutines, &key);
	if (!goroutine || !goroutine->root_goid || !goroutine->has_waited)
		return 0;
	layout = bpf_map_lookup_elem(&processes, &key.tgid);
	if (!layout || read_goroutine(layout, key.g, &who) || who.goid != goroutine->goid)
		return 0;
	event = reserve(PROGRAM_GOROUTINE_EXIT, layout->slot);
	if (!event)
		return 0;
	*event = (struct event){
		.end_ns = bpf_ktime_get_ns(),
		.goid = who.goid,
		.tgid = key.tgid,
		.tid = bpf_get_current_pid_tgid(),
		.kind = EVENT_GOROUTINE_EXIT,
		.fd = -1,
	};
	event->start_ns = event->end_ns;
	submit(PROGRAM_GOROUTINE_EXIT, event);
	goroutine->has_waited = 0; /* told */
	return 0;
}
