package enricherlabels_test

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"enricher/contrib/go/enricherlabels"
)

// provider is labelled; what it has ended is in the recorder.
func provider(options ...sdktrace.TracerProviderOption) (trace.TracerProvider, *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	options = append(options, sdktrace.WithSpanProcessor(recorder))
	return enricherlabels.NewTracerProvider(sdktrace.NewTracerProvider(options...)), recorder
}

func tracer(options ...sdktrace.TracerProviderOption) trace.Tracer {
	labelled, _ := provider(options...)
	return labelled.Tracer("test")
}

var labelsLine = regexp.MustCompile(`(?m)^# labels: \{(.*)\}$`)

// goroutineLabels reads the labels of the goroutine that calls where nothing of this package has a hand in: from the
// profile of all goroutines, in which only this one is inside this function. Another one takes the profile, as up to
// Go 1.21 whoever takes it is in it without labels.
//
//go:noinline
func goroutineLabels(t *testing.T) map[string]string {
	t.Helper()
	taken := make(chan string)
	go takeProfile(taken)
	profile := <-taken
	for _, goroutine := range strings.Split(profile, "\n\n") {
		if !strings.Contains(goroutine, "enricherlabels_test.goroutineLabels+") {
			continue
		}
		labels := map[string]string{}
		if line := labelsLine.FindStringSubmatch(goroutine); line != nil {
			for _, label := range strings.Split(line[1], ", ") {
				var key, value string
				if _, err := fmt.Sscanf(label, "%q:%q", &key, &value); err != nil {
					t.Fatalf("label %s: %v", label, err)
				}
				labels[key] = value
			}
		}
		return labels
	}
	t.Fatalf("the goroutine is not in the profile:\n%s", profile)
	return nil
}

func takeProfile(taken chan<- string) {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		panic(err)
	}
	taken <- profile.String()
}

// One at a time, as goroutineLabels tells apart only who is in it.
var reading sync.Mutex

func expectLabels(t *testing.T, when string, keysAndValues ...string) {
	t.Helper()
	reading.Lock()
	defer reading.Unlock()
	wanted := map[string]string{}
	for i := 0; i < len(keysAndValues); i += 2 {
		wanted[keysAndValues[i]] = keysAndValues[i+1]
	}
	if found := goroutineLabels(t); fmt.Sprint(found) != fmt.Sprint(wanted) {
		t.Errorf("%s: labels %v, expected %v", when, found, wanted)
	}
}

func id(span trace.Span) string { return span.SpanContext().SpanID().String() }

// onGoroutine runs f on another goroutine, to its end.
func onGoroutine(f func()) {
	var done sync.WaitGroup
	done.Add(1)
	go func() {
		defer done.Done()
		f()
	}()
	done.Wait()
}

const key = enricherlabels.SpanIDKey

func TestTheGoroutineIsLabelledWhileTheSpanRuns(t *testing.T) {
	_, span := tracer().Start(context.Background(), "span")
	expectLabels(t, "inside", key, id(span))
	span.End()
	expectLabels(t, "after")
}

func TestNestedSpansNameTheInnermost(t *testing.T) {
	tracer := tracer()
	ctx, outer := tracer.Start(context.Background(), "outer")
	for i := 0; i < 2; i++ {
		_, inner := tracer.Start(ctx, "inner")
		expectLabels(t, "in the inner span", key, id(inner))
		inner.End()
		expectLabels(t, "in the outer span again", key, id(outer))
	}
	outer.End()
	expectLabels(t, "after both")
}

func TestGoroutinesMadeInsideInherit(t *testing.T) {
	_, span := tracer().Start(context.Background(), "span")
	onGoroutine(func() { expectLabels(t, "made inside", key, id(span)) })
	span.End()
	onGoroutine(func() { expectLabels(t, "made after") })
}

