/* Which system calls wait for data or room (class READ, WRITE), which end such a wait without being one
 * (CLOSE, STATUS), which sleep on purpose, and which have a descriptor as first argument.
 */
#ifndef ENRICHER_SYSCALLS_H
#define ENRICHER_SYSCALLS_H

#if !defined(__TARGET_ARCH_x86)
#error "system call numbers and registers are known for x86-64 only"
#endif

/* SPLICE waits for its source or its target, nobody can tell which. */
enum syscall_class { CLASS_NONE, CLASS_READ, CLASS_WRITE, CLASS_SPLICE, CLASS_CLOSE, CLASS_STATUS };

#define BIT(n) (1ULL << (n))

/* Numbers below 64, as bits. */
#define READ_CALLS                                                                                          \
	(BIT(0) /* read */ | BIT(17) /* pread64 */ | BIT(19) /* readv */ | BIT(43) /* accept */ |            \
	 BIT(45) /* recvfrom */ | BIT(47) /* recvmsg */)
#define WRITE_CALLS                                                                                         \
	(BIT(1) /* write */ | BIT(18) /* pwrite64 */ | BIT(20) /* writev */ | BIT(40) /* sendfile */ |       \
	 BIT(42) /* connect */ | BIT(44) /* sendto */ | BIT(46) /* sendmsg */)
#define CLOSE_CALLS (BIT(3) /* close */ | BIT(48) /* shutdown */)
#define STATUS_CALLS BIT(55) /* getsockopt: SO_ERROR tells how a connect that waited has ended */
#define DESCRIPTOR_CALLS                                                                                    \
	(READ_CALLS | WRITE_CALLS | CLOSE_CALLS | STATUS_CALLS | BIT(5) /* fstat */ | BIT(8) /* lseek */ |   \
	 BIT(16) /* ioctl */ | BIT(49) /* bind */ | BIT(50) /* listen */ | BIT(54) /* setsockopt */)

#define SYS_poll 7
#define SYS_select 23
#define SYS_nanosleep 35
#define SYS_pause 34
#define SYS_exit 60
#define SYS_fcntl 72
#define SYS_flock 73
#define SYS_fsync 74
#define SYS_fdatasync 75
#define SYS_ftruncate 77
#define SYS_getdents 78
#define SYS_rt_sigtimedwait 128
#define SYS_futex 202
#define SYS_getdents64 217
#define SYS_clock_nanosleep 230
#define SYS_exit_group 231
#define SYS_epoll_wait 232
#define SYS_pselect6 270
#define SYS_ppoll 271
#define SYS_splice 275
#define SYS_sync_file_range 277
#define SYS_epoll_pwait 281
#define SYS_fallocate 285
#define SYS_accept4 288
#define SYS_preadv 295
#define SYS_pwritev 296
#define SYS_recvmmsg 299
#define SYS_sendmmsg 307
#define SYS_copy_file_range 326
#define SYS_preadv2 327
#define SYS_pwritev2 328
#define SYS_epoll_pwait2 441

#define SYS_connect 42
#define SYS_accept 43

static __always_inline enum syscall_class syscall_class(__u32 number)
{
	if (number < 64) {
		__u64 bit = BIT(number);

		if (bit & READ_CALLS)
			return CLASS_READ;
		if (bit & WRITE_CALLS)
			return CLASS_WRITE;
		if (bit & CLOSE_CALLS)
			return CLASS_CLOSE;
		return bit & STATUS_CALLS ? CLASS_STATUS : CLASS_NONE;
	}
	switch (number) {
	case SYS_accept4:
	case SYS_preadv:
	case SYS_preadv2:
	case SYS_recvmmsg:
		return CLASS_READ;
	case SYS_pwritev:
	case SYS_pwritev2:
	case SYS_sendmmsg:
		return CLASS_WRITE;
	case SYS_splice:
		return CLASS_SPLICE;
	default:
		return CLASS_NONE;
	}
}

/* Whether the call, of class READ, returns how many bytes it read. */
static __always_inline bool reads_bytes(__u32 number)
{
	return syscall_class(number) == CLASS_READ && number != SYS_accept && number != SYS_accept4 &&
	       number != SYS_recvmmsg;
}

/* A thread in one of these is idle, sleeps as it was told to, or will never return: nobody's blocked call. That some of them can also
 * wait for a descriptor does not help: who looks from outside cannot tell. */
static __always_inline bool sleeps_on_purpose(__u32 number)
{
	switch (number) {
	case SYS_poll:
	case SYS_select:
	case SYS_pselect6:
	case SYS_ppoll:
	case SYS_futex:
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
	case SYS_pause:
	case SYS_rt_sigtimedwait:
	case SYS_exit:
	case SYS_exit_group:
		return true;
	default:
		return false;
	}
}

static __always_inline bool has_descriptor(__u32 number)
{
	if (number < 64)
		return BIT(number) & DESCRIPTOR_CALLS;
	switch (number) {
	case SYS_fcntl:
	case SYS_flock:
	case SYS_fsync:
	case SYS_fdatasync:
	case SYS_ftruncate:
	case SYS_getdents:
	case SYS_getdents64:
	case SYS_sync_file_range:
	case SYS_fallocate:
	case SYS_copy_file_range:
		return true;
	default:
		return syscall_class(number) != CLASS_NONE;
	}
}

#endif
