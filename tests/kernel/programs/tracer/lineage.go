package main

import (
	"context"
	"time"
)

func init() {
	actions["lineage"] = lineage
	actions["reuse"] = reuse
	actions["timer"] = timer
}

// lineage makes goroutines before, inside, between and after spans, and has each of them wait.
func lineage(d *Done) {
	signal := make(chan struct{})
	before := goes(func() *Wait { <-signal; return d.wait("before") })
	ctx, first := d.start(context.Background(), "first")
	close(signal)
	before()
	child := goes(func() *Wait { return d.wait("child") })
	goes(func() *Wait {
		goes(func() *Wait {
			goes(func() *Wait { return d.waitInKernel("great-grandchild") })()
			return d.wait("grandchild")
		})()
		return nil
	})()
	goes(func() *Wait { return d.waitInKernel("child in the kernel") })()
	// A child with a span of its own: its children are that one's.
	goes(func() *Wait {
		_, own := d.start(ctx, "own")
		goes(func() *Wait { return d.wait("child of a child's span") })()
		own.end()
		goes(func() *Wait { return d.wait("grandchild after it") })()
		return nil
	})()
	child()
	first.end()
	goes(func() *Wait { return d.wait("between") })()
	_, second := d.start(context.Background(), "second")
	goes(func() *Wait { return d.wait("child of the second") })()
	second.end()
	d.wait("after")
}

// reuse ends goroutines inside and outside of spans in turn, so that the runtime uses their g again.
func reuse(d *Done) {
	for i := 0; i < 50; i++ {
		_, span := d.start(context.Background(), "span")
		goes(func() *Wait { return d.wait("inside") })()
		span.end()
		goes(func() *Wait { return d.wait("outside") })()
	}
}

// timer has the runtime make a goroutine, inside a span but for nobody.
func timer(d *Done) {
	_, span := d.start(context.Background(), "span")
	over := make(chan struct{})
	time.AfterFunc(time.Millisecond, func() {
		d.wait("timer")
		close(over)
	})
	<-over
	span.end()
}
