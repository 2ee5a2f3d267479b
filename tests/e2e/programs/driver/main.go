// driver asks the service for a seeded mix of causes over HTTP/1.1 keep-alive connections and gRPC, and reads
// some of the responses late. It prints one line of JSON with what it got answered.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"workload/causes"
	"workload/clock"
)

// httpSequences are requests sent on one connection, each as soon as the last is answered: what belongs to
// one of them must not be found on its neighbour.
var httpSequences = [][]string{
	{causes.Upstream},
	{causes.PipeParked},
	{causes.PipeKernel},
	{causes.Flock},
	{causes.Sleep},
	{causes.Busy},
	{causes.Nothing, causes.Nothing, causes.Nothing, causes.Nothing},
	// A tail, and then requests with nothing wrong within its window.
	{causes.Flush, causes.Nothing, causes.Nothing},
	{causes.Flush, causes.Sleep},
	{causes.Flush, causes.Upstream},
	{causes.Flush, causes.Flush},
	// A request with nothing wrong, and then one that blocks in a write of the same goroutine.
	{causes.Nothing, causes.SlowBody},
	{causes.Nothing, causes.Flush},
	{causes.Nothing, causes.PipeParked},
	{causes.Sleep, causes.PipeKernel},
	{causes.SlowBody, causes.Nothing},
	{causes.PipeFlush, causes.Nothing},
	{causes.FlushLong, causes.Nothing},
}

const (
	shortestPause = 30 * time.Millisecond
	longestPause  = 90 * time.Millisecond
	busyPause     = 3 * time.Millisecond
	tailExceeded  = 450 * time.Millisecond // a tail is followed for 300 ms
)

type report struct {
	Requests int            `json:"requests"`
	Causes   map[string]int `json:"causes"`
	Errors   []string       `json:"errors"`
}

type driver struct {
	label       string
	httpAddress string
	grpc        *grpc.ClientConn

	mu     sync.Mutex // guards report
	report report
}

func (d *driver) count(protocol, cause string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report.Requests++
	d.report.Causes[protocol+" "+cause]++
	if err != nil && len(d.report.Errors) < 20 {
		d.report.Errors = append(d.report.Errors, fmt.Sprintf("%s %s: %v", protocol, cause, err))
	}
}

func pauseFor(cause string, random *rand.Rand) time.Duration {
	switch cause {
	case causes.Busy:
		return busyPause
	case causes.FlushLong:
		return tailExceeded
	}
	return shortestPause + time.Duration(random.Int64N(int64(longestPause-shortestPause))).Truncate(time.Millisecond)
}

// readAfter is how long the client lets the response wait.
func readAfter(cause string, pause time.Duration) time.Duration {
	switch {
	case cause == causes.PipeFlush: // the handler has one pause of its own before
		return 2 * pause
	case slices.Contains(causes.ReadLate, cause):
		return pause
	}
	return 0
}

func query(cause string, pause time.Duration, step string) string {
	return url.Values{
		"cause": {cause}, "ms": {strconv.FormatInt(pause.Milliseconds(), 10)}, "step": {step},
	}.Encode()
}

func (d *driver) overHTTP(sequence []string, number int, random *rand.Rand) {
	client, err := dialHTTP(d.httpAddress)
	if err != nil {
		d.count("http", sequence[0], err)
		return
	}
	defer client.conn.Close()
	for i, cause := range sequence {
		pause := pauseFor(cause, random)
		step := fmt.Sprintf("%s:%d:%s/%d", d.label, number, strings.Join(sequence, ","), i)
		wait := readAfter(cause, pause)
		readNS := clock.NowNS() + int64(wait) // a promise not to read before
		err := client.get(fmt.Sprintf("/?%s&read_ns=%d", query(cause, pause, step), readNS), wait, random)
		d.count("http", cause, err)
		if err != nil {
			return
		}
	}
}

func (d *driver) overGRPC(cause string, number int, random *rand.Rand) {
	step := fmt.Sprintf("%s:%d", d.label, number)
	request := wrapperspb.String(query(cause, pauseFor(cause, random), step))
	err := d.grpc.Invoke(context.Background(), "/workload.Work/Do", request, &wrapperspb.StringValue{})
	d.count("grpc", cause, err)
}

func main() {
	httpAddress := flag.String("http", "", "host:port of the service's HTTP server")
	grpcAddress := flag.String("grpc", "", "host:port of its gRPC server")
	label := flag.String("label", "load", "what the service is to write down as the beginning of each step")
	seed := flag.Uint64("seed", 1, "the same seed asks for the same")
	sequences := flag.Int("sequences", 500, "how many sequences of requests")
	concurrency := flag.Int("concurrency", 32, "sequences under way at once")
	rate := flag.Float64("rate", 0, "sequences begun a second at most; 0: as many as there is room for")
	only := flag.String("only", "", "HTTP only, and this sequence only: causes with commas between them")
	flag.Parse()

	conn, err := grpc.NewClient(*grpcAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
	d := &driver{
		label: *label, httpAddress: *httpAddress, grpc: conn,
		report: report{Causes: map[string]int{}, Errors: []string{}},
	}
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range *concurrency {
		workers.Go(func() {
			for number := range numbers {
				// Seeded by the number and not by the worker: which worker gets it is chance.
				random := rand.New(rand.NewPCG(*seed, uint64(number)))
				switch {
				case *only != "":
					d.overHTTP(strings.Split(*only, ","), number, random)
				case random.IntN(3) == 0:
					d.overGRPC(causes.GRPC[random.IntN(len(causes.GRPC))], number, random)
				default:
					d.overHTTP(httpSequences[random.IntN(len(httpSequences))], number, random)
				}
			}
		})
	}
	begin := time.Now()
	for number := range *sequences {
		if *rate > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(float64(number) / *rate * 1e9))))
		}
		numbers <- number
	}
	close(numbers)
	workers.Wait()
	json.NewEncoder(os.Stdout).Encode(d.report)
}
