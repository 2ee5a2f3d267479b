package main

import "workload/causes"

// mix is what can be asked for. Sequences are requests sent on one connection, each as soon as the last is answered:
// what belongs to one of them must not be found on its neighbour.
type mix struct {
	http [][]string
	grpc []string
}

var mixes = map[string]mix{
	"plain": {http: plainSequences, grpc: causes.GRPC},
	"all":   {http: append(innerSequences(), plainSequences...), grpc: append(causes.Inner, causes.GRPC...)},
}

// plainSequences is what the goroutine that serves a connection can be blocked in by itself.
var plainSequences = [][]string{
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

// innerSequences has, for each thing that a handler can do inside of its span, a request with nothing wrong behind it.
func innerSequences() [][]string {
	sequences := [][]string{
		{causes.PostBody, causes.Nothing},
		{causes.PostSlow, causes.Nothing},
		{causes.Nothing, causes.Gap, causes.Nothing, causes.Gap, causes.PipeParked},
		{causes.Upstream, causes.Gap, causes.PostSlow, causes.Gap, causes.Sleep},
	}
	for _, cause := range causes.Inner {
		sequences = append(sequences, []string{cause, causes.Nothing})
	}
	return sequences
}
