package main

import (
	"context"
	"fmt"
	"runtime/pprof"
	"syscall"
	"unsafe"
)

//go:linkname setProfLabel runtime/pprof.runtime_setProfLabel
func setProfLabel(labels unsafe.Pointer)

func init() {
	labelled := func(name string, labels ...string) {
		actions["label "+name] = func(d *Done) {
			pprof.Do(context.Background(), pprof.Labels(labels...), func(context.Context) {
				d.wait("own")
				d.waitInKernel("own, in the kernel")
				goes(func() *Wait { return d.wait("inherited") })()
			})
			d.wait("none")
		}
	}
	labelled("own", "enricher.span_id", "00f067aa0ba902b7")
	labelled("pyroscope", "span_id", "00f067aa0ba902b7", "span_name", "GET /")
	labelled("datadog", "span id", "67667974448284343", "local root span id", "17")
	labelled("datadog largest", "span id", "18446744073709551615")
	labelled("all of them", "span id", "17", "enricher.span_id", "00f067aa0ba902b7", "span_id", "ffffffffffffffff")
	labelled("others", "endpoint", "/cart", "span_ie", "00f067aa0ba902b7", "enricher.span_ie", "00f067aa0ba902b7")
	labelled("too long", "span_id", "00f067aa0ba902b700")
	labelled("too large", "span id", "18446744073709551616")
	labelled("no number", "span id", "17x", "span_id", "0xf067aa0ba902b7")
	labelled("empty", "span id", "", "span_id", "", "enricher.span_id", "")
	var many []string
	for i := 0; i < 13; i++ {
		many = append(many, fmt.Sprintf("label %d", i), "value")
	}
	labelled("many", append(many, "enricher.span_id", "00f067aa0ba902b7")...)
	actions["label garbage"] = garbage
}

// garbage has the runtime's pointer to the labels lead to memory that is none, or no labels.
func garbage(d *Done) {
	page := syscall.Getpagesize()
	memory, err := syscall.Mmap(-1, 0, 2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	check(err)
	check(syscall.Mprotect(memory[page:], syscall.PROT_NONE))
	words := unsafe.Slice((*uint64)(unsafe.Pointer(&memory[0])), page/8)
	start := uint64(uintptr(unsafe.Pointer(&memory[0])))
	for _, content := range [][]uint64{
		{0, 0, 0},
		{1, 1 << 62, 1 << 62},
		{^uint64(0), ^uint64(0), ^uint64(0)},
		{start, 1 << 40, 1 << 40},
		// One entry whose key and value point nowhere, then one that lies in memory that may not be read.
		{start + 24, 2, 2, 1, 7, 1, 16},
		{start + uint64(page), 16, 16},
		// For a map: a header with 2^255 buckets, and one whose buckets are the header.
		{start + 8, 3, 255 << 8, start, start},
		{start + 8, 0x0505050505050505, 0x0505050505050505, 7, start, 7, start, 7},
	} {
		for i := range words {
			words[i] = 0
		}
		copy(words, content)
		wild(d, unsafe.Pointer(&memory[0]))
	}
	wild(d, unsafe.Pointer(&memory[page-8]))
	wild(d, unsafe.Pointer(&memory[page]))
	d.wait("after")
}

func wild(d *Done, labels unsafe.Pointer) {
	setProfLabel(labels)
	defer setProfLabel(nil)
	d.wait("wild")
}
