package main

import (
	"context"
	"os"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"golang.org/x/sys/unix"
)

var tracer = otel.Tracer("workload/labels")

func inSpan(ctx context.Context, s *story, name string, do func(context.Context)) {
	ctx, span := tracer.Start(ctx, name)
	s.begun(ctx, name)
	do(ctx)
	span.End()
}

// parked returns a call that blocks for about that long with its goroutine parked.
func parked(pause time.Duration) func() {
	return func() {
		reader, writer, err := os.Pipe()
		check(err)
		defer reader.Close()
		defer writer.Close()
		time.AfterFunc(pause, func() { writer.Write([]byte{1}) })
		_, err = reader.Read(make([]byte, 1))
		check(err)
	}
}

// asleep returns one that blocks its thread in the kernel.
func asleep(pause time.Duration) func() {
	return func() {
		var ends [2]int
		check(unix.Pipe2(ends[:], unix.O_CLOEXEC))
		written := make(chan struct{})
		time.AfterFunc(pause, func() {
			defer close(written)
			syscall.Write(ends[1], []byte{1})
		})
		_, err := syscall.Read(ends[0], make([]byte, 1))
		check(err)
		<-written
		syscall.Close(ends[0])
		syscall.Close(ends[1])
	}
}

// The workers were made before there were any spans, so they inherit none. They are so many that each rests between two
// jobs, as the one that waits longest is the next.
const workers = 64

var toWorker = make(chan func())

func work() {
	for do := range toWorker {
		do()
	}
}

// asked has the worker do something, and waits for it.
func asked(do func()) {
	done := make(chan struct{})
	toWorker <- func() {
		defer close(done)
		do()
	}
	<-done
}

// waitAllTheTime is nobody's business.
func waitAllTheTime() {
	for {
		parked(7 * time.Millisecond)()
	}
}

var acts = map[string]func(context.Context, *story, time.Duration){
	"sleep":  func(_ context.Context, _ *story, pause time.Duration) { time.Sleep(pause) },
	"parked": func(_ context.Context, s *story, pause time.Duration) { s.blocked(parked(pause), "server") },
	"asleep": func(_ context.Context, s *story, pause time.Duration) { s.blocked(asleep(pause), "server") },
	"nested": func(ctx context.Context, s *story, pause time.Duration) {
		inSpan(ctx, s, "before", func(context.Context) { time.Sleep(pause) })
		inSpan(ctx, s, "outer", func(ctx context.Context) {
			inSpan(ctx, s, "inner", func(context.Context) { s.blocked(parked(pause), "inner", "outer", "server") })
			s.blocked(asleep(pause), "outer", "server")
		})
		inSpan(ctx, s, "after", func(context.Context) { time.Sleep(pause) })
		s.blocked(parked(pause), "server")
	},
	"goroutine": func(ctx context.Context, s *story, pause time.Duration) {
		inSpan(ctx, s, "maker", func(context.Context) {
			var made sync.WaitGroup
			made.Add(1)
			go func() {
				defer made.Done()
				s.blocked(parked(pause), "maker", "server")
			}()
			made.Wait()
		})
	},
	"goroutine with a span": func(ctx context.Context, s *story, pause time.Duration) {
		inSpan(ctx, s, "maker", func(ctx context.Context) {
			var made sync.WaitGroup
			made.Add(1)
			go func() {
				defer made.Done()
				inSpan(ctx, s, "made", func(context.Context) { s.blocked(parked(pause), "made", "maker", "server") })
			}()
			made.Wait()
		})
	},
	"left behind": func(ctx context.Context, s *story, pause time.Duration) {
		inSpan(ctx, s, "maker", func(context.Context) { go parked(3 * pause)() })
		time.Sleep(pause)
	},
	"worker": func(ctx context.Context, s *story, pause time.Duration) {
		inSpan(ctx, s, "asks", func(context.Context) { asked(parked(pause)) })
	},
	"worker with the context": func(ctx context.Context, s *story, pause time.Duration) {
		inSpan(ctx, s, "asks", func(ctx context.Context) {
			asked(func() {
				pprof.Do(ctx, pprof.Labels(), func(context.Context) { s.blocked(parked(pause), "asks", "server") })
				pprof.SetGoroutineLabels(context.Background())
			})
		})
	},
	"handed over": func(ctx context.Context, s *story, pause time.Duration) {
		ctx, span := tracer.Start(ctx, "handed over")
		s.begun(ctx, "handed over")
		asked(func() {
			parked(pause)()
			span.End()
			parked(pause)()
		})
	},
	"own labels": func(ctx context.Context, s *story, pause time.Duration) {
		pprof.Do(ctx, pprof.Labels("a", "1", "tenant", "x", "zone", "2"), func(ctx context.Context) {
			inSpan(ctx, s, "inner", func(context.Context) { s.blocked(parked(pause), "inner", "server") })
			s.blocked(asleep(pause), "server")
		})
	},
}
