/* The end of a span of the OpenTelemetry Go SDK: which goroutine ended which span, and when.
 *
 * Attached inside (*recordingSpan).End, behind the stack check and on an instruction that the kernel emulates:
 * there the receiver is still in RAX and the goroutine in R14, and a hit costs a thirtieth of a single step.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.h"
#include "goroutine.h"
#include "maps.h"

char LICENSE[] SEC("license") = "GPL";

struct go_time {
	__u64 wall;
	__s64 ext;
};

/* Leaves a mark on the goroutine: a blocked write from now on may be the tail of this span. */
static __always_inline void mark_goroutine(struct goroutine_key *key, const struct identity *who, __u64 end_ns)
{
	struct goroutine *goroutine = bpf_map_lookup_elem(&goroutines, key);
	struct goroutine fresh = {};
	long error;

	if (!goroutine) {
		fresh.goid = who->goid;
		fresh.parent_goid = who->parent_goid;
		fresh.seen_ns = end_ns;
		fresh.span_ended_ns = end_ns;
		error = bpf_map_update_elem(&goroutines, key, &fresh, BPF_NOEXIST);
		if (error) {
			count_loss(PROGRAM_SPAN_END, COUNTER_MAP_FULL);
			FAILED(PROGRAM_SPAN_END, error);
		}
		return;
	}
	/* It runs: if a wait is still open here, its end was not seen and never will be. */
	goroutine->state = NOT_WAITING;
	goroutine->reported = 0;
	goroutine->goid = who->goid;
	goroutine->parent_goid = who->parent_goid;
	goroutine->span_ended_ns = end_ns;
	goroutine->seen_ns = end_ns;
}

SEC("uprobe")
int span_end(struct pt_regs *ctx)
{
	struct goroutine_key key = { .g = ctx->r14 };
	__u64 now, span = ctx->ax;
	struct process_layout *layout;
	struct identity who;
	struct go_time ended;
	struct span_ids ids = {};
	struct event *event;
	long error;

	key.tgid = bpf_get_current_pid_tgid() >> 32;
	layout = bpf_map_lookup_elem(&processes, &key.tgid);
	if (!layout || !(layout->flags & PROCESS_HAS_SPAN_ENDS))
		return 0;
	error = bpf_probe_read_user(&ended, sizeof(ended), (void *)(span + layout->span_end_time));
	if (!error && (ended.wall || ended.ext))
		return 0; /* End was called before: the first call counts */
	if (!error)
		error = bpf_probe_read_user(&ids, __builtin_offsetof(struct span_ids, reserved),
					    (void *)(span + layout->span_context));
	if (!error)
		error = read_goroutine(layout, key.g, &who);
	if (error) {
		count(PROGRAM_SPAN_END, COUNTER_READ_FAILED);
		FAILED(PROGRAM_SPAN_END, error);
		return 0;
	}
	event = reserve(PROGRAM_SPAN_END);
	if (!event)
		return 0;
	now = bpf_ktime_get_ns();
	*event = (struct event){
		.start_ns = now,
		.end_ns = now,
		.goid = who.goid,
		.parent_goid = who.parent_goid,
		.tgid = key.tgid,
		.tid = bpf_get_current_pid_tgid(),
		.kind = EVENT_SPAN_END,
		.fd = -1,
		.span = ids,
	};
	submit(PROGRAM_SPAN_END, event);
	mark_goroutine(&key, &who, now);
	return 0;
}
