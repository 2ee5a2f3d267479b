/* The header `traceparent` in what a process reads and writes in plain text, for processes whose span ends are not
 * seen: it says which span a request is of, and the call says which goroutine and which descriptor.
 *
 * A connection is followed as a stream, however it is cut into calls, so that nothing in a body is taken for a header;
 * what is not understood gives the connection up. HTTP/1 is read here. HTTP/2 compresses its headers with what all
 * earlier ones said: those go to the observer, from connections that were seen to begin. No other byte leaves the
 * process.
 */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.h"
#include "headers.h"
#include "http1.h"
#include "http2.h"
#include "syscalls.h"

char LICENSE[] SEC("license") = "GPL";

#define MOST_STEPS 4096 /* of one call: heads of 16 KiB and more, or a thousand frames */
#define MOST_BUFFERS 64
#define MSG_OOB 1
#define MSG_PEEK 2
#define MSG_TRUNC 0x20
#define MSG_ERRQUEUE 0x2000

#define SYS_read 0
#define SYS_write 1
#define SYS_close 3
#define SYS_readv 19
#define SYS_writev 20
#define SYS_dup2 33
#define SYS_sendfile 40
#define SYS_sendto 44
#define SYS_recvfrom 45
#define SYS_sendmsg 46
#define SYS_recvmsg 47
#define SYS_shutdown 48
#define SYS_dup3 292

struct iovec {
	__u64 base;
	__u64 length;
};

/* Where a call has its data: in one buffer, or in several. Neither: they cannot be seen. */
struct data {
	__u64 base;
	__u64 vector;
	__u32 vectors;
	bool written;
};

static __always_inline bool is_tcp(struct walk *walk)
{
	struct peer peer = {};

	return describe_descriptor(bpf_get_current_task_btf(), walk->key.fd, &peer) == FD_SOCKET &&
	       (peer.family == AF_INET || peer.family == AF_INET6) && peer.protocol == IPPROTO_TCP;
}

static __always_inline bool looks_like_request(__u64 base, __u64 bytes)
{
	__u32 length = bytes < 8 ? bytes : 8;
	__u64 word = 0;
	long error = bpf_probe_read_user(&word, length, (void *)base);

	if (error) {
		count(PROGRAM_HEADERS, COUNTER_READ_FAILED);
		FAILED(PROGRAM_HEADERS, error);
		return false;
	}
	return length && begins_request(word, length);
}

static __always_inline long begin_request(struct walk *walk)
{
	if (!looks_like_request(walk->base, walk->here) || !is_tcp(walk))
		return STOP;
	walk->connection.mode = MODE_HEAD;
	return GO_ON;
}

static __always_inline long take_body(struct walk *walk)
{
	struct connection *connection = &walk->connection;
	__u64 bytes = connection->left < walk->here ? connection->left : walk->here;

	advance(walk, bytes);
	connection->left -= bytes;
	if (connection->left)
		return GO_ON;
	if (!connection->is_chunked)
		return end_request(walk);
	connection->mode = MODE_CHUNK;
	return GO_ON;
}

static __always_inline long next_buffer(struct walk *walk)
{
	struct iovec buffer;
	long error;

	if (!walk->vectors || !walk->rest)
		return STOP;
	error = bpf_probe_read_user(&buffer, sizeof(buffer), (void *)walk->vector);
	if (error)
		return not_readable(walk, __LINE__, error);
	walk->vector += sizeof(buffer);
	walk->vectors--;
	walk->base = buffer.base;
	walk->here = buffer.length < walk->rest ? buffer.length : walk->rest;
	walk->rest -= walk->here;
	return GO_ON;
}

static long step(__u32 index, void *unused)
{
	struct walk *walk = this_walk();

	if (!walk)
		return STOP;
	if (walk->at < walk->end)
		return scan_text(walk);
	if (!walk->here)
		return next_buffer(walk);
	switch (walk->connection.mode) {
	case MODE_NONE:
		return begin_request(walk);
	case MODE_HEAD:
	case MODE_CHUNK:
	case MODE_TRAILER:
		return fetch_text(walk);
	case MODE_BODY:
		return take_body(walk);
	case MODE_FRAME:
		return take_frame_header(walk);
	case MODE_PAYLOAD:
		return take_payload(walk);
	default:
		return STOP;
	}
}

/* Keeps what the next call on the connection needs to know. */
static __always_inline void keep(struct walk *walk, struct connection *kept)
{
	struct process_layout *layout;

	if (walk->connection.mode == MODE_NONE) {
		if (kept)
			take_out(&connections, SHARED_CONNECTIONS, &walk->key, kept->slot);
		return;
	}
	if (kept) {
		*kept = walk->connection;
		return;
	}
	layout = bpf_map_lookup_elem(&processes, &walk->key.tgid);
	if (!layout)
		return;
	walk->connection.slot = layout->slot;
	insert(PROGRAM_HEADERS, &connections, SHARED_CONNECTIONS, &walk->key, &walk->connection, layout->slot);
}

static __always_inline struct walk *begin_walk(const struct connection_key *key, const struct pt_regs *regs)
{
	struct walk *walk = this_walk();

	if (!walk)
		return NULL;
	walk->key = *key;
	walk->tid = bpf_get_current_pid_tgid();
	walk->g = regs->r14;
	walk->syscall = regs->orig_ax;
	walk->line = walk->at = walk->end = 0;
	walk->base = walk->here = walk->vector = walk->rest = 0;
	walk->vectors = 0;
	return walk;
}

