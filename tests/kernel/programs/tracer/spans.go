package main

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
)

func init() {
	actions["nested"] = nested
	actions["kinds"] = kinds
	actions["handed_over"] = handedOver
	actions["ended_by_child"] = endedByChild
	actions["ended_by_grandchild"] = endedByGrandchild
	actions["ended_by_earlier_child"] = endedByEarlierChild
	actions["ended_twice"] = endedTwice
	actions["never_ended"] = neverEnded
	actions["many"] = many
}

func nested(d *Done) {
	ctx, outer := d.start(context.Background(), "outer")
	ctx, inner := d.start(ctx, "inner")
	_, innermost := d.start(ctx, "innermost")
	time.Sleep(time.Millisecond)
	innermost.end()
	inner.end()
	outer.end()
}

func kinds(d *Done) {
	for _, kind := range []trace.SpanKind{trace.SpanKindServer, trace.SpanKindClient, trace.SpanKindInternal} {
		_, span := d.start(context.Background(), kind.String(), trace.WithSpanKind(kind))
		span.end()
	}
}

// handedOver ends a span on a goroutine that was there before it.
func handedOver(d *Done) {
	spans := make(chan *Span)
	over := goes(func() *Wait { (<-spans).end(); return nil })
	_, span := d.start(context.Background(), "span")
	spans <- span
	over()
}

func endedByChild(d *Done) {
	_, span := d.start(context.Background(), "span")
	goes(func() *Wait { span.end(); return nil })()
}

func endedByGrandchild(d *Done) {
	_, span := d.start(context.Background(), "span")
	goes(func() *Wait {
		goes(func() *Wait { span.end(); return nil })()
		return nil
	})()
}

// endedByEarlierChild ends a span on a goroutine that its goroutine made before, inside another span.
func endedByEarlierChild(d *Done) {
	ctx, outer := d.start(context.Background(), "outer")
	spans := make(chan *Span)
	over := goes(func() *Wait { (<-spans).end(); return nil })
	_, inner := d.start(ctx, "inner")
	spans <- inner
	over()
	outer.end()
}

func endedTwice(d *Done) {
	_, span := d.start(context.Background(), "span")
	span.end()
	span.span.End()
}

// neverEnded leaves a span open on a goroutine that then makes others, outside of any span that is ever told.
func neverEnded(d *Done) {
	d.start(context.Background(), "never ended")
	goes(func() *Wait { return d.wait("child") })()
}

func many(d *Done) {
	over := make([]func(), 200)
	for i := range over {
		over[i] = goes(func() *Wait {
			ctx, outer := d.start(context.Background(), "outer")
			_, inner := d.start(ctx, "inner")
			inner.end()
			outer.end()
			return nil
		})
	}
	for _, wait := range over {
		wait()
	}
}
