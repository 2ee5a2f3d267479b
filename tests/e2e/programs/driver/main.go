// driver asks the service for a seeded mix of causes over HTTP/1.1 keep-alive connections and gRPC, and reads
// some of the responses late. It prints one line of JSON with what it got answered.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
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

const (
	busyPause    = 3 * time.Millisecond
	tailExceeded = 450 * time.Millisecond // a tail is followed for 300 ms
	postedBody   = 2000
)

type report struct {
	Requests int            `json:"requests"`
	Seconds  float64        `json:"seconds"`
	Causes   map[string]int `json:"causes"`
	Errors   []string       `json:"errors"`
}

type driver struct {
	label             string
	mix               mix
	only              []string      // this sequence and nothing else; nil: all of the mix
	onlyOverGRPC      bool          // and so
	shortest, longest time.Duration // how long a cause lasts
	quiet             float64       // share of sequences that are one request with nothing wrong
	unsampled         float64       // share of remote parents that are not sampled, so that nothing below is
	httpAddress       string
	grpc              *grpc.ClientConn

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

func (d *driver) pauseFor(cause string, random *rand.Rand) time.Duration {
	switch cause {
	case causes.Busy:
		return min(busyPause, d.longest)
	case causes.FlushLong:
		return tailExceeded
	}
	return d.shortest + time.Duration(random.Int64N(int64(d.longest-d.shortest)+1)).Truncate(time.Millisecond)
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

// parent is a remote parent for half of the server spans.
func (d *driver) parent(random *rand.Rand) string {
	if random.IntN(2) == 0 {
		return ""
	}
	flags := "01"
	if random.Float64() < d.unsampled {
		flags = "00"
	}
	return fmt.Sprintf("00-%016x%016x-%016x-%s", random.Uint64(), random.Uint64(), random.Uint64()|1, flags)
}

// httpRequest is what one step of a sequence asks for.
func (d *driver) httpRequest(cause, step string, random *rand.Rand) request {
	pause := d.pauseFor(cause, random)
	r := request{method: http.MethodGet, parent: d.parent(random), readWait: readAfter(cause, pause)}
	promised := r.readWait // what the server waits for does not come before
	switch cause {
	case causes.PostBody:
		r.method, r.body = http.MethodPost, postedBody
	case causes.PostSlow:
		r.method, r.body, r.bodyWait, promised = http.MethodPost, postedBody, pause, pause
	}
	r.target = fmt.Sprintf("/?%s&read_ns=%d", query(cause, pause, step), clock.NowNS()+int64(promised))
	return r
}

func (d *driver) overHTTP(client *httpClient, sequence []string, number int, random *rand.Rand) {
	for i, cause := range sequence {
		if cause == causes.Gap {
			time.Sleep(d.pauseFor(cause, random))
			continue
		}
		step := fmt.Sprintf("%s:%d:%s/%d", d.label, number, strings.Join(sequence, ","), i)
		err := client.do(d.httpRequest(cause, step, random))
		d.count("http", cause, err)
		if err != nil {
			return
		}
	}
}

func (d *driver) overGRPC(cause string, number int, random *rand.Rand) {
	step := fmt.Sprintf("%s:%d", d.label, number)
	request := wrapperspb.String(query(cause, d.pauseFor(cause, random), step))
	err := d.grpc.Invoke(context.Background(), "/workload.Work/Do", request, &wrapperspb.StringValue{})
	d.count("grpc", cause, err)
}

// work takes numbers of sequences. The seed and the number say what is asked for: which worker does it is chance.
func (d *driver) work(numbers <-chan int, seed uint64) {
	client, err := dialHTTP(d.httpAddress)
	if err != nil {
		d.count("http", "dial", err)
		for range numbers {
		}
		return
	}
	defer client.conn.Close()
	for number := range numbers {
		random := rand.New(rand.NewPCG(seed, uint64(number)))
		quiet := random.Float64() < d.quiet
		overGRPC := random.IntN(3) == 0
		switch {
		case d.only != nil && d.onlyOverGRPC:
			d.overGRPC(d.only[0], number, random)
		case d.only != nil:
			d.overHTTP(client, d.only, number, random)
		case quiet && overGRPC:
			d.overGRPC(causes.Nothing, number, random)
		case quiet:
			d.overHTTP(client, []string{causes.Nothing}, number, random)
		case overGRPC:
			d.overGRPC(d.mix.grpc[random.IntN(len(d.mix.grpc))], number, random)
		default:
			d.overHTTP(client, d.mix.http[random.IntN(len(d.mix.http))], number, random)
		}
	}
}

func main() {
	httpAddress := flag.String("http", "", "host:port of the service's HTTP server")
	grpcAddress := flag.String("grpc", "", "host:port of its gRPC server")
	label := flag.String("label", "load", "what the service is to write down as the beginning of each step")
	seed := flag.Uint64("seed", 1, "the same seed asks for the same")
	sequences := flag.Int("sequences", 500, "how many sequences of requests")
	concurrency := flag.Int("concurrency", 32, "sequences under way at once, each on a connection of its own")
	rate := flag.Float64("rate", 0, "sequences begun a second at most; 0: as many as there is room for")
	mixed := flag.String("mix", "plain", "what is asked for: plain or all")
	only := flag.String("only", "", "this sequence only: causes with commas between them; over gRPC just one")
	over := flag.String("over", "http", "with -only: http or grpc")
	shortest := flag.Duration("shortest", 30*time.Millisecond, "how long a cause lasts at least")
	longest := flag.Duration("longest", 90*time.Millisecond, "and at most")
	quiet := flag.Float64("quiet", 0, "share of sequences that are a single request with nothing wrong")
	unsampled := flag.Float64("unsampled", 0, "share of remote parents that are not sampled")
	flag.Parse()

	conn, err := grpc.NewClient(*grpcAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
	d := &driver{
		label: *label, mix: mixes[*mixed], shortest: *shortest, longest: *longest, quiet: *quiet, unsampled: *unsampled,
		httpAddress: *httpAddress, grpc: conn, report: report{Causes: map[string]int{}, Errors: []string{}},
	}
	if *only != "" {
		d.only, d.onlyOverGRPC = strings.Split(*only, ","), *over == "grpc"
	}
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range *concurrency {
		workers.Go(func() { d.work(numbers, *seed) })
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
	d.report.Seconds = time.Since(begin).Seconds()
	json.NewEncoder(os.Stdout).Encode(d.report)
}
