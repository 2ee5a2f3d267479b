package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// told is what one span did; not blocked: it must arrive without a claim.
type told struct {
	Name      string `json:"name"`
	TraceID   string `json:"trace_id"`
	SpanID    string `json:"span_id"`
	BlockedNS int64  `json:"blocked_ns"`
}

// story is told of one request.
type story struct {
	mu    sync.Mutex
	spans []*told
}

func (s *story) begun(ctx context.Context, name string) {
	span := trace.SpanContextFromContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spans = append(s.spans, &told{Name: name, TraceID: span.TraceID().String(), SpanID: span.SpanID().String()})
}

// blocked measures a call that blocks, for the spans that waited for it.
func (s *story) blocked(call func(), names ...string) {
	begin := time.Now()
	call()
	length := time.Since(begin)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, span := range s.spans {
		if slices.Contains(names, span.Name) {
			span.BlockedNS += int64(length)
		}
	}
}
