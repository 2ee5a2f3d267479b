/* The span id that a goroutine's labels name: those of runtime/pprof, which profilers set and every goroutine inherits.
 *
 * Keys, best first, and how the value is written:
 *   enricher.span_id  16 hexadecimal digits   contrib/go
 *   span id           decimal                 Datadog's tracer
 *   span_id           16 hexadecimal digits   Pyroscope; the root span of the process unless set otherwise
 * OpenTelemetry has a process say that it uses labels, and leaves their names open (OTEP 4947).
 */
#ifndef ENRICHER_LABELS_H
#define ENRICHER_LABELS_H

#include "maps.h"

#include <bpf/bpf_endian.h>

#define LABELS_READ 16 /* at most so many of a goroutine */
#define BUCKETS_READ 4 /* of a map: as many as LABELS_READ labels ever take, but for clashes of their hashes */

#define MAP_LOG2_BUCKETS 9 /* runtime.hmap.B */
#define MAP_BUCKETS 16 /* runtime.hmap.buckets */
#define BUCKET_SLOTS 8
#define BUCKET_KEYS 8
#define BUCKET_VALUES (BUCKET_KEYS + BUCKET_SLOTS * sizeof(struct go_string))
#define BUCKET_SIZE (BUCKET_VALUES + BUCKET_SLOTS * sizeof(struct go_string) + 8)
#define SLOT_IN_USE 5 /* minTopHash: what is less marks a slot as empty or moved */

#define CHARACTERS(a, b, c, d, e, f, g, h)                                                                    \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 |              \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)

#define HEX_DIGITS 16
#define MOST_DECIMAL_DIGITS 20
#define U64_MAX (~0ULL)

struct go_string {
	__u64 text;
	__u64 length;
};

struct go_label {
	struct go_string key;
	struct go_string value;
};

/* The better ones are greater. */
enum label_key { KEY_OTHER, KEY_PYROSCOPE, KEY_DATADOG, KEY_OWN };

struct found_label {
	struct go_string value;
	enum label_key key;
	__u32 failed; /* reads */
};

static __always_inline enum label_key label_key(const struct go_string *key, __u32 *failed)
{
	__u64 text[2] = {};

	if (key->length == 7) {
		if (bpf_probe_read_user(text, 7, (void *)key->text))
			++*failed;
		if (text[0] == CHARACTERS('s', 'p', 'a', 'n', '_', 'i', 'd', 0))
			return KEY_PYROSCOPE;
		if (text[0] == CHARACTERS('s', 'p', 'a', 'n', ' ', 'i', 'd', 0))
			return KEY_DATADOG;
	} else if (key->length == 16) {
		if (bpf_probe_read_user(text, 16, (void *)key->text))
			++*failed;
		if (text[0] == CHARACTERS('e', 'n', 'r', 'i', 'c', 'h', 'e', 'r') &&
		    text[1] == CHARACTERS('.', 's', 'p', 'a', 'n', '_', 'i', 'd'))
			return KEY_OWN;
	}
	return KEY_OTHER;
}

static __always_inline void consider(const struct go_label *label, struct found_label *found)
{
	enum label_key key = label_key(&label->key, &found->failed);

	if (key > found->key) {
		found->key = key;
		found->value = label->value;
	}
}

static __noinline void find_in_slice(__u64 labels, struct found_label *found)
{
	struct go_label label;
	struct go_string slice; /* its pointer and length */
	__u32 i;

	if (!found)
		return;
	if (bpf_probe_read_user(&slice, sizeof(slice), (void *)labels)) {
		found->failed++;
		return;
	}
	for (i = 0; i < LABELS_READ && i < slice.length; i++) {
		if (bpf_probe_read_user(&label, sizeof(label), (void *)(slice.text + i * sizeof(label)))) {
			found->failed++;
			return;
		}
		consider(&label, found);
	}
}

