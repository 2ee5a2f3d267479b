package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

	"workload/causes"
)

const (
	largeSendBuffer = 1 << 20  // takes a whole flushBody
	slowSendBuffer  = 64 << 10 // takes a small part of slowBody
	slowBody        = 512 << 10
	flushBody       = 192 << 10 // more than the driver's receive buffer holds, so that most of it stays here
	flushRest       = 1500      // less than net/http buffers: written only after the handler has returned

	// net/http writes the head of a response, and what of the body fits beside it, by itself.
	headBuffer = 4 << 10
)

// servedConn measures those writes of the goroutine that serves the connection that are meant to block: the
// others take no longer than the scheduler makes them. All fields but the embedded connection are that
// goroutine's own: net/http reads ahead on another one, but writes on this.
type servedConn struct {
	*net.TCPConn
	record     *record // of the request being served, nil between two
	ended      bool    // its span has ended
	releasedNS int64   // when the client begins to read, as it said
}

func (c *servedConn) Write(p []byte) (n int, err error) {
	switch {
	case c.leavesFlush() && !c.ended:
		return c.writeRecord(p)
	case c.leavesFlush(), c.writesSlowBody() && len(p) > headBuffer:
		waits, err := measured("parked", "write", c.releasedNS, func() (err error) {
			n, err = c.TCPConn.Write(p)
			return err
		})
		waits[0].AfterEnd = c.ended
		c.record.Waits = append(c.record.Waits, waits...)
		return n, err
	default:
		return c.TCPConn.Write(p)
	}
}

func (c *servedConn) leavesFlush() bool {
	return c.record != nil && slices.Contains([]string{causes.Flush, causes.FlushLong, causes.PipeFlush}, c.record.Cause)
}

func (c *servedConn) writesSlowBody() bool {
	return c.record != nil && c.record.Cause == causes.SlowBody
}

// writeRecord writes p with MSG_EOR. The kernel looks for free memory only where it begins a new buffer; what
// is merged into the last one goes through however full the socket is.
func (c *servedConn) writeRecord(p []byte) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	full := false
	waits, outer := measured("parked", "sendmsg", c.releasedNS, func() error {
		return raw.Write(func(fd uintptr) bool {
			for n < len(p) && err == nil {
				var sent int
				sent, err = unix.SendmsgN(int(fd), p[n:], nil, nil, unix.MSG_EOR|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
				if err == unix.EAGAIN {
					full, err = true, nil
					return false
				}
				n += max(sent, 0)
			}
			return true
		})
	})
	if full { // not meant, but so it was
		c.record.Waits = append(c.record.Waits, waits...)
	}
	return n, errors.Join(err, outer)
}

type measuredListener struct{ net.Listener }

func (l measuredListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &servedConn{TCPConn: conn.(*net.TCPConn)}, nil
}

type connKey struct{}

func serveHTTP(listener net.Listener, a *actor) *http.Server {
	traced := otelhttp.NewHandler(http.HandlerFunc(a.serve), "request")
	server := &http.Server{
		// A handler of otelhttp's: when it returns, the span has ended.
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			traced.ServeHTTP(w, r)
			r.Context().Value(connKey{}).(*servedConn).ended = true
		}),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
		// Idle and closed are told by the serving goroutine once the response is out.
		ConnState: func(conn net.Conn, state http.ConnState) {
			if state == http.StateIdle || state == http.StateClosed {
				a.responded(conn.(*servedConn))
			}
		},
	}
	go server.Serve(measuredListener{listener})
	return server
}

func (a *actor) responded(conn *servedConn) {
	if conn.record == nil {
		return
	}
	a.truth.add(conn.record)
	if conn.leavesFlush() || conn.writesSlowBody() {
		conn.SetWriteBuffer(largeSendBuffer)
	}
	conn.record, conn.ended = nil, false
}

func (a *actor) serve(w http.ResponseWriter, r *http.Request) {
	conn := r.Context().Value(connKey{}).(*servedConn)
	query := r.URL.Query()
	milliseconds, _ := strconv.Atoi(query.Get("ms"))
	conn.record = newRecord(
		trace.SpanContextFromContext(r.Context()), "server", "http", query.Get("cause"), query.Get("step"))
	conn.releasedNS, _ = strconv.ParseInt(query.Get("read_ns"), 10, 64)
	if conn.writesSlowBody() {
		check(conn.SetWriteBuffer(slowSendBuffer))
		w.Header().Set("Content-Length", strconv.Itoa(slowBody))
		w.Write(make([]byte, slowBody))
		return
	}
	if err := conn.readBody(r); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if err := a.act(r.Context(), conn.record, time.Duration(milliseconds)*time.Millisecond); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if conn.leavesFlush() {
		leaveFlushBlocked(w, conn)
		return
	}
	w.Write([]byte("done\n"))
}

// readBody waits for the body, if there is one that is to come late. One that is there is no wait, and makes net/http
// begin, inside the handler, to read ahead on a goroutine of its own.
func (c *servedConn) readBody(r *http.Request) error {
	waits, err := measured("parked", "read", c.releasedNS, func() error {
		_, err := io.Copy(io.Discard, r.Body)
		return err
	})
	if c.record.Cause == causes.PostSlow && err == nil {
		c.record.Waits = append(c.record.Waits, waits...)
	}
	return err
}

// leaveFlushBlocked returns at once, and leaves behind a rest in net/http's buffer and a socket without room
// for it. The client does not read yet, so what the socket took stays there, and shrinking its send buffer
// below that makes the flush of the rest wait until the client has taken nearly all.
func leaveFlushBlocked(w http.ResponseWriter, conn *servedConn) {
	check(conn.SetWriteBuffer(largeSendBuffer))
	w.Header().Set("Content-Length", strconv.Itoa(flushBody+flushRest))
	w.Write(make([]byte, flushBody))
	w.(http.Flusher).Flush()
	check(conn.SetWriteBuffer(1)) // the kernel raises it to its least
	w.Write(make([]byte, flushRest))
}
