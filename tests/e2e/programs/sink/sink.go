package main

import (
	"context"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"

	"workload/wire"
)

// counts is what the sink knows since it was last reset.
type counts struct {
	Requests int64   `json:"requests"`
	Spans    int64   `json:"spans"`
	Bytes    int64   `json:"bytes"`
	Wire     int64   `json:"wire_bytes"` // the same messages as they came, compressed or not
	Seconds  float64 `json:"seconds"`    // from the first arrival to the last
	Refused  int64   `json:"refused"`    // requests, on command

	// Looked at in 1 request of -sample only.
	SampledSpans     int64 `json:"sampled_spans"`
	PrefixSpans      int64 `json:"prefix_spans"`      // of those, spans with an attribute that has -prefix
	PrefixAttributes int64 `json:"prefix_attributes"` // such attributes

	// Age on arrival of the first span of each ResourceSpans, since its end.
	LatencyCount int     `json:"latency_count"`
	LatencyP50MS float64 `json:"latency_p50_ms"`
	LatencyP99MS float64 `json:"latency_p99_ms"`
}

type sink struct {
	prefix string
	sample int64

	mu          sync.Mutex // guards the rest, but for wire
	keep        *os.File
	now         counts
	wire        atomic.Int64 // of counts.Wire
	seen        int64        // requests ever, for sampling
	first, last time.Time
	latencies   []time.Duration
	refusals    []error // of the next requests
}

func export(server any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	s := server.(*sink)
	if err := s.refuse(); err != nil {
		return nil, err
	}
	return []byte{}, decode(s) // the codec hands the message to Read
}

func (s *sink) failNext(code, count int, retry time.Duration) {
	refusal := status.New(codes.Code(code), "refused on command")
	if retry >= 0 {
		with, err := refusal.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
		check(err)
		refusal = with
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for range count {
		s.refusals = append(s.refusals, refusal.Err())
	}
}

func (s *sink) refuse() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.refusals) == 0 {
		return nil
	}
	refusal := s.refusals[0]
	s.refusals = s.refusals[1:]
	s.now.Refused++
	return refusal
}

// Read counts and keeps one ExportTraceServiceRequest.
func (s *sink) Read(message []byte) error {
	arrived := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	sampled := s.seen%s.sample == 0
	err := wire.Spans(message, func(span []byte, first bool) {
		s.now.Spans++
		if end := wire.Field(span, wire.SpanEnd); first && len(end) == 8 {
			s.latencies = append(s.latencies, arrived.Sub(time.Unix(0, int64(binary.LittleEndian.Uint64(end)))))
		}
		if sampled {
			s.inspect(span)
		}
	})
	if err != nil {
		return err
	}
	s.now.Requests++
	s.now.Bytes += int64(len(message))
	if s.first.IsZero() {
		s.first = arrived
	}
	s.last = arrived
	if s.keep != nil {
		// In one write, so that whoever reads the file meanwhile sees at most a cut-off end.
		framed := append(binary.LittleEndian.AppendUint32(nil, uint32(len(message))), message...)
		_, err = s.keep.Write(framed)
	}
	return err
}

func (s *sink) inspect(span []byte) {
	found := int64(0)
	_ = wire.Fields(span, func(number protowire.Number, keyValue []byte) {
		if number == wire.SpanAttributes && strings.HasPrefix(string(wire.Field(keyValue, 1)), s.prefix) {
			found++
		}
	})
	s.now.SampledSpans++
	s.now.PrefixAttributes += found
	if found > 0 {
		s.now.PrefixSpans++
	}
}

func (s *sink) report(reset bool) counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.now
	r.Wire = s.wire.Load()
	r.Seconds = s.last.Sub(s.first).Seconds()
	if n := len(s.latencies); n > 0 {
		slices.Sort(s.latencies)
		inMS := func(d time.Duration) float64 { return float64(d) / 1e6 }
		r.LatencyCount, r.LatencyP50MS, r.LatencyP99MS = n, inMS(s.latencies[n/2]), inMS(s.latencies[n*99/100])
	}
	if reset {
		s.wire.Store(0)
		s.now, s.first, s.last, s.latencies = counts{}, time.Time{}, time.Time{}, nil
	}
	return r
}

// arrivals counts what comes in before it is decompressed.
type arrivals struct{ *sink }

func (a arrivals) HandleRPC(_ context.Context, event stats.RPCStats) {
	if message, ok := event.(*stats.InPayload); ok {
		a.wire.Add(int64(message.CompressedLength))
	}
}

func (arrivals) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (arrivals) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (arrivals) HandleConn(context.Context, stats.ConnStats)                       {}
