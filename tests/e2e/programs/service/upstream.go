package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The pools do not grow under load: to make a member blocks. A handler that waits for one is in no system call.
const poolSize = 512

// upstreams is a pool of connections to a server that answers after the time it is told.
type upstreams struct {
	free    chan upstream
	address string
}

type upstream struct {
	conn net.Conn
	raw  syscall.RawConn
}

func startUpstreams() (*upstreams, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go answerLate(conn)
		}
	}()
	pool := &upstreams{free: make(chan upstream, poolSize), address: listener.Addr().String()}
	for range poolSize {
		conn, err := pool.dial()
		if err != nil {
			return nil, err
		}
		pool.give(conn)
	}
	return pool, nil
}

// dial makes a connection that is not of the pool.
func (p *upstreams) dial() (upstream, error) {
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		return upstream{}, err
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	return upstream{conn, raw}, err
}

func answerLate(conn net.Conn) {
	var pause [8]byte
	for {
		if _, err := io.ReadFull(conn, pause[:]); err != nil {
			return
		}
		time.Sleep(time.Duration(binary.LittleEndian.Uint64(pause[:])))
		if _, err := conn.Write(pause[:]); err != nil {
			return
		}
	}
}

func (p *upstreams) take() upstream  { return <-p.free }
func (p *upstreams) give(u upstream) { p.free <- u }

func (u upstream) ask(pause time.Duration) error {
	_, err := u.conn.Write(binary.LittleEndian.AppendUint64(nil, uint64(pause)))
	return err
}

// readAnswer reads all of it, and returns the waits, of which there is one if the answer was not there yet.
func (u upstream) readAnswer() (waits []wait, err error) {
	answer := make([]byte, 8)
	for read := 0; read < len(answer) && err == nil; {
		var n int
		n, err = readParked(u.raw, answer[read:], func(p park) { waits = append(waits, p.wait("read")) })
		read += n
	}
	return waits, err
}

// lockFiles is a pool of files, each opened twice so that one descriptor can wait for the other.
type lockFiles struct{ free chan lockFile }

type lockFile struct{ holder, waiter int }

func openLockFiles() (*lockFiles, error) {
	pool := &lockFiles{free: make(chan lockFile, poolSize)}
	for i := range poolSize {
		file, err := openLockFile(fmt.Sprintf("lock-%d", i))
		if err != nil {
			return nil, err
		}
		pool.give(file)
	}
	return pool, nil
}

// openLockFile makes the file in memory: on a disk, the handler could wait for more than the lock.
func openLockFile(name string) (file lockFile, err error) {
	if file.holder, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC); err != nil {
		return file, err
	}
	path := fmt.Sprintf("/proc/self/fd/%d", file.holder)
	file.waiter, err = unix.Open(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	return file, err
}

func (p *lockFiles) take() lockFile     { return <-p.free }
func (p *lockFiles) give(file lockFile) { p.free <- file }
