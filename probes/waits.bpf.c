/* Blocked system calls of watched processes, of both kinds.
 *
 * kernel: the thread slept inside the call. sched_switch notes where the sleep began, sys_exit where the call
 *         ended. sys_enter is not needed: it would cost every call as much as everything else together.
 * parked: the call returned EAGAIN (EINPROGRESS for connect), the goroutine parked in the Go runtime, and the
 *         thread went on with others. The wait ends at the same goroutine's next call on the same descriptor,
 *         which is mostly made by another thread: so the state is keyed by goroutine.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "descriptor.h"
#include "events.h"
#include "goroutine.h"
#include "labels.h"
#include "maps.h"
#include "parks.h"
#include "syscalls.h"

char LICENSE[] SEC("license") = "GPL";

#define IS_RESTARTED(ret) ((ret) <= -512 && (ret) >= -516) /* ERESTARTSYS and its kin: made again at once */
#define EAGAIN 11
#define ENOSYS 38
#define EINPROGRESS 115
#define TASK_DEAD 0x80

/* Cycles of one blocked write are one wait only while the goroutine ran for less than this part of it. */
#define CHAIN_GAPS_PART 16

/* A watched thread. That a thread has this is what says that it is watched. */
struct thread {
	struct process_layout layout;
	__u32 asleep; /* it has an entry in `sleepers` */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct thread);
} threads SEC(".maps");

/* A thread that has gone to sleep inside a system call which is not yet over. */
struct sleeper {
	__u64 start_ns;
	struct identity who;
	__u64 tail_of_ns;
	__u64 root_goid;
	__u64 root_ns;
	__u32 tgid;
	__s32 fd;
	__u16 syscall;
	__u16 slot; /* that this entry is charged to */
	__u8 fd_type;
	__u8 reported;
	__u16 reserved;
	struct peer peer;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* tid */
	__type(value, struct sleeper);
} sleepers SEC(".maps");

/* Like reserve_park(). */
static __always_inline struct event *reserve_sleep(enum probe_program program, __u32 tid,
						   const struct sleeper *sleeper, enum event_kind kind, __u16 flags,
						   long ret, __u64 end_ns)
{
	struct event *event = reserve(program, sleeper->slot);

	if (!event)
		return NULL;
	*event = (struct event){
		.start_ns = sleeper->start_ns,
		.end_ns = end_ns ? end_ns : bpf_ktime_get_ns(),
		.goid = sleeper->who.goid,
		.parent_goid = sleeper->who.parent_goid,
		.tgid = sleeper->tgid,
		.tid = tid,
		.kind = kind,
		.flags = flags | (syscall_class(sleeper->syscall) == CLASS_WRITE ? WAIT_FOR_WRITE : 0),
		.syscall = sleeper->syscall,
		.error = ret < 0 ? -ret : 0,
		.fd = sleeper->fd,
		.wait_kind = WAIT_KERNEL,
		.fd_type = sleeper->fd_type,
		.tail_of_ns = sleeper->tail_of_ns,
		.root_goid = sleeper->root_goid,
		.root_ns = sleeper->root_ns,
	};
	event->peer = sleeper->peer;
	return event;
}

/* The event of a wait that has ended in a call of goroutine `g`, which cannot have changed its labels meanwhile. */
static __always_inline void submit_ended(const struct process_layout *layout, __u64 g, struct event *event)
{
	__u8 label[sizeof(event->peer.label)] = {};

	if (!event)
		return;
	if (event->goid)
		read_label(layout, g, label, PROGRAM_SYS_EXIT);
	__builtin_memcpy(event->peer.label, label, sizeof(label));
	submit(PROGRAM_SYS_EXIT, event);
}

/* Whether a call that read nothing says that there is nothing more to come. */
static __always_inline __u16 end_of_file(__u32 number, const struct peer *peer, long ret)
{
	return ret == 0 && reads_bytes(number) && peer->protocol != IPPROTO_UDP ? WAIT_END_OF_FILE : 0;
}

