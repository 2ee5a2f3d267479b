package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The pools are larger than any concurrency asked of the service and never grow under load: a handler that
// waited for a member, or made one, would do so unmeasured.
const poolSize = 256

// upstreams is a pool of connections to a server that answers after the time it is told.
type upstreams struct{ free chan upstream }

type upstream struct{ conn net.Conn }

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
	pool := &upstreams{free: make(chan upstream, poolSize)}
	for range poolSize {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return nil, err
		}
		pool.give(upstream{conn})
	}
	return pool, nil
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

func (u upstream) readAnswer() error {
	_, err := io.ReadFull(u.conn, make([]byte, 8))
	return err
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
