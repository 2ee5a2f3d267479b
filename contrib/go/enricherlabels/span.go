package enricherlabels

import (
	"sync/atomic"
	"unsafe"

	"go.opentelemetry.io/otel/trace"
)

// span is a span of the wrapped provider that takes its label off when it ends.
type span struct {
	trace.Span
	provider *tracerProvider
	before   unsafe.Pointer // the labels of the goroutine when the span was started
	labels   unsafe.Pointer // and those that were then set on it
	around   *span          // the span that had set `before`, if one had
	ended    atomic.Bool
}

// TracerProvider is what instrumentation asks for when it makes a child: that is to be labelled, too.
func (s *span) TracerProvider() trace.TracerProvider { return s.provider }

func (s *span) End(options ...trace.SpanEndOption) {
	s.ended.Store(true)
	s.takeOff()
	// The SDK records a panic that it ends a span in, and recover() works only in what was deferred itself: so what
	// is seen here is raised again, with the SDK's End deferred.
	if raised := recover(); raised != nil {
		defer s.Span.End(options...)
		panic(raised)
	}
	s.Span.End(options...)
}

// takeOff puts back the labels from before the span, unless the goroutine has others by now: then it is not the one
// that started the span, or somebody else is in charge of its labels. A goroutine made inside the span has the span's,
// and gets back what was around it.
func (s *span) takeOff() {
	if goroutineLabels() != s.labels {
		return
	}
	before := s.before
	for around := s.around; around != nil && around.ended.Load(); around = around.around {
		before = around.before
	}
	setGoroutineLabels(before)
}
