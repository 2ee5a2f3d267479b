package main

import (
	"bufio"
	"fmt"
	"io"
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

// request is what is asked for, and when.
type request struct {
	method   string
	target   string
	parent   string        // value of the traceparent header, "" for none
	body     int           // bytes
	bodyWait time.Duration // after the head
	readWait time.Duration // nothing of the response is read before that is over; both begin at the same time
}

// do sends one request and reads the response, which must be a good one.
func (c *httpClient) do(r request) error {
	begin := time.Now()
	c.conn.SetDeadline(begin.Add(30 * time.Second))
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: workload\r\n", r.method, r.target)
	if r.parent != "" {
		head += "Traceparent: " + r.parent + "\r\n"
	}
	if r.body > 0 {
		head += fmt.Sprintf("Content-Length: %d\r\n", r.body)
	}
	message, body := append([]byte(head), "\r\n"...), make([]byte, r.body)
	if r.bodyWait == 0 { // in one piece, so that the server need not wait for the rest
		message, body = append(message, body...), nil
	}
	if _, err := c.conn.Write(message); err != nil {
		return err
	}
	if r.bodyWait > 0 {
		time.Sleep(time.Until(begin.Add(r.bodyWait)))
		if _, err := c.conn.Write(body); err != nil {
			return err
		}
	}
	time.Sleep(time.Until(begin.Add(r.readWait)))
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