func TestASpanEndedElsewhereLeavesTheLabelsThereAlone(t *testing.T) {
	tracer := tracer()
	_, span := tracer.Start(context.Background(), "handed over")
	ready, handed := make(chan struct{}), make(chan struct{})
	var other sync.WaitGroup
	defer other.Wait()
	onGoroutine(func() { // so that the one below is made by a goroutine that has no part in the span
		pprof.SetGoroutineLabels(context.Background())
		other.Add(1)
		go func() {
			defer other.Done()
			_, own := tracer.Start(context.Background(), "own")
			close(ready)
			<-handed
			span.End()
			expectLabels(t, "where the span was ended", key, id(own))
			own.End()
			expectLabels(t, "after that goroutine's own span")
		}()
	})
	<-ready
	close(handed)
	other.Wait()
	pprof.SetGoroutineLabels(context.Background())
}

func TestAGoroutineMadeInsideThatEndsTheSpanGetsTheOuterLabel(t *testing.T) {
	tracer := tracer()
	ctx, outer := tracer.Start(context.Background(), "outer")
	_, inner := tracer.Start(ctx, "inner")
	onGoroutine(func() {
		inner.End()
		expectLabels(t, "where the inner span was ended", key, id(outer))
	})
	outer.End()
	pprof.SetGoroutineLabels(context.Background())
}

func TestASpanThatOutlivesTheOneAroundItDoesNotBringBackItsLabel(t *testing.T) {
	tracer := tracer()
	ctx, outermost := tracer.Start(context.Background(), "outermost")
	ctx, outer := tracer.Start(ctx, "outer")
	_, inner := tracer.Start(ctx, "inner")
	outer.End()
	expectLabels(t, "the outer span has ended first", key, id(inner))
	inner.End()
	expectLabels(t, "only the outermost is left", key, id(outermost))
	outermost.End()
	expectLabels(t, "none is left")
}

func TestLabelsOfTheContextAreKept(t *testing.T) {
	tracer := tracer()
	pprof.Do(context.Background(), pprof.Labels("tenant", "a"), func(ctx context.Context) {
		ctx, span := tracer.Start(ctx, "span")
		expectLabels(t, "inside", key, id(span), "tenant", "a")
		pprof.Do(ctx, pprof.Labels("phase", "b"), func(context.Context) {
			expectLabels(t, "in a pprof.Do inside", key, id(span), "tenant", "a", "phase", "b")
		})
		expectLabels(t, "after the pprof.Do inside", key, id(span), "tenant", "a")
		span.End()
		expectLabels(t, "after the span", "tenant", "a")
	})
}

func TestLabelsThatTheContextDoesNotKnowAreKept(t *testing.T) {
	tracer := tracer()
	pprof.Do(context.Background(), pprof.Labels("tenant", "a", "z", "z"), func(context.Context) {
		ctx, span := tracer.Start(context.Background(), "span")
		expectLabels(t, "inside", key, id(span), "tenant", "a", "z", "z")
		if _, is := pprof.Label(ctx, "tenant"); is {
			t.Error("a label of the goroutine has got into a context that did not have it")
		}
		span.End()
		expectLabels(t, "after", "tenant", "a", "z", "z")
	})
}

func TestLabelsOfAContextFromElsewhereDoNotReplaceTheGoroutines(t *testing.T) {
	tracer := tracer()
	ctx := pprof.WithLabels(context.Background(), pprof.Labels("tenant", "elsewhere"))
	pprof.Do(context.Background(), pprof.Labels("tenant", "here"), func(context.Context) {
		ctx, span := tracer.Start(ctx, "span")
		expectLabels(t, "inside", key, id(span), "tenant", "here")
		if tenant, _ := pprof.Label(ctx, "tenant"); tenant != "elsewhere" {
			t.Errorf("the context's label has become %q", tenant)
		}
		span.End()
		expectLabels(t, "after", "tenant", "here")
	})
}

