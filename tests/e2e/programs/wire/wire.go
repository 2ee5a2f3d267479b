// Package wire moves encoded OTLP messages over gRPC as they are, and finds its way in them.
package wire

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	TraceService = "opentelemetry.proto.collector.trace.v1.TraceService"
	ExportMethod = "/" + TraceService + "/Export"
	MaxMessage   = 64 << 20
)

// Field numbers of opentelemetry.proto.trace.v1.Span.
const (
	SpanTraceID    protowire.Number = 1
	SpanSpanID     protowire.Number = 2
	SpanParentID   protowire.Number = 4
	SpanName       protowire.Number = 5
	SpanKind       protowire.Number = 6
	SpanStart      protowire.Number = 7
	SpanEnd        protowire.Number = 8
	SpanAttributes protowire.Number = 9
	SpanStatus     protowire.Number = 15
	SpanFlags      protowire.Number = 16
)

// Reader takes one encoded message, which it must not keep.
type Reader interface{ Read(message []byte) error }

// Codec sends []byte and gives what is received to a Reader.
type Codec struct{}

func (Codec) Name() string { return "proto" }

func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	return v.(Reader).Read(buffer.ReadOnlyData())
}

// Fields calls f with every field of a message. The value of a length-delimited field is its content, a
// sub-slice of the message.
func Fields(message []byte, f func(number protowire.Number, value []byte)) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return protowire.ParseError(n)
		}
		value := message[:n]
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(message)
		}
		f(number, value)
		message = message[n:]
	}
	return nil
}

// Field is the first field of that number, nil if there is none.
func Field(message []byte, wanted protowire.Number) (found []byte) {
	_ = Fields(message, func(number protowire.Number, value []byte) {
		if number == wanted && found == nil {
			found = value
		}
	})
	return found
}

// Spans calls f with every span of an ExportTraceServiceRequest; first: it is the first of its ResourceSpans.
func Spans(request []byte, f func(span []byte, first bool)) (err error) {
	inside := func(message []byte, wanted protowire.Number, g func(value []byte)) {
		bad := Fields(message, func(number protowire.Number, value []byte) {
			if number == wanted {
				g(value)
			}
		})
		if bad != nil {
			err = bad
		}
	}
	inside(request, 1, func(resourceSpans []byte) {
		first := true
		inside(resourceSpans, 2, func(scopeSpans []byte) {
			inside(scopeSpans, 2, func(span []byte) {
				f(span, first)
				first = false
			})
		})
	})
	return err
}
