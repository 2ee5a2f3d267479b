// Package enricherlabels tells the enricher's probes which span a goroutine is in, on hosts that forbid uprobes.
//
// While a span runs, the goroutine that started it carries the span's id as a pprof label, and so does every goroutine
// made meanwhile. The probes read the label from the goroutine at the end of a blocked system call.
//
//	provider := sdktrace.NewTracerProvider(...)
//	otel.SetTracerProvider(enricherlabels.NewTracerProvider(provider))
package enricherlabels

import (
	"context"
	"runtime/pprof"

	"go.opentelemetry.io/otel/trace"
)

// SpanIDKey is the key of the label. Its value is the id of the innermost sampled span that was started on the
// goroutine, or on the one that made it, and has not ended: 16 lower-case hexadecimal digits.
const SpanIDKey = "enricher.span_id"

type tracerProvider struct{ trace.TracerProvider }

// NewTracerProvider returns a provider whose tracers start the spans of `provider` and label goroutines with them.
//
// Only spans that are sampled are labelled: no other reaches a backend, and inside one that does not the label goes on
// to name the span around it. All other labels stay as they are, on the goroutine and in the context.
//
// `provider` is to be flushed and shut down by whoever made it.
func NewTracerProvider(provider trace.TracerProvider) trace.TracerProvider {
	if !understood() {
		return provider
	}
	return &tracerProvider{provider}
}

func (p *tracerProvider) Tracer(name string, options ...trace.TracerOption) trace.Tracer {
	return &tracer{Tracer: p.TracerProvider.Tracer(name, options...), provider: p}
}

type tracer struct {
	trace.Tracer
	provider *tracerProvider
}

func (t *tracer) Start(
	ctx context.Context, name string, options ...trace.SpanStartOption,
) (context.Context, trace.Span) {
	around, _ := trace.SpanFromContext(ctx).(*span)
	if around != nil {
		// The SDK, its samplers and its processors find in the context what they have put there.
		ctx = trace.ContextWithSpan(ctx, around.Span)
	}
	ctx, started := t.Tracer.Start(ctx, name, options...)
	if !started.IsRecording() || !started.SpanContext().IsSampled() {
		return ctx, started
	}
	s := &span{Span: started, provider: t.provider, before: goroutineLabels()}
	if around != nil && around.labels == s.before {
		s.around = around
	}
	ctx = s.label(ctx)
	return trace.ContextWithSpan(ctx, s), s
}

// label adds the span's id to the labels of the goroutine and to those of the context, which are mostly the same:
// pprof.Do and whoever else makes labels from the context then keeps it.
func (s *span) label(ctx context.Context) context.Context {
	id := pprof.Labels(SpanIDKey, s.SpanContext().SpanID().String())
	same := contextLabels(ctx) == s.before
	ctx = pprof.WithLabels(ctx, id)
	if same {
		pprof.SetGoroutineLabels(ctx)
	} else {
		pprof.SetGoroutineLabels(pprof.WithLabels(holding(s.before), id))
	}
	s.labels = goroutineLabels()
	return ctx
}
