// Command cthread has a thread of C make system calls beside Go code that starts and ends spans: as many calls as each
// line of its standard input says. It then says the thread's id.
package main

/*
#cgo LDFLAGS: -pthread
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// C may keep in R14 whatever it likes.
static long call(long number, long first, void *second, long third, unsigned long kept)
{
	register unsigned long r14 asm("r14") = kept;
	long result;

	asm volatile("syscall"
		     : "=a"(result)
		     : "a"(number), "D"(first), "S"(second), "d"(third), "r"(r14)
		     : "rcx", "r11", "memory");
	return result;
}

struct task {
	long calls;
	int thread;
};

static void *make_calls(void *argument)
{
	struct task *task = argument;
	unsigned long kept[] = { 0, 1, 4096, 1UL << 63, ~0UL, (unsigned long)task, (unsigned long)&make_calls };
	struct timespec rest = { .tv_nsec = 1000000 };
	int ends[2];
	char byte = 0;
	long i;

	task->thread = syscall(SYS_gettid);
	if (pipe2(ends, O_NONBLOCK))
		return NULL;
	for (i = 0; i < task->calls; i++) {
		unsigned long g = kept[i % (sizeof(kept) / sizeof(*kept))];

		call(SYS_read, ends[0], &byte, 1, g);
		if (i % 10 == 0)
			call(SYS_nanosleep, (long)&rest, NULL, 0, g);
	}
	close(ends[0]);
	close(ends[1]);
	return NULL;
}

static int run(long calls)
{
	struct task task = { .calls = calls };
	pthread_t thread;

	if (pthread_create(&thread, NULL, make_calls, &task))
		return -1;
	pthread_join(thread, NULL);
	return task.thread;
}
*/
import "C"

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
)

func main() {
	tracer := trace.NewTracerProvider().Tracer("cthread")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		calls, err := strconv.Atoi(lines.Text())
		if err != nil {
			panic(err)
		}
		var over atomic.Bool
		spans := make(chan int)
		go func() {
			count := 0
			for ; !over.Load(); count++ {
				_, span := tracer.Start(context.Background(), "span")
				time.Sleep(time.Millisecond)
				span.End()
			}
			spans <- count
		}()
		thread := C.run(C.long(calls))
		over.Store(true)
		fmt.Printf("{\"thread\": %d, \"spans\": %d}\n", thread, <-spans)
	}
}
