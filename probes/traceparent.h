/* What the lines of an HTTP/1 head say: the values that matter here, out of text in memory that the caller has bounded.
 *
 * A loaded word has its first character in the lowest byte.
 */
#ifndef ENRICHER_TRACEPARENT_H
#define ENRICHER_TRACEPARENT_H

#include "vmlinux.h"

#include "events.h"

#define EACH_BYTE(value) (0x0101010101010101ULL * (value))
#define LOWER_CASE EACH_BYTE(0x20)

#define WORD(a, b, c, d, e, f, g, h)                                                                        \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |             \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)

static __always_inline __u64 load_word(const char *text)
{
	return *(const __u64 *)text;
}

/* The lowest bit that is set is in the byte of the first newline; 0: there is none. */
static __always_inline __u64 newlines(__u64 word)
{
	word ^= EACH_BYTE('\n');
	return (word - EACH_BYTE(1)) & ~word & EACH_BYTE(0x80);
}

/* Which byte the lowest bit that is set is in. */
static __always_inline __u32 first_byte(__u64 bits)
{
	__u64 below = (bits - 1) & ~bits;

	/* `below` has ones up to there: each whole byte of them counts one in the highest byte of the product. */
	return ((below >> 7 & EACH_BYTE(1)) * EACH_BYTE(1)) >> 56;
}

/* The methods of RFC 9110 and PATCH, and what an HTTP/2 connection begins with. Of the word, the first `length`
 * characters are known. */
static __always_inline bool begins_request(__u64 word, __u32 length)
{
	__u64 known = length < 8 ? (1ULL << (8 * length)) - 1 : ~0ULL;

#define IS(characters, ...) (!((word ^ WORD(__VA_ARGS__)) & known & ((characters) < 8 ? (1ULL << 8 * (characters) % 64) - 1 : ~0ULL)))
	switch (word & 0xff) {
	case 'G':
		return IS(4, 'G', 'E', 'T', ' ', 0, 0, 0, 0);
	case 'P':
		return IS(5, 'P', 'O', 'S', 'T', ' ', 0, 0, 0) || IS(4, 'P', 'U', 'T', ' ', 0, 0, 0, 0) ||
		       IS(6, 'P', 'A', 'T', 'C', 'H', ' ', 0, 0) || IS(8, 'P', 'R', 'I', ' ', '*', ' ', 'H', 'T');
	case 'H':
		return IS(5, 'H', 'E', 'A', 'D', ' ', 0, 0, 0);
	case 'D':
		return IS(7, 'D', 'E', 'L', 'E', 'T', 'E', ' ', 0);
	case 'O':
		return IS(8, 'O', 'P', 'T', 'I', 'O', 'N', 'S', ' ');
	case 'C':
		return IS(8, 'C', 'O', 'N', 'N', 'E', 'C', 'T', ' ');
	case 'T':
		return IS(6, 'T', 'R', 'A', 'C', 'E', ' ', 0, 0);
	default:
		return false;
	}
#undef IS
}

enum request {
	REQUEST_NONE,
	REQUEST_HTTP1,
	REQUEST_PREFACE, /* that of HTTP/2 */
};

#define SHORTEST_REQUEST 14 /* "GET / HTTP/1.1", and the preface */

/* What a first line is. `end` is behind its last character; it is no shorter than SHORTEST_REQUEST. */
static __always_inline enum request read_request_line(const char *line, const char *end)
{
	__u64 first = load_word(line), last = load_word(end - 8);

	if (!begins_request(first, 8))
		return REQUEST_NONE;
	if (first == WORD('P', 'R', 'I', ' ', '*', ' ', 'H', 'T'))
		return last == WORD('H', 'T', 'T', 'P', '/', '2', '.', '0') ? REQUEST_PREFACE : REQUEST_NONE;
	if (last == WORD('H', 'T', 'T', 'P', '/', '1', '.', '1') || last == WORD('H', 'T', 'T', 'P', '/', '1', '.', '0'))
		return REQUEST_HTTP1;
	return REQUEST_NONE;
}

enum field {
	FIELD_OTHER,
	FIELD_TRACEPARENT,
	FIELD_CONTENT_LENGTH,
	FIELD_TRANSFER_ENCODING,
};

#define TRACEPARENT_NAME 12 /* characters, the colon included */
#define CONTENT_LENGTH_NAME 15