func TestLabelsSetInsideTheSpanAreLeftAtItsEnd(t *testing.T) {
	_, span := tracer().Start(context.Background(), "span")
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("set", "inside")))
	span.End()
	expectLabels(t, "after", "set", "inside")
	pprof.SetGoroutineLabels(context.Background())
}

func TestAWorkerCanTakeTheLabelFromTheContext(t *testing.T) {
	ctx, span := tracer().Start(context.Background(), "span")
	worker := make(chan func(), 1)
	var done sync.WaitGroup
	done.Add(1)
	pprof.SetGoroutineLabels(context.Background())
	go func() {
		defer done.Done()
		expectLabels(t, "the worker before")
		(<-worker)()
		expectLabels(t, "the worker afterwards")
	}()
	worker <- func() {
		pprof.Do(ctx, pprof.Labels(), func(context.Context) { expectLabels(t, "the worker inside", key, id(span)) })
		pprof.SetGoroutineLabels(context.Background())
	}
	done.Wait()
	span.End()
}

func TestSpansThatAreNotSampledAreNotLabelled(t *testing.T) {
	_, span := tracer(sdktrace.WithSampler(sdktrace.NeverSample())).Start(context.Background(), "span")
	expectLabels(t, "inside")
	span.End()
}

// byName samples the spans whose name says so.
type byName struct{}

func (byName) Description() string { return "byName" }

func (byName) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	decision := sdktrace.Drop
	switch p.Name {
	case "sampled":
		decision = sdktrace.RecordAndSample
	case "recorded":
		decision = sdktrace.RecordOnly
	}
	return sdktrace.SamplingResult{Decision: decision}
}

func TestInsideASpanThatIsNotSampledTheLabelNamesTheOneAroundIt(t *testing.T) {
	tracer := tracer(sdktrace.WithSampler(byName{}))
	ctx, outer := tracer.Start(context.Background(), "sampled")
	for _, name := range []string{"dropped", "recorded"} {
		_, inner := tracer.Start(ctx, name)
		expectLabels(t, "in the span that is "+name, key, id(outer))
		inner.End()
		expectLabels(t, "after it", key, id(outer))
	}
	outer.End()
}

func TestEndingTwiceTouchesNothingTheSecondTime(t *testing.T) {
	labelled, recorder := provider()
	tracer := labelled.Tracer("test")
	_, span := tracer.Start(context.Background(), "span")
	span.End()
	_, next := tracer.Start(context.Background(), "next")
	span.End()
	expectLabels(t, "in the next span", key, id(next))
	next.End()
	if ended := len(recorder.Ended()); ended != 2 {
		t.Errorf("%d spans have ended, expected 2", ended)
	}
}

func TestAPanicIsRecordedAndGoesOn(t *testing.T) {
	labelled, recorder := provider()
	raised := func() (raised any) {
		defer func() { raised = recover() }()
		_, span := labelled.Tracer("test").Start(context.Background(), "span")
		defer span.End(trace.WithStackTrace(true))
		panic("out of paper")
	}()
	if raised != "out of paper" {
		t.Errorf("raised %v", raised)
	}
	expectLabels(t, "after the panic")
	events := recorder.Ended()[0].Events()
	if len(events) != 1 || events[0].Name != "exception" {
		t.Fatalf("events %v, expected the SDK's exception", events)
	}
	attributes := fmt.Sprint(events[0].Attributes)
	for _, part := range []string{"out of paper", "TestAPanicIsRecordedAndGoesOn"} {
		if !strings.Contains(attributes, part) {
			t.Errorf("%q is not in the exception: %s", part, attributes)
		}
	}
}

// parents keeps what the SDK shows its processors.
type parents struct{ seen []trace.Span }

func (p *parents) OnStart(ctx context.Context, _ sdktrace.ReadWriteSpan) {
	p.seen = append(p.seen, trace.SpanFromContext(ctx))
}
func (*parents) OnEnd(sdktrace.ReadOnlySpan)      {}
func (*parents) Shutdown(context.Context) error   { return nil }
func (*parents) ForceFlush(context.Context) error { return nil }