/* Whether a wait that begins at `now` continues the one that has just ended: one blocked write of a large buffer is
 * several calls with EAGAIN between them. */
static __always_inline bool continues(struct goroutine *goroutine, __u16 number, __u64 now)
{
	__u64 gap = now - goroutine->resumed_ns;

	if (goroutine->state != RESUMED || goroutine->syscall != number || gap > config.chain_gap_ns ||
	    (goroutine->gaps_ns + gap) * CHAIN_GAPS_PART > now - goroutine->wait_start_ns)
		return false;
	goroutine->gaps_ns += gap;
	return true;
}

/* A call on a descriptor that has returned. */
struct call {
	__u64 stack_pointer;
	long ret;
	__s32 fd;
	__u16 number;
	__u8 class; /* enum syscall_class */
};

/* Whether the goroutine, last told EAGAIN, has waited for nothing else until it made this call. A stack that was moved
 * tells by its pointer: the calls of one operation are made from the same place. */
static __always_inline bool waited_for(const struct process_layout *layout, const struct g_view *view,
				       const struct goroutine *goroutine, const struct call *call)
{
	return waited_only_for_io(layout, view, goroutine->tracking_seq,
				  call->stack_pointer != goroutine->stack_pointer);
}

/* EAGAIN: the goroutine is about to park. */
static __always_inline void begin_park(struct task_struct *task, const struct process_layout *layout,
				       struct goroutine_key *key, struct goroutine *goroutine, const struct call *call,
				       __u64 now)
{
	struct identity who;
	struct g_view view;
	bool again;
	long error;

	error = view_g(layout, key->g, &view);
	if (error)
		UNVIEWED(PROGRAM_SYS_EXIT, layout, key->g, goroutine, error);
	if (error || !is_running(layout, key->g, &view, goroutine))
		return;
	who = identity_in(layout, &view);
	goroutine = enter(PROGRAM_SYS_EXIT, layout, key, goroutine);
	if (!goroutine)
		return;
	take_over(PROGRAM_SYS_EXIT, key, goroutine, &who);
	again = goroutine->fd == call->fd && goroutine->class == call->class;
	if (goroutine->state == WAITING && !(again && waited_for(layout, &view, goroutine, call)))
		end_unknown(PROGRAM_SYS_EXIT, task->tgid, task->pid, goroutine);
	goroutine->seen_ns = now;
	goroutine->tracking_seq = g_byte(layout, &view, layout->g_tracking_seq);
	goroutine->stack_pointer = call->stack_pointer;
	if (goroutine->state == WAITING)
		return; /* woken for nothing, and parks again */
	if (!(again && call->class == CLASS_WRITE && continues(goroutine, call->number, now))) {
		goroutine->wait_start_ns = now;
		goroutine->gaps_ns = 0;
	}
	goroutine->state = WAITING;
	goroutine->has_waited = 1;
	goroutine->reported = 0;
	goroutine->tid = task->pid;
	goroutine->fd = call->fd;
	goroutine->syscall = call->number;
	goroutine->class = call->class;
	__builtin_memset(&goroutine->peer, 0, sizeof(goroutine->peer));
	goroutine->fd_type = describe_descriptor(task, call->fd, &goroutine->peer);
}

/* A call of a goroutine that waited: the end of the wait, if the call is on the same descriptor and for the
 * same purpose, and the goroutine was parked for nothing else in between. A deadline wakes a goroutine without any
 * call; if it then slept, the wait was over at a time that nobody knows. */
