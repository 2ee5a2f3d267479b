/* Start and end of a span of the OpenTelemetry Go SDK: which goroutine did it, and when.
 *
 * Attached inside (*tracer).newRecordingSpan and (*recordingSpan).End, behind the stack check and on an instruction
 * that the kernel emulates: there the arguments are still where the caller put them and the goroutine is in R14, and a
 * hit costs a thirtieth of a single step.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.h"
#include "goroutine.h"
#include "maps.h"
#include "parks.h"

char LICENSE[] SEC("license") = "GPL";

/* recordingSpan from spanKind to endTime, a time.Time of which two words are looked at. */
#define SPAN_VIEW_WORDS 8

struct span_view {
	__u64 words[SPAN_VIEW_WORDS];
};

/* trace.SpanContext, as far as it is read. */
struct span_context {
	__u8 trace_id[16];
	__u8 span_id[8];
};
#define SPAN_CONTEXT_SIZE 64

#define SPAN_KIND_CLIENT 3 /* trace.SpanKindClient */

/* newRecordingSpan takes the contexts of the parent and of the span on the stack, above the return address. */
struct started_contexts {
	struct span_context parent;
	__u8 rest[SPAN_CONTEXT_SIZE - sizeof(struct span_context)];
	struct span_context own;
};

/* A generator of ids may give the same span id in two traces. */
struct span_key {
	struct span_context context;
	__u32 tgid;
	__u32 reserved;
};

struct open_span {
	__u64 start_ns;
	__u64 goid;
	__u64 g;
	__u8 parent_span_id[8];
	__u16 slot; /* that this entry is charged to */
	__u16 reserved[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct span_key);
	__type(value, struct open_span);
} spans SEC(".maps");

/* It runs: if a wait is still open here, its end was not seen and never will be. */
static __always_inline void runs(enum probe_program program, const struct goroutine_key *key,
				 struct goroutine *goroutine, const struct identity *who, __u64 now)
{
	if (goroutine->state == WAITING)
		end_unknown(program, key->tgid, bpf_get_current_pid_tgid(), goroutine);
	goroutine->state = NOT_WAITING;
	take_over(program, key, goroutine, who);
	goroutine->seen_ns = now;
}

SEC("uprobe")
int span_start(struct pt_regs *ctx)
{
	struct goroutine_key key = { .g = ctx->r14 };
	struct started_contexts contexts;
	struct process_layout *layout;
	struct goroutine *goroutine;
	struct open_span span = {};
	struct span_key span_key;
	struct identity who;
	long error;

	key.tgid = bpf_get_current_pid_tgid() >> 32;
	layout = bpf_map_lookup_elem(&processes, &key.tgid);
	if (!layout || !(layout->flags & PROCESS_HAS_SPAN_STARTS))
		return 0;
	goroutine = bpf_map_lookup_elem(&goroutines, &key);
	error = bpf_probe_read_user(&contexts, sizeof(contexts), (void *)(ctx->sp + sizeof(__u64)));
	if (!error)
		error = read_goroutine(layout, key.g, &who);
	if (error) {
		UNREAD(PROGRAM_SPAN_START, layout, error);
		return 0;
	}
	span_key = (struct span_key){ .context = contexts.own, .tgid = key.tgid };
	span.start_ns = bpf_ktime_get_ns();
	span.goid = who.goid;
	span.g = key.g;
	span.slot = layout->slot;
	__builtin_memcpy(span.parent_span_id, contexts.parent.span_id, sizeof(span.parent_span_id));
	/* It is there already where the stack had to grow: the stack check runs twice. And without room for it the span
	 * will be one whose start was not seen. */
	if (insert(PROGRAM_SPAN_START, &spans, SHARED_SPANS, &span_key, &span, span.slot))
		return 0;
	goroutine = enter(PROGRAM_SPAN_START, layout, &key, goroutine);
	if (!goroutine)
		return 0;
	runs(PROGRAM_SPAN_START, &key, goroutine, &who, span.start_ns);
	goroutine->span_ended_ns = 0; /* the next job has begun: what is written now is its own */
	if (!goroutine->open_spans)
		goroutine->inside_since_ns = span.start_ns;
	/* Its spans may end on other goroutines, at the same moment. */
	__sync_fetch_and_add(&goroutine->open_spans, 1);
	return 0;
}

/* The goroutine that started the span is inside one less. */
static __always_inline void leave(__u32 tgid, const struct open_span *span)
{
	struct goroutine_key key = { .g = span->g, .tgid = tgid };
	struct goroutine *starter = bpf_map_lookup_elem(&goroutines, &key);

	if (starter && starter->goid == span->goid && starter->open_spans)
		__sync_fetch_and_add(&starter->open_spans, -1);
}

/* Whether `goroutine` descends from the one that started the span, by way of one made since then. */
static __always_inline bool is_child(const struct goroutine *goroutine, const struct identity *who,
				     const struct open_span *span)
{
	return span->goid != who->goid && goroutine && goroutine->goid == who->goid &&
	       goroutine->root_goid == span->goid && goroutine->root_ns >= span->start_ns;
}

