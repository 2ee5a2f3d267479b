// sink is an OTLP/gRPC receiver at the end of the line: it keeps what arrives, or only counts it.
//
// It prints one line of JSON with its port when it is ready. Each line on standard input is a command and is
// answered by one line of JSON with the counts; the end of standard input ends it:
//
//	peek                          only the counts
//	reset                         the counts, which then begin anew
//	fail CODE COUNT [RETRY_MS]    refuse the next COUNT requests with this gRPC code (its number)
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"

	_ "workload/compression" // senders may compress
	"workload/wire"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "sink:", err)
		os.Exit(1)
	}
}

func main() {
	address := flag.String("listen", "127.0.0.1:0", "where to listen")
	keep := flag.String("keep", "", "append every request here, each after its length in 4 bytes, little-endian")
	prefix := flag.String("prefix", "ebpf.", "count attributes of spans whose key begins so")
	sample := flag.Int64("sample", 50, "look for -prefix in 1 of so many requests")
	flag.Parse()

	s := &sink{prefix: *prefix, sample: *sample}
	if *keep != "" {
		file, err := os.OpenFile(*keep, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		check(err)
		s.keep = file
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}), grpc.MaxRecvMsgSize(wire.MaxMessage),
		grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(4<<20),
		grpc.StatsHandler(arrivals{s}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: wire.TraceService,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Export", Handler: export}},
	}, s)
	listener, err := net.Listen("tcp", *address)
	check(err)
	go func() { check(server.Serve(listener)) }()
	answers := json.NewEncoder(os.Stdout)
	check(answers.Encode(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port}))

	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		reset := false
		switch words[0] {
		case "peek":
		case "reset":
			reset = true
		case "fail":
			var code, count, retry int
			_, err := fmt.Sscan(strings.Join(append(words[1:], "-1"), " "), &code, &count, &retry)
			check(err)
			s.failNext(code, count, time.Duration(retry)*time.Millisecond)
		default:
			check(fmt.Errorf("unknown command %q", lines.Text()))
		}
		check(answers.Encode(s.report(reset)))
	}
}
