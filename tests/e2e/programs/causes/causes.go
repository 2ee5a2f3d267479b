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
	PostSlow   = "post_slow"   // reads a body that the client sends late
	Early      = "early"       // as upstream, but for a short time at the beginning only

	// Blocked after the span: the handler has returned, the flush of the response hangs.
	Flush     = "flush"
	FlushLong = "flush_long" // for longer than a tail is followed
	PipeFlush = "pipe_flush" // as pipe_kernel before, so blocked both inside the span and after it

	// Blocked on goroutines that the handler makes and waits for.
	Child      = "child"
	Grandchild = "grandchild" // made by a goroutine that the handler made
	Group      = "group"      // three at once, so that their waits overlap

	// Blocked in spans inside the span.
	Nested   = "nested"    // three spans on one goroutine, two of them waiting themselves
	FanOut   = "fan_out"   // three at once, each with a goroutine and a span of its own, one of them not blocked
	EndTwice = "end_twice" // what is waited for after the first End is not that span's

	// Blocked on behalf of the span: a connection's own goroutine waits for the answer.
	ClientHTTP  = "client_http"
	ClientHTTPS = "client_https"
	ClientHTTP2 = "client_http2" // TLS; every call on one connection
	ClientGRPC  = "client_grpc"  // the same
	ClientDial  = "client_dial"  // a connection for this call alone: its goroutines are made inside the span
	ClientIdle  = "client_idle"  // a quick call, and then a sleep: the connection's reader waits, but not for it
	Database    = "database"     // database/sql: the caller's own goroutine reads

	// Blocked on other goroutines than the handler's.
	PoolSpan     = "pool_span"      // a worker made before, which opens a span of its own
	EndedByChild = "ended_by_child" // the span is ended by a goroutine made inside of it, which was blocked

	// Blocked, and no span says anything of it.
	Pool       = "pool"        // a worker made before, without a span of its own: belongs to nobody
	LeftBehind = "left_behind" // a goroutine made by the handler and blocked when its span ends: nobody waits for it
	GivenTimes = "given_times" // a span with start and end given by hand, in the past
	HandedOver = "handed_over" // a span passed on to a worker made before, which ends it
	NeverEnded = "never_ended" // inside a span that never ends

	// Never blocked in a system call.
	Nothing  = "nothing"
	Sleep    = "sleep"
	Busy     = "busy"
	PostBody = "post_body" // reads a body that is there: net/http then reads ahead, from inside the handler

	// Not for the handler: the driver waits before it asks for the next thing on the same connection.
	Gap = "gap"
)

// GRPC is what a gRPC handler can do, whose response is written by a goroutine of grpc-go.
var GRPC = []string{Upstream, PipeParked, PipeKernel, Flock, Nothing, Sleep, Busy}

// Inner is what a handler of either kind can do inside of its span with other goroutines, spans and connections.
var Inner = []string{
	Child, Grandchild, Group, Nested, FanOut, EndTwice, ClientHTTP, ClientHTTPS, ClientHTTP2, ClientGRPC, ClientDial,
	ClientIdle, Database, PoolSpan, EndedByChild, Pool, LeftBehind, GivenTimes, HandedOver, NeverEnded,
}

// ReadLate is what needs a client that does not read the response before the pause is over.
var ReadLate = []string{SlowBody, Flush, FlushLong, PipeFlush}
