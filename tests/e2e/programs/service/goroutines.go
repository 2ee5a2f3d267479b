package main

import (
	"context"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// outcome is what a goroutine tells the one that waits for it.
type outcome struct {
	waits []wait
	err   error
}

// waitOnChild has a goroutine of its own blocked, and waits for it through a channel.
func (a *actor) waitOnChild(_ context.Context, r *record, pause time.Duration) error {
	done := make(chan outcome, 1)
	go func() {
		waits, err := a.ask(pause)
		done <- outcome{waits, err}
	}()
	o := <-done
	return r.add(o.waits, o.err)
}

// waitOnGrandchild is two generations away from what is blocked. The one in between does not wait itself.
func (a *actor) waitOnGrandchild(_ context.Context, r *record, pause time.Duration) error {
	var o outcome
	var made sync.WaitGroup
	made.Add(1)
	go func() {
		go func() {
			defer made.Done()
			o.waits, o.err = writeFullPipe(pause, unix.O_CLOEXEC)
		}()
	}()
	made.Wait()
	return r.add(o.waits, o.err)
}

// waitOnGroup has three goroutines blocked, all at once and for different times.
func (a *actor) waitOnGroup(ctx context.Context, r *record, pause time.Duration) error {
	group, _ := errgroup.WithContext(ctx)
	var waits [3][]wait
	for i, wait := range []func() ([]wait, error){
		func() ([]wait, error) { return a.ask(pause / 2) },
		func() ([]wait, error) { return a.ask(pause) },
		func() ([]wait, error) { return writeFullPipe(pause*3/4, unix.O_NONBLOCK|unix.O_CLOEXEC) },
	} {
		group.Go(func() (err error) {
			waits[i], err = wait()
			return err
		})
	}
	err := group.Wait()
	return r.add(slices.Concat(waits[:]...), err)
}

// leaveBehind makes a goroutine that is blocked first while the handler is there, and then from before its end to
// after it: a cache that fills itself, a connection that was opened on the way. Nobody waits for it.
func (a *actor) leaveBehind(_ context.Context, _ *record, pause time.Duration) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	time.AfterFunc(pause/2, func() {
		_, err := writer.Write([]byte{1})
		check(err)
	})
	outlived := make(chan struct{})
	go func() {
		defer reader.Close()
		buffer := make([]byte, 1)
		_, err := reader.Read(buffer)
		check(err)
		close(outlived)
		_, err = reader.Read(buffer)
		if err != io.EOF {
			check(err)
		}
	}()
	<-outlived
	// Enough that the second read has begun.
	time.Sleep(pause)
	time.AfterFunc(pause, func() { check(writer.Close()) })
	return nil
}

// workers are goroutines made before any request, which do what comes through a channel.
type workers chan func()

const workerCount = 64

func startWorkers() workers {
	w := make(workers)
	for range workerCount {
		go func() {
			for job := range w {
				job()
			}
		}()
	}
	return w
}

// do has a worker do it, and waits until it has.
func (w workers) do(job func()) {
	done := make(chan struct{})
	w <- func() {
		job()
		close(done)
	}
	<-done
}

// employ has a worker blocked that knows of no span. The handler waits for it, but nothing shows that from outside.
func (a *actor) employ(_ context.Context, _ *record, pause time.Duration) (err error) {
	a.workers.do(func() { _, err = a.ask(pause) })
	return err
}

// employInSpan has a worker blocked inside a span of its own, inside the handler's.
func (a *actor) employInSpan(ctx context.Context, r *record, pause time.Duration) (err error) {
	a.workers.do(func() {
		err = a.waitInSpan(ctx, r, "job", func() ([]wait, error) { return a.ask(pause) })
	})
	return err
}
