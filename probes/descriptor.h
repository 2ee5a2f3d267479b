/* What a file descriptor of the current task is, and the other end of it if it is a socket. */
#ifndef ENRICHER_DESCRIPTOR_H
#define ENRICHER_DESCRIPTOR_H

#include "maps.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define S_IFMT_SHIFT 12 /* i_mode >> 12: the values of enum fd_type */
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_UDP 17

static __always_inline void describe_socket(struct peer *peer, struct socket *socket, unsigned long inode)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);
	__be32 address;

	if (!sk)
		return;
	peer->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (peer->family == AF_UNIX) /* so that a descriptor used again is not taken for the same connection */
		__builtin_memcpy(peer->address, &inode, sizeof(inode));
	if (peer->family != AF_INET && peer->family != AF_INET6)
		return;
	peer->protocol = BPF_CORE_READ(sk, sk_protocol);
	peer->port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	peer->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	if (peer->family == AF_INET) {
		address = BPF_CORE_READ(sk, __sk_common.skc_daddr);
		__builtin_memcpy(peer->address, &address, sizeof(address));
	} else {
		BPF_CORE_READ_INTO(&peer->address, sk, __sk_common.skc_v6_daddr.in6_u.u6_addr8);
	}
}

/* Fills `peer` (zeroed by the caller) and returns the type. `task` is a trusted pointer: its fields are plain
 * loads. It must be the current task, whose table does not go away under us. */
static __always_inline enum fd_type describe_descriptor(struct task_struct *task, int fd, struct peer *peer)
{
	struct file **slots, *file = NULL;
	struct files_struct *files = task->files;
	struct fdtable *table;
	enum fd_type type;

	if (fd < 0 || !files)
		return FD_UNKNOWN;
	table = files->fdt;
	if (!table || (unsigned int)fd >= table->max_fds)
		return FD_UNKNOWN;
	slots = table->fd;
	if (bpf_probe_read_kernel(&file, sizeof(file), slots + fd) || !file)
		return FD_UNKNOWN;
	type = BPF_CORE_READ(file, f_inode, i_mode) >> S_IFMT_SHIFT;
	if (type == FD_SOCKET)
		describe_socket(peer, BPF_CORE_READ(file, private_data), BPF_CORE_READ(file, f_inode, i_ino));
	return type;
}

#endif
