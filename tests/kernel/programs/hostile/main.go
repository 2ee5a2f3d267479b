// Command hostile does to those who watch it what a program can do to them: it is told what on standard input, a line
// each, and says on standard output when it has.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
)

// Done is the answer to a command.
type Done struct {
	Count     int    `json:"count"`
	LongestNs int64  `json:"longest_ns"`
	Note      string `json:"note"`
}

var (
	tracer = trace.NewTracerProvider().Tracer("hostile")
	opened []api.Span
	again  *sync.Cond
	parked func()
	calm   atomic.Bool
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// park has so many goroutines told that there is nothing to read yet. To the kernel they are parked on the descriptor.
func park(count int) Done {
	var ends [2]int
	check(syscall.Pipe2(ends[:], syscall.O_NONBLOCK|syscall.O_CLOEXEC))
	var told sync.WaitGroup
	again = sync.NewCond(&sync.Mutex{})
	told.Add(count)
	for i := 0; i < count; i++ {
		go func() {
			for {
				syscall.Read(ends[0], make([]byte, 1))
				again.L.Lock() // before it is told: it must not miss what then comes
				told.Done()
				again.Wait()
				again.L.Unlock()
			}
		}()
	}
	told.Wait()
	parked = func() {
		told.Add(count)
		again.L.Lock()
		again.Broadcast()
		again.L.Unlock()
		told.Wait()
	}
	return Done{Count: count}
}

// wake has all of them try again, so many times.
func wake(count int) Done {
	for i := 0; i < count; i++ {
		parked()
	}
	return Done{Count: count}
}

// open starts spans and does not end them.
func open(count int) Done {
	for i := 0; i < count; i++ {
		_, span := tracer.Start(context.Background(), "open")
		opened = append(opened, span)
	}
	return Done{Count: count}
}

// end ends them.
func end(int) Done {
	for _, span := range opened {
		span.End()
	}
	count := len(opened)
	opened = nil
	return Done{Count: count}
}

// flood starts and ends spans as fast as it can, on so many goroutines; others wait, just long enough to be told.
func flood(count int) Done {
	calm.Store(false)
	for i := 0; i < count; i++ {
		go func() {
			for !calm.Load() {
				_, span := tracer.Start(context.Background(), "flood")
				span.End()
			}
		}()
		for j := 0; j < 100; j++ {
			go waits()
		}
	}
	return Done{Count: count}
}

func waits() {
	read, write, err := os.Pipe()
	check(err)
	go func() {
		for !calm.Load() {
			time.Sleep(1100 * time.Microsecond)
			write.Write([]byte("x"))
		}
		write.Close()
	}()
	for {
		if _, err := read.Read(make([]byte, 1)); err != nil {
			read.Close()
			return
		}
	}
}

func stop(int) Done {
	calm.Store(true)
	return Done{}
}

var commands = map[string]func(int) Done{
	"park": park, "wake": wake, "open": open, "end": end, "flood": flood, "stop": stop,
	"registers": registers, "ends": ends,
}

func main() {
	out := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		name, argument, _ := strings.Cut(lines.Text(), " ")
		count, err := strconv.Atoi(argument)
		check(err)
		check(out.Encode(commands[name](count)))
	}
}
