package enricherlabels

import (
	"context"
	"reflect"
	"runtime/pprof"
	"unsafe"
)

// The labels of the goroutine that calls. runtime/pprof can set them, but tells nobody what they are (Go issue 68785);
// both functions are among those that the Go runtime keeps for use from outside (Go issue 67401).
//
//go:linkname goroutineLabels runtime/pprof.runtime_getProfLabel
func goroutineLabels() unsafe.Pointer

//go:linkname setGoroutineLabels runtime/pprof.runtime_setProfLabel
func setGoroutineLabels(labels unsafe.Pointer)

// What runtime/pprof keeps labels under in a context, and the type of what it keeps: a pointer to a type of its own.
var labelsKey, labelsType = askPprof()

// asked notes which key it is asked for.
type asked struct {
	context.Context
	key any
}

func (a *asked) Value(key any) any {
	a.key = key
	return nil
}

func askPprof() (any, reflect.Type) {
	a := &asked{Context: context.Background()}
	pprof.Label(a, SpanIDKey)
	return a.key, reflect.TypeOf(pprof.WithLabels(context.Background(), pprof.Labels()).Value(a.key))
}

// understood tells whether runtime/pprof keeps labels in the way that this package relies on, as it does from Go 1.21 to
// 1.27. With another Go, nothing is labelled.
func understood() bool {
	if labelsType == nil || labelsType.Kind() != reflect.Pointer {
		return false
	}
	defer setGoroutineLabels(goroutineLabels())
	ctx := pprof.WithLabels(context.Background(), pprof.Labels(SpanIDKey, ""))
	pprof.SetGoroutineLabels(ctx)
	return goroutineLabels() != nil && goroutineLabels() == contextLabels(ctx)
}

// contextLabels is what the goroutine's labels become by pprof.SetGoroutineLabels(ctx).
func contextLabels(ctx context.Context) unsafe.Pointer {
	labels := ctx.Value(labelsKey)
	if labels == nil {
		return nil
	}
	return reflect.ValueOf(labels).UnsafePointer()
}

// holding is a context with these labels of a goroutine, and nothing else.
func holding(labels unsafe.Pointer) context.Context {
	if labels == nil {
		return context.Background()
	}
	return context.WithValue(context.Background(), labelsKey, reflect.NewAt(labelsType.Elem(), labels).Interface())
}
