// Package causes names what a handler of the service can be asked to do, so that the driver asks for nothing
// that the service does not know.
package causes

const (
	// Blocked inside the span.
	Upstream   = "upstream"    // reads a slow TCP upstream, in a child span
	PipeParked = "pipe_parked" // writes into a full pipe through Go's poller
	PipeKernel = "pipe_kernel" // writes into a full pipe in blocking mode: the thread sleeps in the kernel
	Flock      = "flock"       // waits for a lock that another descriptor holds
	SlowBody   = "slow_body"   // writes a large body to a client that does not read yet

	// Blocked after the span: the handler has returned, the flush of the response hangs.
	Flush     = "flush"
	FlushLong = "flush_long" // for longer than a tail is followed
	PipeFlush = "pipe_flush" // as pipe_kernel before, so blocked both inside the span and after it

	// Never blocked in a system call.
	Nothing = "nothing"
	Sleep   = "sleep"
	Busy    = "busy"
)

// GRPC is what a gRPC handler can do, whose response is written by a goroutine of grpc-go.
var GRPC = []string{Upstream, PipeParked, PipeKernel, Flock, Nothing, Sleep, Busy}

// ReadLate is what needs a client that does not read the response before the pause is over.
var ReadLate = []string{SlowBody, Flush, FlushLong, PipeFlush}
