package main

import (
	"syscall"

	"workload/clock"
)

// park is one call that found nothing to do: it ran from startNS to begunNS, and the one after it, that did, from
// releasedNS to endNS. So it is known when the kernel said so, wherever the goroutine had to wait for a core.
type park struct{ startNS, begunNS, releasedNS, endNS int64 }

func (p park) wait(syscall string) wait {
	return wait{
		Syscalls: []string{syscall}, Kind: "parked", Through: byGoroutine,
		StartNS: p.startNS, BegunNS: p.begunNS, ReleasedNS: p.releasedNS, EndNS: p.endNS,
	}
}

// parking makes a call on a descriptor of Go's poller as the standard library does, `each` being Read or Write of its
// syscall.RawConn, and tells of each time that it parked.
func parking(each func(func(uintptr) bool) error, call func(fd int) error, tell func(park)) error {
	var parked park
	var err error
	outer := each(func(fd uintptr) bool {
		for {
			before := clock.NowNS()
			err = call(int(fd))
			after := clock.NowNS()
			if err == syscall.EINTR {
				continue
			}
			if parked.begunNS != 0 {
				parked.releasedNS, parked.endNS = before, after
				tell(parked)
			}
			parked = park{startNS: before, begunNS: after}
			return err != syscall.EAGAIN
		}
	})
	if err == nil {
		err = outer
	}
	return err
}
