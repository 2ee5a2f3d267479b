// Command blocker makes one blocked system call at a time, as it is told on standard input, and says on standard
// output what it did: its goroutine, and when the call began and ended on CLOCK_MONOTONIC.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const blocked = 30 * time.Millisecond

// Done is what an action did. Goid is of the goroutine that was blocked, ParentGoid of the one that made it.
type Done struct {
	Action     string `json:"action"`
	Goid       uint64 `json:"goid"`
	ParentGoid uint64 `json:"parent_goid"`
	StartNs    int64  `json:"start_ns"`
	EndNs      int64  `json:"end_ns"`
	Fd         int    `json:"fd"`
	Peer       string `json:"peer"`
	Error      string `json:"error"`
}

func now() int64 {
	var t syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}

func goid() uint64 {
	line := make([]byte, 64)
	line = line[:runtime.Stack(line, false)]
	id, err := strconv.ParseUint(strings.Fields(string(line))[1], 10, 64)
	check(err)
	return id
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// timed runs the call and notes when it was made.
func timed(done *Done, call func() error) {
	done.Goid = goid()
	done.StartNs = now()
	err := call()
	done.EndNs = now()
	if err != nil {
		done.Error = err.Error()
	}
}

func after(delay time.Duration, what func()) { time.AfterFunc(delay, what) }

// connected is a pair of TCP sockets: ours, and the far end.
func connected() (*net.TCPConn, *net.TCPConn) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	check(err)
	defer listener.Close()
	near, err := net.Dial("tcp4", listener.Addr().String())
	check(err)
	far, err := listener.Accept()
	check(err)
	return near.(*net.TCPConn), far.(*net.TCPConn)
}

func descriptor(conn syscall.Conn) int {
	raw, err := conn.SyscallConn()
	check(err)
	found := -1
	check(raw.Control(func(fd uintptr) { found = int(fd) }))
	return found
}

func socketRead(done *Done) {
	near, far := connected()
	defer near.Close()
	defer far.Close()
	done.Fd, done.Peer = descriptor(near), near.RemoteAddr().String()
	after(blocked, func() { far.Write([]byte("x")) })
	timed(done, func() error { _, err := near.Read(make([]byte, 1)); return err })
}

// socketWrite sends more than the buffers hold to a peer that reads late and in pieces: several calls, one wait.
func socketWrite(done *Done) {
	near, far := connected()
	defer near.Close()
	defer far.Close()
	check(near.SetWriteBuffer(64 << 10))
	check(far.SetReadBuffer(64 << 10))
	done.Fd, done.Peer = descriptor(near), near.RemoteAddr().String()
	go func() {
		time.Sleep(blocked)
		io.Copy(io.Discard, far)
	}()
	timed(done, func() error { _, err := near.Write(make([]byte, 1<<20)); return err })
}

func pipeRead(done *Done) {
	r, w, err := os.Pipe()
	check(err)
	defer r.Close()
	done.Fd = descriptor(r)
	after(blocked, func() { w.Write([]byte("x")); w.Close() })
	timed(done, func() error { _, err := r.Read(make([]byte, 1)); return err })
}

// kernelPipeRead reads a descriptor in blocking mode, past the runtime's poller: the thread sleeps.
func kernelPipeRead(done *Done) {
	var fds [2]int
	check(syscall.Pipe(fds[:]))
	done.Fd = fds[0]
	after(blocked, func() { syscall.Write(fds[1], []byte("x")) })
	timed(done, func() error { _, err := syscall.Read(fds[0], make([]byte, 1)); return err })
	syscall.Close(fds[0])
	syscall.Close(fds[1])
}

func flock(done *Done) {
	path := os.Args[1]
	holder, err := os.Create(path)
	check(err)
	waiter, err := os.Open(path)
	check(err)
	defer waiter.Close()
	check(syscall.Flock(int(holder.Fd()), syscall.LOCK_EX))
	done.Fd = int(waiter.Fd())
	after(blocked, func() { holder.Close() })
	timed(done, func() error { return syscall.Flock(done.Fd, syscall.LOCK_EX) })
}

func sleep(done *Done) { timed(done, func() error { time.Sleep(blocked); return nil }) }

// deadline gives up on a read and closes, as clients do: blocked until then.
func deadline(done *Done) {
	near, far := connected()
	defer far.Close()
	done.Fd, done.Peer = descriptor(near), near.RemoteAddr().String()
	check(near.SetReadDeadline(time.Now().Add(blocked)))
	timed(done, func() error {
		_, err := near.Read(make([]byte, 1))
		near.Close()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return errors.New("no deadline")
	})
}