func TestTheSDKSeesItsOwnSpans(t *testing.T) {
	seen := &parents{}
	labelled, recorder := provider(sdktrace.WithSpanProcessor(seen))
	tracer := labelled.Tracer("test")
	ctx, outer := tracer.Start(context.Background(), "outer")
	_, inner := tracer.Start(ctx, "inner")
	inner.End()
	outer.End()
	if _, is := seen.seen[1].(sdktrace.ReadOnlySpan); !is {
		t.Errorf("a processor sees a %T as parent", seen.seen[1])
	}
	ended := recorder.Ended()
	if ended[0].Parent().SpanID() != outer.SpanContext().SpanID() {
		t.Error("the inner span has another parent")
	}
	if children := ended[1].ChildSpanCount(); children != 1 {
		t.Errorf("the outer span has %d children, expected 1", children)
	}
}

func TestASpanEndedThroughItsContextTakesItsLabelOff(t *testing.T) {
	ctx, _ := tracer().Start(context.Background(), "span")
	trace.SpanFromContext(ctx).End()
	expectLabels(t, "after")
}

func TestSpansOfASpansOwnProviderAreLabelled(t *testing.T) {
	ctx, outer := tracer().Start(context.Background(), "outer")
	_, inner := trace.SpanFromContext(ctx).TracerProvider().Tracer("other").Start(ctx, "inner")
	expectLabels(t, "inside", key, id(inner))
	inner.End()
	outer.End()
}

func TestASpanWithoutAContextIsLabelled(t *testing.T) {
	_, span := tracer().Start(nil, "span") //nolint:staticcheck // the SDK takes it, so nobody is to be harmed
	expectLabels(t, "inside", key, id(span))
	span.End()
	expectLabels(t, "after")
}

func TestManyGoroutinesKeepTheirOwn(t *testing.T) {
	tracer := tracer()
	var all sync.WaitGroup
	for i := 0; i < 16; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for n := 0; n < 200; n++ {
				ctx, outer := tracer.Start(context.Background(), "outer")
				_, inner := tracer.Start(ctx, "inner")
				all.Add(1)
				go func() {
					defer all.Done()
					inner.End()
				}()
				outer.End()
			}
			_, last := tracer.Start(context.Background(), "last")
			expectLabels(t, "in the last span", key, id(last))
			last.End()
		}()
	}
	all.Wait()
}

// discard has the SDK record spans, and keeps none.
type discard struct{}

func (discard) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (discard) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error                  { return nil }
func (discard) ForceFlush(context.Context) error                { return nil }

func BenchmarkStartAndEnd(b *testing.B) {
	dropping := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))
	recording := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(discard{}))
	labels := pprof.WithLabels(context.Background(), pprof.Labels("region", "x", "tenant", "a", "version", "1"))
	for _, c := range []struct {
		name     string
		provider trace.TracerProvider
		ctx      context.Context
		set      context.Context
	}{
		{"SDK alone", recording, context.Background(), context.Background()},
		{"labelled", enricherlabels.NewTracerProvider(recording), context.Background(), context.Background()},
		{"labelled, 3 more labels", enricherlabels.NewTracerProvider(recording), labels, labels},
		{"labelled, 3 labels not in the context", enricherlabels.NewTracerProvider(recording), context.Background(), labels},
		{"not sampled, SDK alone", dropping, context.Background(), context.Background()},
		{"not sampled, labelled", enricherlabels.NewTracerProvider(dropping), context.Background(), context.Background()},
	} {
		b.Run(c.name, func(b *testing.B) {
			tracer := c.provider.Tracer("test")
			pprof.SetGoroutineLabels(c.set)
			defer pprof.SetGoroutineLabels(context.Background())
			b.ReportAllocs()
			for i := 0; i < b.N; i++ {
				_, span := tracer.Start(c.ctx, "span")
				span.End()
			}
		})
	}
}
