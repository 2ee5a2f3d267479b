package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// recordedConn is a connection whose every read that finds nothing is written down with bounds for its beginning and
// its end: for a connection that many calls share, nobody else can tell what its reader waited for. The connection
// inside comes first, as in other types that wrap one.
type recordedConn struct {
	net.Conn
	raw syscall.RawConn

	mu    sync.Mutex // guards parks
	parks []park     // the last ones
}

const parksKept = 8192

func dialRecorded(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	return &recordedConn{Conn: conn, raw: raw}, err
}

func (c *recordedConn) Read(p []byte) (int, error) {
	return readParked(c.raw, p, func(parked park) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.parks) == parksKept {
			c.parks = append(c.parks[:0], c.parks[parksKept/2:]...)
		}
		c.parks = append(c.parks, parked)
	})
}

// waits are those that ended while the call was under way, from its beginning on.
func (c *recordedConn) waits(call *clientCall, startNS, begunNS int64) []wait {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, through := []wait{}, byConnection
	if call.dialed {
		through = byEither
		found = append(found, wait{ // perhaps
			Syscalls: []string{"connect"}, Kind: "parked", Through: byGoroutine,
			StartNS: call.wantedNS, BegunNS: startNS, ReleasedNS: call.wantedNS, EndNS: startNS,
		})
	}
	for _, parked := range c.parks {
		if parked.endNS <= startNS || parked.releasedNS >= call.endedNS {
			continue
		}
		w := parked.wait("read")
		w.Through, w.BegunNS = through, max(w.BegunNS, begunNS)
		if !call.dialed {
			w.StartNS = max(w.StartNS, startNS)
		}
		if parked.endNS >= call.openNS { // perhaps after the span
			w.ReleasedNS = w.StartNS
		}
		found = append(found, w)
	}
	return found
}

// readParked reads as a *net.TCPConn does, and tells of every time that there was nothing to read.
func readParked(raw syscall.RawConn, p []byte, tell func(park)) (n int, err error) {
	outer := parking(raw.Read, func(fd int) error {
		n, err = syscall.Read(fd, p)
		return err
	}, tell)
	if err = errors.Join(err, outer); err == nil && n == 0 && len(p) > 0 {
		err = io.EOF
	}
	return max(n, 0), err
}