/* Which header a line holds, in upper or lower case. 20 bytes of it may be read. */
static __always_inline enum field read_field_name(const char *line)
{
	__u64 first = load_word(line) | LOWER_CASE;

	if (first == WORD('t', 'r', 'a', 'c', 'e', 'p', 'a', 'r') &&
	    (__u32)(load_word(line + 8) | LOWER_CASE) == (__u32)WORD('e', 'n', 't', ':', 0, 0, 0, 0))
		return FIELD_TRACEPARENT;
	if (first == WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-') &&
	    (load_word(line + 8) | LOWER_CASE) << 8 == WORD(0, 'l', 'e', 'n', 'g', 't', 'h', ':'))
		return FIELD_CONTENT_LENGTH;
	if (first == WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r') &&
	    (load_word(line + 8) | LOWER_CASE) == WORD('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n'))
		return FIELD_TRANSFER_ENCODING;
	return FIELD_OTHER;
}

/* Eight hex digits, in lower case as the specification has them, as four bytes in that order. Sets bits in `bad` if
 * they are something else. */
static __always_inline __u32 read_hex(__u64 digits, __u64 *bad)
{
	__u64 nibbles = (digits & EACH_BYTE(0x0f)) + (digits >> 6 & EACH_BYTE(1)) * 9, letters, pairs;

	/* The digits that these values are written with must be those that were read. */
	letters = (nibbles + EACH_BYTE(6)) >> 4 & EACH_BYTE(1);
	*bad |= nibbles & EACH_BYTE(0xf0);
	*bad |= (nibbles + EACH_BYTE('0') + letters * ('a' - '0' - 10)) ^ digits;
	pairs = (nibbles << 4 | nibbles >> 8) & 0x00ff00ff00ff00ffULL;
	pairs = (pairs | pairs >> 8) & 0x0000ffff0000ffffULL;
	return pairs | pairs >> 16;
}

#define TRACEPARENT_LENGTH 55

/* Reads a traceparent (W3C Trace Context, 3.2) of `length` characters, of which 64 may be read. Returns whether it is
 * a valid one. */
static __always_inline bool read_traceparent(const char *text, __u32 length, struct span_ids *ids)
{
	__u32 *trace = (__u32 *)ids->trace_id, *span = (__u32 *)ids->span_id;
	__u64 bad = 0, version, flags;

	if (length < TRACEPARENT_LENGTH)
		return false;
	version = load_word(text) & 0xffff;
	flags = load_word(text + 53) & 0xffff;
	read_hex(version | flags << 16 | (__u64)0x30303030 << 32, &bad);
	trace[0] = read_hex(load_word(text + 3), &bad);
	trace[1] = read_hex(load_word(text + 11), &bad);
	trace[2] = read_hex(load_word(text + 19), &bad);
	trace[3] = read_hex(load_word(text + 27), &bad);
	span[0] = read_hex(load_word(text + 36), &bad);
	span[1] = read_hex(load_word(text + 44), &bad);
	if (bad || text[2] != '-' || text[35] != '-' || text[52] != '-' || version == WORD('f', 'f', 0, 0, 0, 0, 0, 0))
		return false;
	/* Only a later version may have more to say. */
	if (length > TRACEPARENT_LENGTH && (version == WORD('0', '0', 0, 0, 0, 0, 0, 0) || text[TRACEPARENT_LENGTH] != '-'))
		return false;
	return (trace[0] | trace[1] | trace[2] | trace[3]) && (span[0] | span[1]);
}

#define MOST_DIGITS 15

/* A number, in digits to this base, with nothing but blanks and, if it has base 16, an extension behind it. Returns -1
 * if it is something else. 16 bytes of `text` may be read. */
static __always_inline __s64 read_number(const char *text, __u32 length, __u32 base)
{
	__u64 value = 0;
	__u32 i, digit;

	for (i = 0; i <= MOST_DIGITS && i < length; i++) {
		char c = text[i];

		if (c >= '0' && c <= '9')
			digit = c - '0';
		else if (base == 16 && (c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			digit = (c | 0x20) - 'a' + 10;
		else if (c == ' ' || c == '\t' || (c == ';' && base == 16))
			break;
		else
			return -1;
		value = value * base + digit;
	}
	return i && i <= MOST_DIGITS ? (__s64)value : -1;
}

#endif
