/* Which connection a client takes for a call: what its own goroutines then wait for, on that descriptor, they wait for
 * on behalf of the caller.
 *
 * Attached, behind the stack check, to the methods of net/http, x/net/http2 and grpc-go that send a request on a
 * connection they have chosen, where the receiver is in RAX, and to that of net/http which gives a connection back. The
 * attach cookie says where in it the net.Conn is.
 */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "descriptor.h"
#include "events.h"
#include "goroutine.h"
#include "maps.h"

char LICENSE[] SEC("license") = "GPL";

#define COOKIE_OFFSET 0xffff
#define COOKIE_MULTIPLEXED (1 << 16)
#define COOKIE_OVER (1 << 17) /* the connection is given back, and in RBX */

#define SOCK_STREAM 1
#define MOST_WRAPPED 4

struct go_interface {
	__u64 type;
	__u64 data;
};

/* A descriptor that both the program and the kernel call a socket of this family. */
struct connection {
	struct peer peer;
	__s32 fd;
};

/* Whether `address` is that of a net.netFD: it says so in its fields, and the kernel agrees. */
static __always_inline bool is_net_fd(const struct process_layout *layout, __u64 address, struct connection *found)
{
	__u64 family = 0, type = 0, fd = 0;

	if (bpf_probe_read_user(&family, sizeof(family), (void *)(address + layout->net_family)) ||
	    (family != AF_INET && family != AF_INET6 && family != AF_UNIX) ||
	    bpf_probe_read_user(&type, sizeof(type), (void *)(address + layout->net_sotype)) || type != SOCK_STREAM ||
	    bpf_probe_read_user(&fd, sizeof(fd), (void *)(address + layout->poll_sysfd)) || fd >> 31)
		return false;
	__builtin_memset(&found->peer, 0, sizeof(found->peer));
	found->fd = fd;
	return describe_descriptor(bpf_get_current_task_btf(), fd, &found->peer) == FD_SOCKET &&
	       found->peer.family == family;
}

/* A connection of its own at the place of an interface in the program's memory. */
static __always_inline bool is_net_conn(const struct process_layout *layout, __u64 address, struct connection *found)
{
	struct go_interface conn;
	__u64 net_fd;

	return !bpf_probe_read_user(&conn, sizeof(conn), (void *)address) && conn.type && conn.data &&
	       !bpf_probe_read_user(&net_fd, sizeof(net_fd), (void *)conn.data) && is_net_fd(layout, net_fd, found);
}

/* Follows a net.Conn to its descriptor. A *net.TCPConn or *net.UnixConn is a pointer to its netFD; what wraps a
 * connection, as tls.Conn does, nearly always has it as its first field. The types are not known: what is found
 * must prove itself. */
static __always_inline bool find_net_fd(const struct process_layout *layout, __u64 address, struct connection *found)
{
	struct connection other = {};
	struct go_interface conn;
	__u64 net_fd;
	int i;

	for (i = 0; i <= MOST_WRAPPED; i++) {
		if (bpf_probe_read_user(&conn, sizeof(conn), (void *)address) || !conn.type || !conn.data)
			return false;
		if (!bpf_probe_read_user(&net_fd, sizeof(net_fd), (void *)conn.data) &&
		    is_net_fd(layout, net_fd, found))
			return true;
		/* What has two connections, as one that copies all to another does, may mean either. */
		if (is_net_conn(layout, conn.data + sizeof(conn), &other) && is_net_conn(layout, conn.data, found) &&
		    other.fd != found->fd)
			return false;
		address = conn.data;
	}
	return false;
}

SEC("uprobe")
int connection_call(struct pt_regs *ctx)
{
	struct goroutine_key key = { .g = ctx->r14 };
	/* Both are read: the verifier refuses an access to the registers whose place is chosen. */
	volatile __u64 first = ctx->ax, second = ctx->bx;
	__u64 now, address, cookie = bpf_get_attach_cookie(ctx);
	struct process_layout *layout;
	struct connection found = {};
	struct goroutine *goroutine;
	struct go_interface conn;
	struct identity who;
	struct event *event;
	bool is_known;
	long error;

	key.tgid = bpf_get_current_pid_tgid() >> 32;
	layout = bpf_map_lookup_elem(&processes, &key.tgid);
	if (!layout || !(layout->flags & PROCESS_HAS_CALLS))
		return 0;
	goroutine = bpf_map_lookup_elem(&goroutines, &key);
	error = read_goroutine(layout, key.g, &who);
	if (error) {
		UNREAD(PROGRAM_CALL, layout, error);
		return 0;
	}
	address = (cookie & COOKIE_OVER ? second : first) + (cookie & COOKIE_OFFSET);
	/* A connection of net/http that is but the way to one of HTTP/2 has none of its own. */
	if (!bpf_probe_read_user(&conn, sizeof(conn), (void *)address) && !conn.type)
		return 0;
	if (!find_net_fd(layout, address, &found)) {
		count(PROGRAM_CALL, COUNTER_READ_FAILED);
		return 0;
	}
	is_known = goroutine && goroutine->goid == who.goid;
	event = reserve(PROGRAM_CALL, layout->slot);
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
		.kind = EVENT_CALL,
		.flags = (cookie & COOKIE_MULTIPLEXED ? CALL_MULTIPLEXED : 0) | (cookie & COOKIE_OVER ? CALL_OVER : 0),
		.fd = found.fd,
		.fd_type = FD_SOCKET,
		.root_goid = is_known ? goroutine->root_goid : 0,
		.root_ns = is_known ? goroutine->root_ns : 0,
		.peer = found.peer,
	};
	submit(PROGRAM_CALL, event);
	return 0;
}
