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
#include "maps.h"
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
	__u32 tgid;
	__s32 fd;
	__u16 syscall;
	__u8 fd_type;
	__u8 reported;
	__u32 reserved;
	struct peer peer;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* tid */
	__type(value, struct sleeper);
} sleepers SEC(".maps");

/* `end_ns` 0: now. The scan gives the time at which it began instead: a wait that ends meanwhile then ends later
 * than it was last seen going on, in whichever order the two are told. */
static __always_inline void emit_sleep(enum probe_program program, __u32 tid, const struct sleeper *sleeper,
				       enum event_kind kind, long ret, __u64 end_ns)
{
	struct event *event = reserve(program);

	if (!event)
		return;
	*event = (struct event){
		.start_ns = sleeper->start_ns,
		.end_ns = end_ns ? end_ns : bpf_ktime_get_ns(),
		.goid = sleeper->who.goid,
		.parent_goid = sleeper->who.parent_goid,
		.tgid = sleeper->tgid,
		.tid = tid,
		.kind = kind,
		.flags = syscall_class(sleeper->syscall) == CLASS_WRITE ? WAIT_FOR_WRITE : 0,
		.syscall = sleeper->syscall,
		.error = ret < 0 ? -ret : 0,
		.fd = sleeper->fd,
		.wait_kind = WAIT_KERNEL,
		.fd_type = sleeper->fd_type,
		.tail_of_ns = sleeper->tail_of_ns,
	};
	event->peer = sleeper->peer;
	submit(program, event);
}

static __always_inline void emit_park(enum probe_program program, __u32 tgid, __u32 tid,
				      const struct goroutine *goroutine, enum event_kind kind, __u16 flags, long ret,
				      __u64 end_ns)
{
	struct event *event = reserve(program);

	if (!event)
		return;
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
	};
	event->peer = goroutine->peer;
	submit(program, event);
}

/* The goroutine runs again, and not because its call went on: a deadline passed, or it was cancelled. When
 * that was is not known, so the wait is no evidence; a report that it is going on is taken back. */
