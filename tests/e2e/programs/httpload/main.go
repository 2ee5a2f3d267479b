// httpload asks an HTTP server for the same page at a fixed rate, and prints one line of JSON: how many were
// answered, in how long, and how late.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

type report struct {
	Requests int     `json:"requests"`
	Seconds  float64 `json:"seconds"`
	P50MS    float64 `json:"p50_ms"`
	P99MS    float64 `json:"p99_ms"`
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "httpload:", err)
		os.Exit(1)
	}
}

// ask sends its share of the requests on one connection, each at its own time; one that is held up by the one
// before it is late, and counted as such.
func ask(address string, begin time.Time, interval, duration time.Duration) (latencies []time.Duration) {
	conn, err := net.Dial("tcp", address)
	check(err)
	defer conn.Close()
	reader := bufio.NewReader(conn)
	request := []byte("GET / HTTP/1.1\r\nHost: plain\r\n\r\n")
	for due := begin; due.Sub(begin) < duration; due = due.Add(interval) {
		time.Sleep(time.Until(due))
		_, err := conn.Write(request)
		check(err)
		response, err := http.ReadResponse(reader, nil)
		check(err)
		_, err = io.Copy(io.Discard, response.Body)
		check(err)
		latencies = append(latencies, time.Since(due))
	}
	return latencies
}

func main() {
	address := flag.String("address", "", "host:port")
	rate := flag.Float64("rate", 10000, "requests a second")
	connections := flag.Int("connections", 64, "keep-alive connections, each with its share of the rate")
	duration := flag.Duration("duration", 5*time.Second, "how long")
	flag.Parse()

	interval := time.Duration(float64(*connections) / *rate * 1e9)
	var mu sync.Mutex
	var all []time.Duration
	var workers sync.WaitGroup
	begin := time.Now()
	for i := range *connections {
		workers.Go(func() {
			// Spread over the interval: requests come one after the other and not in volleys.
			first := begin.Add(interval * time.Duration(i) / time.Duration(*connections))
			latencies := ask(*address, first, interval, *duration)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, latencies...)
		})
	}
	workers.Wait()
	seconds := time.Since(begin).Seconds()
	slices.Sort(all)
	inMS := func(d time.Duration) float64 { return float64(d) / 1e6 }
	check(json.NewEncoder(os.Stdout).Encode(
		report{len(all), seconds, inMS(all[len(all)/2]), inMS(all[len(all)*99/100])}))
}
