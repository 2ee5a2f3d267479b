package main

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startBackground starts goroutines that are blocked in system calls nearly all the time and belong to no
// request: whatever span is going on meanwhile, and on whatever thread, none of this is its own.
func startBackground() error {
	if err := readSlowPipe(); err != nil {
		return err
	}
	if err := writeSlowPipe(); err != nil {
		return err
	}
	return fightForLock()
}

// readSlowPipe parks a reader for 40 ms at a time.
func readSlowPipe() error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	go func() {
		for {
			time.Sleep(40 * time.Millisecond)
			_, err := writer.Write([]byte{1})
			check(err)
		}
	}()
	go func() {
		for buffer := make([]byte, 1); ; {
			_, err := reader.Read(buffer)
			check(err)
		}
	}()
	return nil
}

// writeSlowPipe keeps a thread asleep in write for 70 ms at a time.
func writeSlowPipe() error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	go func() {
		for buffer := make([]byte, 1<<16); ; {
			time.Sleep(70 * time.Millisecond)
			_, err := syscall.Read(fds[0], buffer)
			check(err)
		}
	}()
	go func() {
		for buffer := make([]byte, 1<<16); ; {
			_, err := syscall.Write(fds[1], buffer)
			check(err)
		}
	}()
	return nil
}

// fightForLock has two goroutines each wait while the other sits on the lock.
func fightForLock() error {
	file, err := openLockFile("background-lock")
	if err != nil {
		return err
	}
	for _, fd := range []int{file.holder, file.waiter} {
		go func() {
			for {
				check(unix.Flock(fd, unix.LOCK_EX))
				time.Sleep(30 * time.Millisecond)
				check(unix.Flock(fd, unix.LOCK_UN))
			}
		}()
	}
	return nil
}