static __always_inline void end_park(struct task_struct *task, const struct process_layout *layout,
				     struct goroutine_key *key, struct goroutine *goroutine, const struct call *call,
				     __u64 now)
{
	struct g_view view;
	long error;
	bool same;

	error = view_g(layout, key->g, &view);
	if (error)
		UNREAD(PROGRAM_SYS_EXIT, layout, error);
	if (error || view.words[0] != goroutine->goid) {
		end_unknown(PROGRAM_SYS_EXIT, task->tgid, task->pid, goroutine);
		return;
	}
	/* A connect and its look at SO_ERROR are one function of the net package: nothing else can be in between. */
	same = call->class == CLASS_STATUS ? goroutine->syscall == SYS_connect :
					     (call->class == goroutine->class || call->class == CLASS_CLOSE) &&
						     waited_for(layout, &view, goroutine, call);
	if (call->fd != goroutine->fd || !same) {
		end_unknown(PROGRAM_SYS_EXIT, task->tgid, task->pid, goroutine);
		return;
	}
	if (goroutine->reported || now - goroutine->wait_start_ns >= config.blocked_threshold_ns)
		submit_ended(layout, key->g,
			     reserve_park(PROGRAM_SYS_EXIT, task->tgid, task->pid, goroutine, EVENT_WAIT,
					  end_of_file(call->number, &goroutine->peer, call->ret), call->ret, 0));
	goroutine->state = call->class == goroutine->class && call->ret > 0 ? RESUMED : NOT_WAITING;
	goroutine->resumed_ns = now;
	goroutine->reported = 0;
}

static __always_inline void after_descriptor_call(struct task_struct *task, const struct process_layout *layout,
						  __u64 g, const struct call *call)
{
	struct goroutine_key key = { .g = g, .tgid = task->tgid };
	struct goroutine *goroutine = bpf_map_lookup_elem(&goroutines, &key);

	if (call->class <= CLASS_SPLICE && (call->ret == -EAGAIN || call->ret == -EINPROGRESS)) {
		begin_park(task, layout, &key, goroutine, call, bpf_ktime_get_ns());
		return;
	}
	if (!goroutine)
		return;
	if (goroutine->state == WAITING)
		end_park(task, layout, &key, goroutine, call, bpf_ktime_get_ns());
	else
		goroutine->state = NOT_WAITING;
	if (call->class == CLASS_READ && call->ret > 0)
		goroutine->span_ended_ns = 0;
}

/* Whether the call that slept is not over, only interrupted by a signal (the Go runtime preempts by them): it says
 * that it will be made again, and the return of the signal's handler, which has no number, puts the call's number
 * back where its result would be. */
static __always_inline bool is_interrupted(const struct sleeper *sleeper, int number, long ret)
{
	return number == sleeper->syscall ? IS_RESTARTED(ret) : number < 0 && ret == sleeper->syscall;
}

