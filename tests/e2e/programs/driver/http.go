package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// receiveBuffer is small, so that a client that does not read soon leaves the rest with the server.
const receiveBuffer = 32 << 10

// httpClient is one keep-alive connection, read only when told to: net/http's own client reads ahead.
type httpClient struct {
	conn   net.Conn
	reader *bufio.Reader
}

func dialHTTP(address string) (*httpClient, error) {
	dialer := net.Dialer{
		Timeout: 10 * time.Second,
		// Before the connection is made, as the window that is offered then depends on it.
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			if outer := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			}); outer != nil {
				return outer
			}
			return err
		},
	}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &httpClient{conn, bufio.NewReaderSize(conn, receiveBuffer)}, nil
}

// get asks, and reads nothing of the response before the pause, which begins now, is over.
func (c *httpClient) get(target string, pause time.Duration, random *rand.Rand) error {
	readAt := time.Now().Add(pause)
	header := ""
	if random.IntN(2) == 0 { // half of the server spans have a remote parent
		header = fmt.Sprintf("Traceparent: 00-%016x%016x-%016x-01\r\n", random.Uint64(), random.Uint64(), random.Uint64()|1)
	}
	c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: workload\r\n%s\r\n", target, header); err != nil {
		return err
	}
	time.Sleep(time.Until(readAt))
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}
