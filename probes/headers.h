/* What headers.bpf.c knows of a connection between two calls on it, and during one. */
#ifndef ENRICHER_HEADERS_H
#define ENRICHER_HEADERS_H

#include "descriptor.h"
#include "events.h"
#include "goroutine.h"
#include "maps.h"
#include "traceparent.h"

#define IPPROTO_TCP 6
#define ENOSPC 28
#define EPROTO 71
#define EMSGSIZE 90

#define CARRY_BYTES 96 /* of a line that goes on in the next buffer; no line of interest is longer */
#define TEXT_BYTES 4096 /* looked at at once */
#define TEXT_MASK 8191 /* the next power of two, for both, less one */

/* Where in the stream of its bytes a connection is. */
enum mode {
	MODE_NONE, /* a request may begin; not kept */
	MODE_HEAD, /* in the lines of an HTTP/1 head */
	MODE_BODY, /* `left` bytes of a body or of a chunk of it are to come */
	MODE_CHUNK, /* in the line before a chunk */
	MODE_TRAILER, /* in the lines behind the last chunk */
	MODE_FRAME, /* HTTP/2: `carried` bytes of a frame's header are here */
	MODE_PAYLOAD, /* `left` bytes of the frame are to come */
	MODE_GIVEN_UP, /* something was not understood, or lost: nothing more is, until it is closed */
};

/* RFC 9113, 6 */
enum frame_type {
	FRAME_DATA,
	FRAME_HEADERS,
	FRAME_PRIORITY,
	FRAME_RST_STREAM,
	FRAME_SETTINGS,
	FRAME_PUSH_PROMISE,
	FRAME_PING,
	FRAME_GOAWAY,
	FRAME_WINDOW_UPDATE,
	FRAME_CONTINUATION,
	FRAME_NONE = 255, /* the rest of the preface */
};

struct connection_key {
	__u32 tgid;
	__s32 fd;
};

struct connection {
	__u64 opened_ns; /* HTTP/2: when its preface came; tells it from others that had the descriptor. 0: HTTP/1 */
	__u64 left;
	struct span_ids span; /* of the traceparent in this head */
	__u32 block_bytes; /* of the header block that is open */
	__u32 stream; /* of the frame */
	__u8 mode; /* enum mode */
	__u8 written; /* the requests are what the process writes: it is their client */
	__u8 request; /* enum request: the head's first line, once it is known */
	__u8 traceparents; /* of them in this head */
	__u8 is_valid; /* the last of those */
	__u8 has_length; /* there is a Content-Length */
	__u8 is_chunked;
	__u8 skips_line; /* the rest of a long line */
	__u8 frame_type;
	__u8 frame_flags;
	__u8 frames; /* of the header block that is open; 0: none is */
	__u8 has_settings; /* the first frame has come */
	__u8 has_blocks; /* something was handed over */
	__u8 carried;
	__u8 carry[CARRY_BYTES];
	__u16 slot; /* that this entry is charged to */
	__u16 reserved[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

/* One call's way through its buffers. */
struct walk {
	struct connection connection;
	struct connection_key key;
	__u64 g;
	__u64 vector; /* struct iovec that have not been begun, in the process's memory */
	__u32 vectors;
	__u32 tid;
	__u64 rest; /* bytes in them */
	__u64 base; /* of the buffer under way, what is not done */
	__u64 here; /* bytes of that */
	/* Lines: what is in `text` from `line` to `end` is not done, and up to `at` there is no newline. */
	__u32 line;
	__u32 at;
	__u32 end;
	__u32 syscall;
	char text[TEXT_MASK + 1 + 2 * CARRY_BYTES]; /* with room for a line that begins at the very end */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct walk);
} walks SEC(".maps");

static __always_inline struct walk *this_walk(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&walks, &zero);
}

/* An offset in the text, as the verifier believes it: it cannot see through the sums that made it. In assembly, as the
 * compiler knows better and would check a copy. */
static __always_inline __u64 within_text(__u64 offset)
{
	asm volatile("%0 &= %1" : "+r"(offset) : "i"(TEXT_MASK));
	return offset;
}

static __always_inline void advance(struct walk *walk, __u64 bytes)
{
	walk->base += bytes;
	walk->here -= bytes;
}

static __always_inline void identify(struct walk *walk, struct identity *who)
{
	struct process_layout *layout = bpf_map_lookup_elem(&processes, &walk->key.tgid);
	struct g_view view;

	*who = (struct identity){};
	if (layout && layout->flags & PROCESS_HAS_GOROUTINES && !view_g(layout, walk->g, &view) &&
	    is_running(layout, walk->g, &view, NULL))
		*who = identity_in(layout, &view);
}

/* Steps of bpf_loop say whether to go on. */
enum { GO_ON, STOP };

#define GIVE_UP(walk, error) give_up(walk, __LINE__, error)

static __always_inline long give_up(struct walk *walk, __u32 line, long error)
{
	walk->connection.mode = MODE_GIVEN_UP;
	note_failure(PROGRAM_HEADERS, line, error);
	return STOP;
}

static __always_inline long not_readable(struct walk *walk, __u32 line, long error)
{
	count(PROGRAM_HEADERS, COUNTER_READ_FAILED);
	return give_up(walk, line, error);
}

#endif
