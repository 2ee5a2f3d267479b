/* The lines of HTTP/1: heads of requests, and what is around the chunks of a body (RFC 9112). */
#ifndef ENRICHER_HTTP1_H
#define ENRICHER_HTTP1_H

#include "headers.h"

static __always_inline void emit_traceparent(struct walk *walk)
{
	struct process_layout *layout = bpf_map_lookup_elem(&processes, &walk->key.tgid);
	struct identity who;
	struct event *event;
	__u64 now;

	identify(walk, &who);
	event = reserve(PROGRAM_HEADERS, layout ? layout->slot : 0);
	if (!event)
		return;
	now = bpf_ktime_get_ns();
	*event = (struct event){
		.start_ns = now,
		.end_ns = now,
		.goid = who.goid,
		.parent_goid = who.parent_goid,
		.tgid = walk->key.tgid,
		.tid = walk->tid,
		.kind = EVENT_TRACEPARENT,
		.flags = walk->connection.written ? TRACEPARENT_WRITTEN : 0,
		.syscall = walk->syscall,
		.fd = walk->key.fd,
		.fd_type = FD_SOCKET,
		.span = walk->connection.span,
	};
	submit(PROGRAM_HEADERS, event);
}

/* No line is expected from here on: what is left of the text is left in the buffer. */
static __always_inline long leave_lines(struct walk *walk, enum mode mode)
{
	__u32 unused = walk->end - walk->line;

	walk->base -= unused;
	walk->here += unused;
	walk->line = walk->at = walk->end = 0;
	walk->connection.mode = mode;
	return GO_ON;
}

static __always_inline long end_request(struct walk *walk)
{
	bool written = walk->connection.written;

	leave_lines(walk, MODE_NONE);
	walk->connection = (struct connection){ .written = written };
	return GO_ON;
}

static __always_inline long end_head(struct walk *walk)
{
	struct connection *connection = &walk->connection;

	if (connection->request == REQUEST_PREFACE) {
		connection->opened_ns = bpf_ktime_get_ns();
		connection->left = 6; /* "SM\r\n\r\n" */
		connection->frame_type = FRAME_NONE;
		return leave_lines(walk, MODE_PAYLOAD);
	}
	/* Of several a service takes whichever it likes. */
	if (connection->traceparents == 1 && connection->is_valid)
		emit_traceparent(walk);
	if (connection->is_chunked) {
		if (connection->has_length)
			return GIVE_UP(walk, -EPROTO);
		connection->mode = MODE_CHUNK;
		return GO_ON;
	}
	return connection->left ? leave_lines(walk, MODE_BODY) : end_request(walk);
}

static __always_inline bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

#define MOST_BLANKS 4 /* before and after a value; nobody writes more than one */

/* A header, from one offset in the text to another. */
static __always_inline long take_header(struct walk *walk, __u64 from, __u64 to)
{
	struct connection *connection = &walk->connection;
	enum field field = read_field_name(walk->text + from);
	__s64 number;
	int i;

	if (field == FIELD_TRANSFER_ENCODING)
		connection->is_chunked = 1;
	if (field != FIELD_TRACEPARENT && field != FIELD_CONTENT_LENGTH)
		return GO_ON;
	from += field == FIELD_TRACEPARENT ? TRACEPARENT_NAME : CONTENT_LENGTH_NAME;
	for (i = 0; i < MOST_BLANKS && from < to && is_blank(walk->text[within_text(from)]); i++)
		from++;
	for (i = 0; i < MOST_BLANKS && from < to && is_blank(walk->text[within_text(to - 1)]); i++)
		to--;
	if (from > to)
		to = from; /* the name itself was read from what stood behind the line */
	if (field == FIELD_CONTENT_LENGTH) {
		number = read_number(walk->text + within_text(from), to - from, 10);
		if (number < 0 || connection->has_length)
			return GIVE_UP(walk, -EPROTO);
		connection->has_length = 1;
		connection->left = number;
		return GO_ON;
	}
	if (connection->traceparents < 2)
		connection->traceparents++;
	connection->is_valid = read_traceparent(walk->text + within_text(from), to - from, &connection->span);
	return GO_ON;
}

