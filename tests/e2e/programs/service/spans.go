package main

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// nest has a span inside a span inside the handler's, all on one goroutine; the inner two wait themselves.
func (a *actor) nest(ctx context.Context, r *record, pause time.Duration) error {
	ctx, span := tracer.Start(ctx, "outer")
	outer := r.inner(span.SpanContext(), "outer")
	err := errors.Join(
		outer.add(writeFullPipe(pause/2, unix.O_NONBLOCK|unix.O_CLOEXEC)),
		a.waitInSpan(ctx, outer, "inner", func() ([]wait, error) { return a.ask(pause) }),
	)
	span.End()
	r.enclose(outer)
	a.truth.add(outer)
	return err
}

// fanOut has three goroutines at once, each in a span of its own; the last of them is in no system call.
func (a *actor) fanOut(ctx context.Context, r *record, pause time.Duration) error {
	group, ctx := errgroup.WithContext(ctx)
	var parts [3]*record
	for i := range parts {
		group.Go(func() (err error) {
			_, span := tracer.Start(ctx, "part")
			part := r.inner(span.SpanContext(), "part")
			switch i {
			case 0:
				err = part.add(a.ask(pause))
			case 1:
				err = part.add(writeFullPipe(pause*3/4, unix.O_NONBLOCK|unix.O_CLOEXEC))
			default:
				part.Name = "idle part"
				time.Sleep(pause)
			}
			span.End()
			parts[i] = part
			a.truth.add(part)
			return err
		})
	}
	err := group.Wait()
	for _, part := range parts {
		r.enclose(part)
	}
	return err
}

// endTwice waits between the first and the second end of a span. The first one counts.
func (a *actor) endTwice(ctx context.Context, r *record, pause time.Duration) error {
	_, span := tracer.Start(ctx, "twice")
	inner := r.inner(span.SpanContext(), "twice")
	err := inner.add(a.ask(pause))
	span.End()
	r.enclose(inner)
	err = errors.Join(err, r.add(a.ask(pause/2)))
	span.End()
	a.truth.add(inner)
	return err
}

// endByChild has the goroutine that was made for the work end the span, as `defer span.End()` in it does.
func (a *actor) endByChild(ctx context.Context, r *record, pause time.Duration) error {
	_, span := tracer.Start(ctx, "by child")
	inner := r.inner(span.SpanContext(), "by child")
	done := make(chan error, 1)
	go func() {
		err := inner.add(a.ask(pause))
		span.End()
		done <- err
	}()
	err := <-done
	r.enclose(inner)
	a.truth.add(inner)
	return err
}

// handOver passes a span on through a channel: both goroutines wait while it is open, and nobody else can tell
// which of them had it when. What the handler waited for is its own span's in any case.
func (a *actor) handOver(ctx context.Context, r *record, pause time.Duration) error {
	_, span := tracer.Start(ctx, "handed over")
	inner := r.inner(span.SpanContext(), "handed over")
	inner.HandedOver, r.HandedOver = true, true
	err := r.add(a.ask(pause / 2))
	a.workers.do(func() {
		_, asked := a.ask(pause / 2)
		err = errors.Join(err, asked)
		span.End()
	})
	a.truth.add(inner)
	return err
}

// neverEnd waits inside a span that is forgotten and so never arrives.
func (a *actor) neverEnd(ctx context.Context, r *record, pause time.Duration) error {
	_, _ = tracer.Start(ctx, "never ended")
	return r.add(a.ask(pause))
}

// giveTimes makes a span of something long past, as importers do. That it is made now says nothing of then.
func (a *actor) giveTimes(ctx context.Context, r *record, pause time.Duration) error {
	past := time.Now().Add(-time.Hour)
	_, span := tracer.Start(ctx, "given times", trace.WithTimestamp(past))
	inner := r.inner(span.SpanContext(), "given times")
	waits, err := a.ask(pause)
	span.End(trace.WithTimestamp(past.Add(pause)))
	for i := range waits {
		waits[i].InChild = true
	}
	a.truth.add(inner)
	return r.add(waits, err)
}
