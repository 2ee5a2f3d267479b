/* Processes that begin (another image) and end, for discovery. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "budget.h"
#include "events.h"
#include "maps.h"

char LICENSE[] SEC("license") = "GPL";

static __always_inline void emit(enum probe_program program, enum event_kind kind, struct task_struct *task)
{
	struct event *event = reserve(program, 0); /* of nobody who could be charged: one that begins has no slot */
	__u64 now;

	if (!event)
		return;
	now = bpf_ktime_get_ns();
	*event = (struct event){
		.start_ns = now,
		.end_ns = now,
		.tgid = task->tgid,
		.tid = task->pid,
		.kind = kind,
		.fd = -1,
	};
	submit(program, event);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task)
{
	emit(PROGRAM_PROCESS_EXEC, EVENT_PROCESS_EXEC, task);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	__u32 tgid = task->tgid;

	/* The thread group leader may exit before its threads do; in Go it ends the process. */
	if (task->pid == task->tgid && bpf_map_lookup_elem(&processes, &tgid))
		emit(PROGRAM_PROCESS_EXIT, EVENT_PROCESS_EXIT, task);
	return 0;
}
