package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"workload/wire"
)

const spanLength = 5 * time.Millisecond

// request is one encoded ExportTraceServiceRequest, made fresh without being encoded again.
type request struct {
	bytes []byte
	spans []spanBytes
	ended time.Time

	random  *rand.Rand
	records []byte // of the last call of evidence
	told    int    // spans that evidence has told of, ever
}

// spanBytes are places in a request.
type spanBytes struct{ traceID, spanID, parentID, start, end []byte }

func newRequest(spans int, seed uint64) *request {
	r := &request{random: rand.New(rand.NewPCG(seed, uint64(time.Now().UnixNano())))}
	r.bytes = encodeRequest(spans, r.random)
	check(wire.Spans(r.bytes, func(span []byte, _ bool) {
		r.spans = append(r.spans, spanBytes{
			wire.Field(span, wire.SpanTraceID), wire.Field(span, wire.SpanSpanID), wire.Field(span, wire.SpanParentID),
			wire.Field(span, wire.SpanStart), wire.Field(span, wire.SpanEnd),
		})
	}))
	return r
}

// stamp gives every span new ids, and the time at which it is sent as its end.
func (r *request) stamp(now time.Time) {
	r.ended = now
	end := uint64(now.UnixNano())
	for _, span := range r.spans {
		binary.LittleEndian.PutUint64(span.traceID, r.random.Uint64())
		binary.LittleEndian.PutUint64(span.spanID, r.random.Uint64())
		binary.LittleEndian.PutUint64(span.start, end-uint64(spanLength))
		binary.LittleEndian.PutUint64(span.end, end)
	}
}

// encodeRequest makes what the Go SDK with otelhttp sends: one resource, one scope, server spans of about 560 B.
func encodeRequest(spans int, random *rand.Rand) []byte {
	resource := attributes(nil, 1,
		"service.name", "order-service", "service.version", "1.14.2", "service.instance.id", "order-7d9f8b6c5-x2lqp",
		"deployment.environment.name", "production", "host.name", "node-1", "process.pid", 4242,
		"telemetry.sdk.language", "go", "telemetry.sdk.name", "opentelemetry", "telemetry.sdk.version", "1.47.0")
	scope := text(nil, 1, "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp")
	scope = text(scope, 2, "0.72.0")
	scopeSpans := content(nil, 1, scope)
	for range spans {
		scopeSpans = content(scopeSpans, 2, encodeSpan(random))
	}
	resourceSpans := content(nil, 1, resource)
	resourceSpans = content(resourceSpans, 2, scopeSpans)
	return content(nil, 1, resourceSpans)
}

func encodeSpan(random *rand.Rand) []byte {
	id := func(length int) []byte {
		b := make([]byte, length)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	const server = 2
	address := func() string { return fmt.Sprintf("10.0.%d.%d", random.IntN(256), random.IntN(256)) }
	b := content(nil, wire.SpanTraceID, id(16))
	b = content(b, wire.SpanSpanID, id(8))
	b = content(b, wire.SpanParentID, id(8))
	b = text(b, wire.SpanName, "GET /api/v1/orders/{id}")
	b = number(b, wire.SpanKind, server)
	b = fixed64(b, wire.SpanStart)
	b = fixed64(b, wire.SpanEnd)
	b = attributes(b, wire.SpanAttributes,
		"http.request.method", "GET", "url.scheme", "http",
		"url.path", fmt.Sprintf("/api/v1/orders/%d", 100000+random.IntN(900000)),
		"http.route", "/api/v1/orders/{id}", "server.address", "order.shop.svc.cluster.local", "server.port", 8080,
		"network.peer.address", address(), "network.peer.port", 32768+random.IntN(28000),
		"network.protocol.version", "1.1", "client.address", address(),
		"user_agent.original", "Go-http-client/1.1", "http.response.status_code", 200,
		"http.response.body.size", random.IntN(4096))
	b = content(b, wire.SpanStatus, nil)
	return protowire.AppendFixed32(protowire.AppendTag(b, wire.SpanFlags, protowire.Fixed32Type), 0x101)
}

// attributes appends KeyValues, given as key, value, key, value, as the repeated field.
func attributes(b []byte, field protowire.Number, keyValues ...any) []byte {
	for i := 0; i < len(keyValues); i += 2 {
		var value []byte
		switch v := keyValues[i+1].(type) {
		case string:
			value = text(nil, 1, v)
		case int:
			value = number(nil, 3, uint64(v))
		}
		b = content(b, field, content(text(nil, 1, keyValues[i].(string)), 2, value))
	}
	return b
}

func content(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func text(b []byte, field protowire.Number, v string) []byte { return content(b, field, []byte(v)) }

func number(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func fixed64(b []byte, field protowire.Number) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), 0)
}