static __noinline void find_in_bucket(__u64 bucket, struct found_label *found)
{
	__u8 hashes[BUCKET_SLOTS];
	struct go_label label;
	__u32 i;

	if (!found)
		return;
	if (bpf_probe_read_user(hashes, sizeof(hashes), (void *)bucket)) {
		found->failed++;
		return;
	}
	for (i = 0; i < BUCKET_SLOTS; i++) {
		if (hashes[i] < SLOT_IN_USE)
			continue;
		if (bpf_probe_read_user(&label.key, sizeof(label.key),
					(void *)(bucket + BUCKET_KEYS + i * sizeof(label.key))) ||
		    bpf_probe_read_user(&label.value, sizeof(label.value),
					(void *)(bucket + BUCKET_VALUES + i * sizeof(label.value)))) {
			found->failed++;
			return;
		}
		consider(&label, found);
	}
}

/* Maps of labels are made whole and never changed after. Overflow buckets are not looked at. */
static __always_inline void find_in_map(__u64 labels, struct found_label *found)
{
	__u64 map = 0, buckets = 0;
	__u8 log2 = 0;
	__u32 i;

	if (bpf_probe_read_user(&map, sizeof(map), (void *)labels) || !map ||
	    bpf_probe_read_user(&log2, sizeof(log2), (void *)(map + MAP_LOG2_BUCKETS)) ||
	    bpf_probe_read_user(&buckets, sizeof(buckets), (void *)(map + MAP_BUCKETS))) {
		found->failed++;
		return;
	}
	if (!buckets)
		return;
	for (i = 0; i < BUCKETS_READ && i < 1U << (log2 & 31); i++)
		find_in_bucket(buckets + i * BUCKET_SIZE, found);
}

static __always_inline __u64 parse_hexadecimal(const struct go_string *value)
{
	__u8 digits[HEX_DIGITS], digit;
	__u64 id = 0;
	__u32 i;

	if (value->length != HEX_DIGITS || bpf_probe_read_user(digits, sizeof(digits), (void *)value->text))
		return 0;
	for (i = 0; i < HEX_DIGITS; i++) {
		digit = digits[i];
		if (digit >= '0' && digit <= '9')
			digit -= '0';
		else if (digit >= 'a' && digit <= 'f')
			digit -= 'a' - 10;
		else
			return 0;
		id = id << 4 | digit;
	}
	return id;
}

static __always_inline __u64 parse_decimal(const struct go_string *value)
{
	__u8 digits[MOST_DECIMAL_DIGITS] = {};
	__u64 id = 0, length = value->length;
	__u32 i;

	if (!length || length > MOST_DECIMAL_DIGITS || bpf_probe_read_user(digits, length, (void *)value->text))
		return 0;
	for (i = 0; i < MOST_DECIMAL_DIGITS && i < length; i++) {
		__u8 digit = digits[i] - '0';

		if (digit > 9 || id > (U64_MAX - digit) / 10)
			return 0;
		id = id * 10 + digit;
	}
	return id;
}

/* Writes it as OTLP does, or eight zeros if none is named. What cannot be read names none. */
static __noinline void read_label(const struct process_layout *layout, __u64 g, __u8 *span_id,
				  enum probe_program program)
{
	struct found_label found = {};
	__u64 labels = 0, id = 0;

	if (!layout || !span_id || layout->g_labels == OFFSET_NONE)
		return;
	if (bpf_probe_read_user(&labels, sizeof(labels), (void *)(g + layout->g_labels)))
		found.failed++;
	if (labels && layout->labels_kind == LABELS_SLICE)
		find_in_slice(labels, &found);
	else if (labels && layout->labels_kind == LABELS_MAP)
		find_in_map(labels, &found);
	if (found.key)
		id = found.key == KEY_DATADOG ? parse_decimal(&found.value) : parse_hexadecimal(&found.value);
	if (found.failed)
		count(program, COUNTER_READ_FAILED);
	id = bpf_cpu_to_be64(id);
	__builtin_memcpy(span_id, &id, sizeof(id));
}

#endif
