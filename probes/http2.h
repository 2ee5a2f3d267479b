/* The frames of HTTP/2 (RFC 9113): what is in header blocks goes to the observer, as only it can decode them; every
 * other payload is stepped over.
 */
#ifndef ENRICHER_HTTP2_H
#define ENRICHER_HTTP2_H

#include "headers.h"

#define FRAME_HEADER_BYTES 9
#define FLAG_END_HEADERS 4
#define MOST_BLOCK_BYTES 16384 /* of a header block; one that is larger gives its connection up */
#define MOST_BLOCK_FRAMES 64

enum block_kind {
	BLOCK_PIECE = 1, /* bytes of the payload of a frame, HEADERS or CONTINUATION */
	BLOCK_CLOSED = 2, /* the connection is: no more of it will come */
};

/* One record of the ring buffer `header_blocks`, with the bytes behind it. enricher/observer/headers.py reads it. */
struct header_block {
	__u64 opened_ns; /* of the connection, see struct connection */
	__u64 now_ns;
	__u64 goid;
	__u64 parent_goid;
	__u32 tgid;
	__u32 tid;
	__s32 fd;
	__u32 left; /* bytes of the frame that are still to come */
	__u32 stream;
	__u16 length; /* of the bytes behind this */
	__u16 syscall;
	__u8 kind; /* enum block_kind */
	__u8 written; /* as in struct connection */
	__u8 frame_type;
	__u8 frame_flags;
	__u8 is_first; /* nothing of the connection has been handed over before */
	__u8 reserved[3];
};
_Static_assert(sizeof(struct header_block) == 64, "the observer reads these");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 19); /* a quarter of a second of what the observer has time to decode at its most */
} header_blocks SEC(".maps");

/* A reservation has one of these sizes: the first holds what nearly all requests on a used connection are. */
#define SMALL_PIECE 128
#define MIDDLE_PIECE 1024
#define LARGE_PIECE 4096

static __always_inline struct header_block *reserve_block(struct walk *walk, __u64 size)
{
	struct header_block *block = bpf_ringbuf_reserve(&header_blocks, sizeof(*block) + size, 0);

	if (!block)
		count(PROGRAM_HEADERS, COUNTER_RING_FULL);
	return block;
}

/* The clock is read with the place in the ring already taken, as in reserve(). */
static __always_inline void describe_block(struct walk *walk, struct header_block *block, enum block_kind kind,
					   __u32 length)
{
	struct connection *connection = &walk->connection;
	struct identity who;

	identify(walk, &who);
	*block = (struct header_block){
		.opened_ns = connection->opened_ns,
		.now_ns = bpf_ktime_get_ns(),
		.goid = who.goid,
		.parent_goid = who.parent_goid,
		.tgid = walk->key.tgid,
		.tid = walk->tid,
		.fd = walk->key.fd,
		.left = connection->left - length,
		.stream = connection->stream,
		.length = length,
		.syscall = walk->syscall,
		.kind = kind,
		.written = connection->written,
		.frame_type = connection->frame_type,
		.frame_flags = connection->frame_flags,
		.is_first = !connection->has_blocks,
	};
}

static __always_inline void emit_closed(struct walk *walk)
{
	struct header_block *block = reserve_block(walk, 0);

	if (!block)
		return;
	describe_block(walk, block, BLOCK_CLOSED, 0);
	bpf_ringbuf_submit(block, BPF_RB_NO_WAKEUP);
}

static __always_inline long hand_over_piece(struct walk *walk, __u64 length, const __u64 size)
{
	struct header_block *block = reserve_block(walk, size);
	long error;

	if (!block)
		return give_up(walk, __LINE__, -ENOSPC);
	error = bpf_probe_read_user(block + 1, length, (void *)walk->base);
	if (error) {
		bpf_ringbuf_discard(block, BPF_RB_NO_WAKEUP);
		return not_readable(walk, __LINE__, error);
	}
	describe_block(walk, block, BLOCK_PIECE, length);
	bpf_ringbuf_submit(block, BPF_RB_NO_WAKEUP);
	walk->connection.has_blocks = 1;
	return GO_ON;
}