// abandoned gives up on a read and does something else on another descriptor: nobody can tell how long it waited.
func abandoned(done *Done) {
	near, far := connected()
	other, end := connected()
	defer near.Close()
	defer far.Close()
	defer other.Close()
	defer end.Close()
	done.Fd, done.Peer = descriptor(near), near.RemoteAddr().String()
	check(near.SetReadDeadline(time.Now().Add(2 * time.Millisecond)))
	timed(done, func() error {
		near.Read(make([]byte, 1))
		time.Sleep(blocked)
		_, err := other.Write([]byte("x"))
		return err
	})
}

// lateRetry gives up on a read, sleeps, and reads the same connection again: what it slept is no wait.
func lateRetry(done *Done) {
	near, far := connected()
	defer near.Close()
	defer far.Close()
	done.Fd, done.Peer = descriptor(near), near.RemoteAddr().String()
	check(near.SetReadDeadline(time.Now().Add(2 * time.Millisecond)))
	timed(done, func() error {
		near.Read(make([]byte, 1))
		time.Sleep(blocked)
		check(near.SetReadDeadline(time.Time{}))
		far.Write([]byte("x"))
		_, err := near.Read(make([]byte, 1))
		return err
	})
}

// lateClose gives up on a read, sleeps, and closes.
func lateClose(done *Done) {
	near, far := connected()
	defer far.Close()
	done.Fd, done.Peer = descriptor(near), near.RemoteAddr().String()
	check(near.SetReadDeadline(time.Now().Add(2 * time.Millisecond)))
	timed(done, func() error {
		near.Read(make([]byte, 1))
		time.Sleep(blocked)
		return near.Close()
	})
}

// polling reads again and again with a short deadline and nothing between: blocked all the time.
func polling(done *Done) {
	near, far := connected()
	defer near.Close()
	defer far.Close()
	done.Fd, done.Peer = descriptor(near), near.RemoteAddr().String()
	after(blocked, func() { far.Write([]byte("x")) })
	timed(done, func() error {
		for {
			check(near.SetReadDeadline(time.Now().Add(blocked / 10)))
			if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
		}
	})
}

// signalled waits for a lock in a call that a signal interrupts and the kernel makes again.
func signalled(done *Done) {
	thread := make(chan int, 1)
	after(blocked*2/3, func() { syscall.Tgkill(os.Getpid(), <-thread, syscall.SIGURG) })
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread <- syscall.Gettid()
	flock(done)
}

// smallReads computes between reads whose waits are far shorter than the threshold.
func smallReads(done *Done) {
	near, far := connected()
	defer near.Close()
	done.Fd, done.Peer = descriptor(near), near.RemoteAddr().String()
	go func() {
		defer far.Close()
		for i := 0; i < 400; i++ {
			busy(80 * time.Microsecond)
			far.Write([]byte("x"))
		}
	}()
	timed(done, func() error {
		for {
			if _, err := near.Read(make([]byte, 1)); err != nil {
				return nil
			}
			busy(60 * time.Microsecond)
		}
	})
}

func busy(how time.Duration) {
	for end := time.Now().Add(how); time.Now().Before(end); {
	}
}

// selectSleep sleeps as it was told to, in a call that can also wait for descriptors.
func selectSleep(done *Done) {
	timed(done, func() error {
		wait := syscall.NsecToTimeval(int64(blocked))
		_, err := syscall.Select(0, nil, nil, nil, &wait)
		return err
	})
}

// goingOn waits until it is told to end by a second line.
func goingOn(done *Done, lines *bufio.Scanner, out *json.Encoder) {
	near, far := connected()
	defer near.Close()
	defer far.Close()
	done.Fd, done.Peer = descriptor(near), near.RemoteAddr().String()
	over := make(chan struct{})
	go func() {
		timed(done, func() error { _, err := near.Read(make([]byte, 1)); return err })
		close(over)
	}()
	check(out.Encode(Done{Action: "waiting", Fd: done.Fd}))
	lines.Scan()
	far.Write([]byte("x"))
	<-over
}

var actions = map[string]func(*Done){
	"socket_read": socketRead, "socket_write": socketWrite, "pipe_read": pipeRead,
	"kernel_pipe_read": kernelPipeRead, "flock": flock, "sleep": sleep, "deadline": deadline,
	"abandoned": abandoned, "late_retry": lateRetry, "late_close": lateClose, "polling": polling,
	"signalled": signalled, "small_reads": smallReads, "select_sleep": selectSleep,
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		done := Done{Action: lines.Text(), Fd: -1}
		if done.Action == "going_on" {
			goingOn(&done, lines, out)
			check(out.Encode(done))
			continue
		}
		action, known := actions[done.Action]
		if !known {
			check(fmt.Errorf("no action %q", done.Action))
		}
		// On a goroutine of its own, made by this one.
		over := make(chan struct{})
		done.ParentGoid = goid()
		go func() {
			action(&done)
			close(over)
		}()
		<-over
		check(out.Encode(done))
	}
}