static __always_inline void end_unknown(__u32 tgid, __u32 tid, struct goroutine *goroutine)
{
	goroutine->state = NOT_WAITING;
	count(PROGRAM_SYS_EXIT, COUNTER_UNKNOWN_END);
	if (goroutine->reported)
		emit_park(PROGRAM_SYS_EXIT, tgid, tid, goroutine, EVENT_WAIT, WAIT_END_UNKNOWN, 0, 0);
	goroutine->reported = 0;
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

/* EAGAIN: the goroutine is about to park. */
static __always_inline void begin_park(struct task_struct *task, const struct process_layout *layout,
				       struct goroutine_key *key, struct goroutine *goroutine, __u16 number, int fd,
				       enum syscall_class class, __u64 now)
{
	struct goroutine fresh = {};
	struct identity who;
	__u8 seq = 0, steps;
	bool again;
	long error;

	if (!is_user_goroutine(layout, key->g))
		return;
	error = read_goroutine(layout, key->g, &who);
	if (!error)
		error = read_tracking_seq(layout, key->g, &seq);
	if (error) {
		count(PROGRAM_SYS_EXIT, COUNTER_READ_FAILED);
		FAILED(PROGRAM_SYS_EXIT, error);
		return;
	}
	if (!goroutine) {
		error = bpf_map_update_elem(&goroutines, key, &fresh, BPF_NOEXIST);
		goroutine = bpf_map_lookup_elem(&goroutines, key);
		if (!goroutine) {
			count_loss(PROGRAM_SYS_EXIT, COUNTER_MAP_FULL);
			FAILED(PROGRAM_SYS_EXIT, error);
			return;
		}
	}
	if (goroutine->goid != who.goid) { /* the runtime has used the g again */
		goroutine->state = NOT_WAITING;
		goroutine->reported = 0;
		goroutine->span_ended_ns = 0;
	}
	again = goroutine->fd == fd && goroutine->class == class;
	steps = seq - goroutine->tracking_seq;
	if (goroutine->state == WAITING && !(again && waited_only_for_io(layout, key->g, steps)))
		end_unknown(task->tgid, task->pid, goroutine);
	goroutine->seen_ns = now;
	goroutine->tracking_seq = seq;
	if (goroutine->state == WAITING)
		return; /* woken for nothing, and parks again */
	if (!(again && class == CLASS_WRITE && continues(goroutine, number, now))) {
		goroutine->wait_start_ns = now;
		goroutine->gaps_ns = 0;
	}
	goroutine->state = WAITING;
	goroutine->reported = 0;
	goroutine->goid = who.goid;
	goroutine->parent_goid = who.parent_goid;
	goroutine->tid = task->pid;
	goroutine->fd = fd;
	goroutine->syscall = number;
	goroutine->class = class;
	__builtin_memset(&goroutine->peer, 0, sizeof(goroutine->peer));
	goroutine->fd_type = describe_descriptor(task, fd, &goroutine->peer);
}

/* A call of a goroutine that waited: the end of the wait, if the call is on the same descriptor and for the
 * same purpose, and the goroutine was parked for nothing else in between. A deadline wakes a goroutine without any
 * call; if it then slept, the wait was over at a time that nobody knows. */
static __always_inline void end_park(struct task_struct *task, const struct process_layout *layout,
				     struct goroutine_key *key, struct goroutine *goroutine, __u16 number, int fd,
				     enum syscall_class class, long ret, __u64 now)
{
	struct identity who;
	__u8 seq, steps;
	bool same;

	if (read_goroutine(layout, key->g, &who) || who.goid != goroutine->goid ||
	    read_tracking_seq(layout, key->g, &seq)) {
		goroutine->state = NOT_WAITING;
		goroutine->reported = 0;
		return;
	}
	steps = seq - goroutine->tracking_seq;
	/* A connect and its look at SO_ERROR are one function of the net package: nothing else can be in between. */
	same = class == CLASS_STATUS ? goroutine->syscall == SYS_connect :
				       (class == goroutine->class || class == CLASS_CLOSE) &&
					       waited_only_for_io(layout, key->g, steps);
	if (fd != goroutine->fd || !same) {
		end_unknown(task->tgid, task->pid, goroutine);
		return;
	}
	if (goroutine->reported || now - goroutine->wait_start_ns >= config.blocked_threshold_ns)
		emit_park(PROGRAM_SYS_EXIT, task->tgid, task->pid, goroutine, EVENT_WAIT, 0, ret, 0);
	goroutine->state = class == goroutine->class && ret > 0 ? RESUMED : NOT_WAITING;
	goroutine->resumed_ns = now;
	goroutine->reported = 0;
}

static __always_inline void after_descriptor_call(struct task_struct *task, const struct process_layout *layout,
						  __u64 g, __u16 number, int fd, enum syscall_class class, long ret)
{
	struct goroutine_key key = { .g = g, .tgid = task->tgid };
	struct goroutine *goroutine = bpf_map_lookup_elem(&goroutines, &key);

	if (class <= CLASS_SPLICE && (ret == -EAGAIN || ret == -EINPROGRESS)) {
		begin_park(task, layout, &key, goroutine, number, fd, class, bpf_ktime_get_ns());
		return;
	}
	if (!goroutine)
		return;
	if (goroutine->state == WAITING)
		end_park(task, layout, &key, goroutine, number, fd, class, ret, bpf_ktime_get_ns());
	else
		goroutine->state = NOT_WAITING;
	if (class == CLASS_READ && ret > 0)
		goroutine->span_ended_ns = 0;
}

/* Whether the call that slept is not over, only interrupted by a signal (the Go runtime preempts by them): it says
 * that it will be made again, and the return of the signal's handler, which has no number, puts the call's number
 * back where its result would be. */
static __always_inline bool is_interrupted(const struct sleeper *sleeper, int number, long ret)
{
	return number == sleeper->syscall ? IS_RESTARTED(ret) : number < 0 && ret == sleeper->syscall;
}

static __always_inline void wake_up(__u32 tid, struct thread *thread, int number, long ret)
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
		emit_sleep(PROGRAM_SYS_EXIT, tid, sleeper, EVENT_WAIT, ret, 0);
	thread->asleep = 0;
	bpf_map_delete_elem(&sleepers, &tid);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct thread *thread = bpf_task_storage_get(&threads, task, 0, 0);
	enum syscall_class class;
	__u32 number;

	if (!thread)
		return 0;
	number = regs->orig_ax;
	if (thread->asleep)
		wake_up(task->pid, thread, number, ret);
	class = syscall_class(number);
	if (class != CLASS_NONE && thread->layout.flags & PROCESS_HAS_GOROUTINES)
		after_descriptor_call(task, &thread->layout, regs->r14, number, regs->di, class, ret);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch, bool preempt, struct task_struct *prev)
{
	struct sleeper sleeper = {};
	struct goroutine *goroutine;
	struct goroutine_key key = {};
	struct thread *thread;
	struct pt_regs *regs;
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
		if (!is_user_goroutine(&thread->layout, key.g))
			return 0;
		error = read_goroutine(&thread->layout, key.g, &sleeper.who);
		if (error) {
			count(PROGRAM_SCHED_SWITCH, COUNTER_READ_FAILED);
			FAILED(PROGRAM_SCHED_SWITCH, error);
			return 0;
		}
		goroutine = bpf_map_lookup_elem(&goroutines, &key);
		if (goroutine && goroutine->goid == sleeper.who.goid)
			sleeper.tail_of_ns = goroutine->span_ended_ns;
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
	error = bpf_map_update_elem(&sleepers, &tid, &sleeper, BPF_ANY);
	if (error) {
		count_loss(PROGRAM_SCHED_SWITCH, COUNTER_MAP_FULL);
		FAILED(PROGRAM_SCHED_SWITCH, error);
		return 0;
	}
	thread->asleep = 1;
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
		count_loss(program, COUNTER_MAP_FULL);
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

static long scan_goroutine(struct bpf_map *map, struct goroutine_key *key, struct goroutine *goroutine, __u64 *now)
{
	bool open = goroutine->state == WAITING;
	__u64 forget_ns = open ? config.forget_waiting_ns : config.forget_idle_ns;
	__u32 tgid = key->tgid;

	if (!bpf_map_lookup_elem(&processes, &tgid) ||
	    (*now > goroutine->seen_ns && *now - goroutine->seen_ns > forget_ns)) {
		bpf_map_delete_elem(&goroutines, key);
		return 0;
	}
	if (open && !goroutine->reported && *now > goroutine->wait_start_ns &&
	    *now - goroutine->wait_start_ns >= config.blocked_threshold_ns) {
		goroutine->reported = 1;
		emit_park(PROGRAM_SCAN, tgid, goroutine->tid, goroutine, EVENT_WAIT_GOING_ON, 0, 0, *now);
	}
	return 0;
}

static long scan_sleeper(struct bpf_map *map, __u32 *tid, struct sleeper *sleeper, __u64 *now)
{
	__u32 tgid = sleeper->tgid;

	if (!bpf_map_lookup_elem(&processes, &tgid)) {
		bpf_map_delete_elem(&sleepers, tid);
		return 0;
	}
	if (!sleeper->reported && *now > sleeper->start_ns &&
	    *now - sleeper->start_ns >= config.blocked_threshold_ns) {
		sleeper->reported = 1;
		emit_sleep(PROGRAM_SCAN, *tid, sleeper, EVENT_WAIT_GOING_ON, 0, *now);
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