/* Takes the span out of the open ones; all of `span` is 0 if its start was not seen. */
static __always_inline void close_span(const struct process_layout *layout, const struct span_key *key,
				       struct open_span *span)
{
	struct open_span *open;

	__builtin_memset(span, 0, sizeof(*span));
	if (!(layout->flags & PROCESS_HAS_SPAN_STARTS))
		return;
	open = bpf_map_lookup_elem(&spans, key);
	if (!open)
		return;
	*span = *open;
	/* If two end it at once, one of them has. */
	if (take_out(&spans, SHARED_SPANS, key, span->slot))
		leave(key->tgid, span);
}

static __always_inline bool has_ended(const struct process_layout *layout, const struct span_view *view)
{
	__u32 at = ((__u32)layout->span_end_time - layout->span_kind) / sizeof(__u64);

	return at < SPAN_VIEW_WORDS - 1 && (view->words[at] || view->words[at + 1]);
}

SEC("uprobe")
int span_end(struct pt_regs *ctx)
{
	struct goroutine_key key = { .g = ctx->r14 };
	__u64 now, address = ctx->ax;
	struct process_layout *layout;
	struct goroutine *goroutine;
	struct span_key span_key = {};
	struct open_span span;
	struct identity who;
	struct span_view view;
	struct event *event;
	long error;

	key.tgid = bpf_get_current_pid_tgid() >> 32;
	layout = bpf_map_lookup_elem(&processes, &key.tgid);
	if (!layout || !(layout->flags & PROCESS_HAS_SPAN_ENDS) || !address)
		return 0; /* End of a nil span does nothing */
	error = bpf_probe_read_user(&view, sizeof(view), (void *)(address + layout->span_kind));
	if (!error && has_ended(layout, &view))
		return 0; /* End was called before: the first call counts */
	goroutine = bpf_map_lookup_elem(&goroutines, &key);
	span_key.tgid = key.tgid;
	if (!error)
		error = bpf_probe_read_user(&span_key.context, sizeof(span_key.context),
					    (void *)(address + layout->span_context));
	if (!error)
		error = read_goroutine(layout, key.g, &who);
	if (error) {
		UNREAD(PROGRAM_SPAN_END, layout, error);
		return 0;
	}
	close_span(layout, &span_key, &span);
	if (!span.start_ns && bpf_probe_read_user(span.parent_span_id, sizeof(span.parent_span_id),
						  (void *)(address + layout->span_parent +
							   __builtin_offsetof(struct span_context, span_id))))
		count(PROGRAM_SPAN_END, COUNTER_READ_FAILED);
	event = reserve(PROGRAM_SPAN_END, layout->slot);
	if (!event)
		return 0;
	now = bpf_ktime_get_ns();
	*event = (struct event){
		.start_ns = span.start_ns,
		.end_ns = now,
		.goid = who.goid,
		.parent_goid = who.parent_goid,
		.tgid = key.tgid,
		.tid = bpf_get_current_pid_tgid(),
		.kind = EVENT_SPAN_END,
		.flags = (is_child(goroutine, &who, &span) ? SPAN_ENDED_BY_CHILD : 0) |
			 (view.words[0] == SPAN_KIND_CLIENT ? SPAN_OF_CLIENT : 0),
		.fd = -1,
		.root_goid = span.goid,
	};
	__builtin_memcpy(event->span.trace_id, span_key.context.trace_id, sizeof(event->span.trace_id));
	__builtin_memcpy(event->span.span_id, span_key.context.span_id, sizeof(event->span.span_id));
	__builtin_memcpy(event->span.parent_span_id, span.parent_span_id, sizeof(event->span.parent_span_id));
	submit(PROGRAM_SPAN_END, event);
	goroutine = enter(PROGRAM_SPAN_END, layout, &key, goroutine);
	if (goroutine) {
		runs(PROGRAM_SPAN_END, &key, goroutine, &who, now);
		/* A blocked write from now on may be the tail of this span. */
		goroutine->span_ended_ns = now;
	}
	return 0;
}

static long scan_span(struct bpf_map *map, struct span_key *key, struct open_span *span, __u64 *now)
{
	struct open_span copy = *span;
	__u32 tgid = key->tgid;

	if (bpf_map_lookup_elem(&processes, &tgid) &&
	    !(*now > copy.start_ns && *now - copy.start_ns > config.forget_waiting_ns))
		return 0;
	if (take_out(&spans, SHARED_SPANS, key, copy.slot))
		leave(tgid, &copy);
	return 0;
}

/* Run by the observer every now and then: forgets the spans that are never ended. */
SEC("syscall")
int scan_spans(void *context)
{
	__u64 now = bpf_ktime_get_ns();

	bpf_for_each_map_elem(&spans, scan_span, &now, 0);
	return 0;
}