static __always_inline void wake_up(__u32 tid, struct thread *thread, __u64 g, int number, long ret)
{
	struct sleeper *sleeper = bpf_map_lookup_elem(&sleepers, &tid);

	if (!sleeper) {
		thread->asleep = 0;
		return;
	}
	if (is_interrupted(sleeper, number, ret))
		return;
	if (number == sleeper->syscall &&
	    (sleeper->reported || bpf_ktime_get_ns() - sleeper->start_ns >= config.blocked_threshold_ns))
		submit_ended(&thread->layout, g,
			     reserve_sleep(PROGRAM_SYS_EXIT, tid, sleeper, EVENT_WAIT,
					   end_of_file(number, &sleeper->peer, ret), ret, 0));
	thread->asleep = 0;
	take_out(&sleepers, SHARED_SLEEPERS, &tid, sleeper->slot);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct thread *thread = bpf_task_storage_get(&threads, task, 0, 0);
	struct call call = { .ret = ret };

	if (!thread)
		return 0;
	call.number = regs->orig_ax;
	if (thread->asleep)
		wake_up(task->pid, thread, regs->r14, regs->orig_ax, ret);
	call.class = syscall_class(regs->orig_ax);
	if (call.class == CLASS_NONE || !(thread->layout.flags & PROCESS_HAS_GOROUTINES))
		return 0;
	call.fd = regs->di;
	call.stack_pointer = regs->sp;
	after_descriptor_call(task, &thread->layout, regs->r14, &call);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch, bool preempt, struct task_struct *prev)
{
	struct sleeper sleeper = {}, *before;
	struct goroutine *goroutine;
	struct goroutine_key key = {};
	struct thread *thread;
	struct pt_regs *regs;
	struct g_view view;
	__u32 number, tid;
	long error;

	if (preempt || !prev->__state)
		return 0;
	thread = bpf_task_storage_get(&threads, prev, 0, 0);
	if (!thread || thread->asleep)
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(prev);
	number = regs->orig_ax; /* -1: not in a system call, as in a page fault */
	if ((int)number < 0 || sleeps_on_purpose(number))
		return 0;
	/* AX holds -ENOSYS from entry until the call has returned. Later sleeps, as of a stopped process, are not the
	 * call's; and a thread that dies never returns. */
	if ((long)regs->ax != -ENOSYS || prev->__state & TASK_DEAD)
		return 0;
	if (thread->layout.flags & PROCESS_HAS_GOROUTINES) {
		key.g = regs->r14;
		key.tgid = prev->tgid;
		goroutine = bpf_map_lookup_elem(&goroutines, &key);
		error = view_g(&thread->layout, key.g, &view);
		if (error)
			UNVIEWED(PROGRAM_SCHED_SWITCH, &thread->layout, key.g, goroutine, error);
		if (error || !is_running(&thread->layout, key.g, &view, goroutine))
			return 0;
		sleeper.who = identity_in(&thread->layout, &view);
		if (goroutine && goroutine->goid == sleeper.who.goid) {
			sleeper.tail_of_ns = goroutine->span_ended_ns;
			if (!goroutine->open_spans) {
				sleeper.root_goid = goroutine->root_goid;
				sleeper.root_ns = goroutine->root_ns;
			}
			goroutine->has_waited = 1;
		}
	}
	tid = prev->pid;
	sleeper.start_ns = bpf_ktime_get_ns();
	sleeper.tgid = prev->tgid;
	sleeper.syscall = number;
	sleeper.fd = -1;
	if (has_descriptor(number)) {
		sleeper.fd = regs->di;
		sleeper.fd_type = describe_descriptor(prev, sleeper.fd, &sleeper.peer);
	}
	sleeper.slot = thread->layout.slot;
	before = bpf_map_lookup_elem(&sleepers, &tid);
	if (before) /* a thread that died asleep had this number */
		take_out(&sleepers, SHARED_SLEEPERS, &tid, before->slot);
	thread->asleep = !insert(PROGRAM_SCHED_SWITCH, &sleepers, SHARED_SLEEPERS, &tid, &sleeper, sleeper.slot);
	return 0;
}

/* Threads of watched processes are marked when they are made, and those there already by mark_threads. */
static __always_inline void mark(enum probe_program program, struct task_struct *task)
{
	__u32 tgid = task->tgid;
	struct process_layout *layout = bpf_map_lookup_elem(&processes, &tgid);
	struct thread *thread;

	if (!layout)
		return;
	thread = bpf_task_storage_get(&threads, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!thread) {
		/* The storage is locked by who was about to mark another one on this CPU. The observer marks again what
		 * it marks itself; of what is made meanwhile it hears by the loss of anybody's event. */
		if (program == PROGRAM_MARK_THREADS)
			count(program, COUNTER_MAP_FULL);
		else
			count_loss(program, COUNTER_MAP_FULL, 0);
		return;
	}
	thread->layout = *layout;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	mark(PROGRAM_PROCESS_FORK, child);
	return 0;
}