/* The next `length` bytes are of a header block. */
static __always_inline long hand_over(struct walk *walk, __u64 length)
{
	if (length <= SMALL_PIECE)
		return hand_over_piece(walk, length, SMALL_PIECE);
	if (length <= MIDDLE_PIECE)
		return hand_over_piece(walk, length, MIDDLE_PIECE);
	return length <= LARGE_PIECE ? hand_over_piece(walk, length, LARGE_PIECE) : STOP;
}

static __always_inline bool has_header_block(__u8 frame_type)
{
	return frame_type == FRAME_HEADERS || frame_type == FRAME_CONTINUATION;
}

/* Whether a frame can be what it says: where bytes were missed, the next "frames" mostly cannot. */
static __always_inline bool is_sane(const struct connection *connection, __u64 length, __u8 type, __u32 stream)
{
	if (!connection->has_settings && type != FRAME_SETTINGS)
		return false;
	if (connection->frames) /* nothing may come between the frames of a header block */
		return type == FRAME_CONTINUATION && stream == connection->stream;
	switch (type) {
	case FRAME_DATA:
		return stream;
	case FRAME_HEADERS:
		return stream & 1; /* clients have the odd ones */
	case FRAME_PRIORITY:
		return stream && length == 5;
	case FRAME_RST_STREAM:
		return stream && length == 4;
	case FRAME_SETTINGS:
		return !stream && length % 6 == 0 && length <= TEXT_BYTES;
	case FRAME_PING:
		return !stream && length == 8;
	case FRAME_GOAWAY:
		return !stream && length >= 8;
	case FRAME_WINDOW_UPDATE:
		return length == 4;
	case FRAME_PUSH_PROMISE:
	case FRAME_CONTINUATION:
		return false;
	default:
		return length <= MOST_BLOCK_BYTES; /* an extension: to be left out */
	}
}

static __always_inline long begin_frame(struct walk *walk)
{
	struct connection *connection = &walk->connection;
	const __u8 *header = connection->carry;
	__u64 length = (__u64)header[0] << 16 | header[1] << 8 | header[2];
	__u32 stream = (header[5] & 0x7f) << 24 | header[6] << 16 | header[7] << 8 | header[8];
	__u8 type = header[3], flags = header[4];

	connection->carried = 0;
	if (!is_sane(connection, length, type, stream))
		return GIVE_UP(walk, -EPROTO);
	connection->has_settings = 1;
	connection->frame_type = type;
	connection->frame_flags = flags;
	connection->stream = stream;
	connection->left = length;
	connection->mode = length ? MODE_PAYLOAD : MODE_FRAME;
	if (!has_header_block(type))
		return GO_ON;
	if (!connection->frames)
		connection->block_bytes = 0;
	connection->block_bytes += length;
	if (connection->block_bytes > MOST_BLOCK_BYTES || ++connection->frames > MOST_BLOCK_FRAMES)
		return GIVE_UP(walk, -EMSGSIZE);
	if (flags & FLAG_END_HEADERS)
		connection->frames = 0;
	return length ? GO_ON : hand_over(walk, 0);
}

static __always_inline long take_frame_header(struct walk *walk)
{
	struct connection *connection = &walk->connection;
	__u32 carried = connection->carried;
	__u64 bytes;
	long error;

	if (carried >= FRAME_HEADER_BYTES)
		return STOP; /* never */
	bytes = FRAME_HEADER_BYTES - carried;
	if (bytes > walk->here)
		bytes = walk->here;
	error = bpf_probe_read_user(connection->carry + carried, bytes, (void *)walk->base);
	if (error)
		return not_readable(walk, __LINE__, error);
	advance(walk, bytes);
	connection->carried = carried + bytes;
	return connection->carried < FRAME_HEADER_BYTES ? GO_ON : begin_frame(walk);
}

static __always_inline long take_payload(struct walk *walk)
{
	struct connection *connection = &walk->connection;
	__u64 bytes = connection->left < walk->here ? connection->left : walk->here;
	long stop = GO_ON;

	if (has_header_block(connection->frame_type)) {
		if (bytes > LARGE_PIECE)
			bytes = LARGE_PIECE;
		stop = hand_over(walk, bytes);
	}
	if (stop)
		return stop;
	advance(walk, bytes);
	connection->left -= bytes;
	if (!connection->left)
		connection->mode = MODE_FRAME;
	return GO_ON;
}

#endif