/* A whole line, from one offset in the text to another. */
static __always_inline long take_line(struct walk *walk, __u64 from, __u64 to)
{
	struct connection *connection = &walk->connection;
	const char *line = walk->text + from;
	__u32 length = to - from;
	__s64 number;

	if (connection->skips_line) {
		connection->skips_line = 0;
		return GO_ON;
	}
	switch (connection->mode) {
	case MODE_HEAD:
		if (connection->request)
			return length ? take_header(walk, from, to) : end_head(walk);
		if (length >= SHORTEST_REQUEST && to >= SHORTEST_REQUEST)
			connection->request = read_request_line(line, walk->text + to);
		if (connection->request)
			return GO_ON;
		end_request(walk); /* it was none */
		return STOP;
	case MODE_CHUNK:
		number = read_number(line, length, 16);
		if (number < 0)
			return GIVE_UP(walk, -EPROTO);
		if (!number) {
			connection->mode = MODE_TRAILER;
			return GO_ON;
		}
		connection->left = number + 2; /* and the line's end behind it */
		return leave_lines(walk, MODE_BODY);
	default: /* MODE_TRAILER */
		return length ? GO_ON : end_request(walk);
	}
}

/* The text ends within a line: what is there of it is kept for the next call, or if it is long, left out. */
static __always_inline long keep_line(struct walk *walk)
{
	struct connection *connection = &walk->connection;
	__u64 line = within_text(walk->line);
	__u32 length = walk->end - line;

	walk->line = walk->at = walk->end = 0;
	connection->carried = 0;
	if (connection->skips_line)
		return GO_ON;
	if (length <= CARRY_BYTES) {
		__builtin_memcpy(connection->carry, walk->text + line, CARRY_BYTES);
		connection->carried = length;
		return GO_ON;
	}
	if (connection->mode == MODE_HEAD && !connection->request) {
		connection->mode = MODE_NONE;
		return STOP;
	}
	if (connection->mode == MODE_CHUNK)
		return GIVE_UP(walk, -EMSGSIZE);
	switch (read_field_name(walk->text + line)) {
	case FIELD_CONTENT_LENGTH:
		return GIVE_UP(walk, -EMSGSIZE);
	case FIELD_TRACEPARENT:
		connection->traceparents = 2; /* not a valid one */
		break;
	case FIELD_TRANSFER_ENCODING:
		connection->is_chunked = 1;
		break;
	default:
		break;
	}
	connection->skips_line = 1;
	return GO_ON;
}

#define WORDS_A_STEP 8 /* 64 characters: a line is mostly shorter */

/* Looks at the next characters of the text. */
static __always_inline long scan_text(struct walk *walk)
{
	__u64 line = walk->line, at = walk->at, end = walk->end, found = 0;
	int i;

	for (i = 0; i < WORDS_A_STEP && at < end; i++) {
		found = newlines(load_word(walk->text + within_text(at)));
		if (found) {
			at += first_byte(found);
			break;
		}
		at += 8;
	}
	if (at >= end)
		return keep_line(walk);
	walk->at = at;
	if (!found)
		return GO_ON;
	walk->line = walk->at = at + 1;
	if (at > line && walk->text[within_text(at - 1)] == '\r')
		at--;
	return take_line(walk, within_text(line), within_text(at));
}

/* Takes as much of the buffer into the text as lines may need. */
static __always_inline long fetch_text(struct walk *walk)
{
	__u64 bytes = walk->connection.mode == MODE_HEAD ? TEXT_BYTES : CARRY_BYTES;
	__u32 carried = walk->connection.carried;
	long error;

	if (carried > CARRY_BYTES)
		return STOP; /* never */
	if (bytes > walk->here)
		bytes = walk->here;
	__builtin_memcpy(walk->text, walk->connection.carry, CARRY_BYTES);
	error = bpf_probe_read_user(walk->text + carried, bytes, (void *)walk->base);
	if (error)
		return not_readable(walk, __LINE__, error);
	walk->line = 0;
	walk->at = carried;
	walk->end = carried + bytes;
	walk->connection.carried = 0;
	advance(walk, bytes);
	return GO_ON;
}

#endif