/* Another image: what was known of the process is no longer true. It is looked at anew by the observer. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(forget_image, struct task_struct *task)
{
	__u32 tgid = task->tgid;

	if (bpf_task_storage_get(&threads, task, 0, 0)) {
		bpf_task_storage_delete(&threads, task);
		bpf_map_delete_elem(&processes, &tgid);
	}
	return 0;
}

SEC("iter/task")
int mark_threads(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;
	__u32 tgid;

	if (!task)
		return 0;
	tgid = task->tgid;
	if (bpf_map_lookup_elem(&processes, &tgid))
		mark(PROGRAM_MARK_THREADS, task);
	else
		bpf_task_storage_delete(&threads, task);
	return 0;
}

/* Whether the goroutine is inside a span, its own or that of the one it descends from. */
static __always_inline bool is_inside(__u32 tgid, const struct goroutine *goroutine)
{
	struct goroutine_key key = { .g = goroutine->root_g, .tgid = tgid };
	struct goroutine *root;

	if (goroutine->open_spans || !goroutine->root_goid)
		return goroutine->open_spans;
	root = bpf_map_lookup_elem(&goroutines, &key);
	return root && root->goid == goroutine->root_goid && root->open_spans &&
	       root->inside_since_ns <= goroutine->root_ns;
}

/* Whether nothing is to be expected of it any more: `idle_ns` is how long it has not been seen. */
static __always_inline bool is_over(__u32 tgid, const struct goroutine *goroutine, __u64 idle_ns)
{
	if (!bpf_map_lookup_elem(&processes, &tgid) || idle_ns > config.forget_waiting_ns)
		return true;
	return idle_ns > config.forget_idle_ns && goroutine->state != WAITING && !is_inside(tgid, goroutine);
}

static long scan_goroutine(struct bpf_map *map, struct goroutine_key *key, struct goroutine *goroutine, __u64 *now)
{
	__u32 tgid = key->tgid;
	struct event *event;

	if (is_over(tgid, goroutine, *now > goroutine->seen_ns ? *now - goroutine->seen_ns : 0)) {
		take_out(&goroutines, SHARED_GOROUTINES, key, goroutine->slot);
		return 0;
	}
	if (goroutine->state == WAITING && !goroutine->reported && *now > goroutine->wait_start_ns &&
	    *now - goroutine->wait_start_ns >= config.blocked_threshold_ns) {
		/* Before it is, so that whoever ends the wait at this moment takes it back. */
		goroutine->reported = 1;
		event = reserve_park(PROGRAM_SCAN, tgid, goroutine->tid, goroutine, EVENT_WAIT_GOING_ON, 0, 0, *now);
		if (event)
			submit(PROGRAM_SCAN, event);
		else
			goroutine->reported = 0;
	}
	return 0;
}

static long scan_sleeper(struct bpf_map *map, __u32 *tid, struct sleeper *sleeper, __u64 *now)
{
	__u32 tgid = sleeper->tgid;
	struct event *event;

	if (!bpf_map_lookup_elem(&processes, &tgid)) {
		take_out(&sleepers, SHARED_SLEEPERS, tid, sleeper->slot);
		return 0;
	}
	if (!sleeper->reported && *now > sleeper->start_ns &&
	    *now - sleeper->start_ns >= config.blocked_threshold_ns) {
		sleeper->reported = 1;
		event = reserve_sleep(PROGRAM_SCAN, *tid, sleeper, EVENT_WAIT_GOING_ON, 0, 0, *now);
		if (event)
			submit(PROGRAM_SCAN, event);
		else
			sleeper->reported = 0;
	}
	return 0;
}

/* Run by the observer every now and then: reports the waits that are going on and have passed the threshold,
 * each once, and forgets what is of no process any more. */
SEC("syscall")
int scan(void *context)
{
	__u64 now = bpf_ktime_get_ns();

	bpf_for_each_map_elem(&goroutines, scan_goroutine, &now, 0);
	bpf_for_each_map_elem(&sleepers, scan_sleeper, &now, 0);
	return 0;
}