static __always_inline void follow(struct walk *walk, const struct data *data, __u64 bytes)
{
	walk->vector = data->vector;
	walk->vectors = data->vectors;
	if (data->base) {
		walk->base = data->base;
		walk->here = bytes;
	} else {
		walk->rest = bytes;
	}
	if (bpf_loop(MOST_STEPS, step, NULL, 0) >= MOST_STEPS && walk->connection.mode != MODE_NONE)
		GIVE_UP(walk, -EMSGSIZE);
	/* More buffers than are looked at: what was in them is not known. */
	if (walk->rest && walk->connection.mode != MODE_NONE)
		GIVE_UP(walk, -EMSGSIZE);
}

/* `bytes` went over the connection that were in no buffer of the process. */
static __always_inline void pass_over(struct walk *walk, __u64 bytes)
{
	struct connection *connection = &walk->connection;

	if (connection->mode != MODE_BODY || bytes > connection->left) {
		GIVE_UP(walk, -EPROTO);
		return;
	}
	walk->here = bytes;
	take_body(walk);
}

/* Bytes were read or written. */
static __always_inline void moved(const struct connection_key *key, struct pt_regs *regs, const struct data *data,
				  __u64 bytes)
{
	struct connection *kept = bpf_map_lookup_elem(&connections, key);
	struct walk *walk;

	if (kept && (kept->mode == MODE_GIVEN_UP || kept->written != data->written))
		return;
	if (!kept && !(data->base && looks_like_request(data->base, bytes)) && !data->vector)
		return;
	walk = begin_walk(key, regs);
	if (!walk)
		return;
	if (kept)
		walk->connection = *kept;
	else
		walk->connection = (struct connection){ .written = data->written };
	if (data->base || data->vector)
		follow(walk, data, bytes);
	else
		pass_over(walk, bytes);
	keep(walk, kept);
}

static __always_inline void closed(const struct connection_key *key, struct pt_regs *regs)
{
	struct connection *kept = bpf_map_lookup_elem(&connections, key);
	struct walk *walk;

	if (!kept)
		return;
	if (kept->opened_ns) {
		walk = begin_walk(key, regs);
		if (walk) {
			walk->connection = *kept;
			emit_closed(walk);
		}
	}
	take_out(&connections, SHARED_CONNECTIONS, key, kept->slot);
}

/* struct user_msghdr: a name and its length come first. */
static __always_inline void read_message(struct data *data, __u64 message)
{
	struct {
		__u64 vector;
		__u64 vectors;
	} found = {};
	long error = bpf_probe_read_user(&found, sizeof(found), (void *)(message + 16));

	if (error) {
		count(PROGRAM_HEADERS, COUNTER_READ_FAILED);
		FAILED(PROGRAM_HEADERS, error);
		return;
	}
	data->vector = found.vector;
	data->vectors = found.vectors < MOST_BUFFERS ? found.vectors : MOST_BUFFERS;
}

static __always_inline bool is_aside(__u64 flags)
{
	return flags & (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE);
}

/* Says where the call has its data. Returns false for calls that take or bring none. */
static __always_inline bool find_data(struct data *data, __u32 number, const struct pt_regs *regs)
{
	switch (number) {
	case SYS_read:
	case SYS_write:
		data->base = regs->si;
		break;
	case SYS_recvfrom:
	case SYS_sendto:
		if (is_aside(regs->r10))
			return false;
		if (!(regs->r10 & MSG_TRUNC))
			data->base = regs->si;
		break;
	case SYS_readv:
	case SYS_writev:
		data->vector = regs->si;
		data->vectors = regs->dx < MOST_BUFFERS ? regs->dx : MOST_BUFFERS;
		break;
	case SYS_recvmsg:
	case SYS_sendmsg:
		if (is_aside(regs->dx))
			return false;
		if (!(regs->dx & MSG_TRUNC))
			read_message(data, regs->si);
		break;
	default:
		break;
	}
	return true;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(headers, struct pt_regs *regs, long ret)
{
	__u32 number = regs->orig_ax;
	enum syscall_class class = syscall_class(number);
	struct process_layout *layout;
	struct connection_key key;
	struct data data = {};

	/* connect and accept return no bytes; sockets have no offset for pread and pwrite. */
	if (number == SYS_dup2 || number == SYS_dup3) {
		if (ret < 0)
			return 0;
		class = CLASS_CLOSE;
	} else if (class == CLASS_NONE || class == CLASS_STATUS || (class != CLASS_CLOSE && ret <= 0)) {
		return 0;
	}
	key.tgid = bpf_get_current_pid_tgid() >> 32;
	layout = bpf_map_lookup_elem(&processes, &key.tgid);
	if (!layout || !(layout->flags & PROCESS_WANTS_HEADERS))
		return 0;
	key.fd = regs->di;
	switch (class) {
	case CLASS_CLOSE:
		if (number == SYS_dup2 || number == SYS_dup3)
			key.fd = regs->si;
		if (number != SYS_shutdown)
			closed(&key, regs);
		return 0;
	case CLASS_SPLICE:
		moved(&key, regs, &data, ret);
		key.fd = regs->dx;
		data.written = true;
		moved(&key, regs, &data, ret);
		return 0;
	default:
		data.written = class == CLASS_WRITE;
		if (number != SYS_accept4 && number != SYS_accept && find_data(&data, number, regs))
			moved(&key, regs, &data, ret);
		return 0;
	}
}

static long forget_connection(struct bpf_map *map, struct connection_key *key, struct connection *connection, void *unused)
{
	__u32 tgid = key->tgid;

	if (!bpf_map_lookup_elem(&processes, &tgid))
		take_out(&connections, SHARED_CONNECTIONS, key, connection->slot);
	return 0;
}

/* Run by the observer every now and then: forgets what is of no process any more. */
SEC("syscall")
int scan_connections(void *context)
{
	bpf_for_each_map_elem(&connections, forget_connection, NULL, 0);
	return 0;
}
