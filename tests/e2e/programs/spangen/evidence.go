package main

import (
	"encoding/binary"
	"time"

	"workload/clock"
)

// Of probes/events.h, as of eventsVersion; the benchmark says which version it reads.
const (
	eventsVersion  = 2
	recordSize     = 112
	eventWait      = 1
	eventSpanEnd   = 3
	waitForWrite   = 1
	waitParked     = 2
	fdSocket       = 12
	syscallWrite   = 1
	familyINET     = 2
	protocolTCP    = 6
	waitLength     = 2 * time.Millisecond
	goroutinesEach = 1 << 20 // of one sender: no two have one in common
)

// monotonicOffset is CLOCK_REALTIME - CLOCK_MONOTONIC, taken once.
var monotonicOffset = time.Now().UnixNano() - clock.NowNS()

// evidence is what probes would have seen of the stamped spans: each ended on a goroutine of its own, and one of
// every so many was blocked in a write for part of its time. Valid until the next call.
func (r *request) evidence(sender, every int) []byte {
	end := uint64(r.ended.UnixNano() - monotonicOffset)
	r.records = r.records[:0]
	for i, span := range r.spans {
		goid := uint64((sender+1)*goroutinesEach + i)
		start := end - uint64(spanLength)
		r.told++
		if every > 0 && r.told%every == 0 {
			r.records = appendWait(r.records, goid, start+uint64(spanLength)/2)
		}
		r.records = appendSpanEnd(r.records, goid, start, end, span)
	}
	return r.records
}

// appendEvent appends what all kinds have in common, and room for the rest.
func appendEvent(b []byte, kind, flags uint16, goid, start, end uint64) []byte {
	at := len(b)
	b = append(b, make([]byte, recordSize)...)
	record := b[at:]
	binary.LittleEndian.PutUint64(record[0:], start)
	binary.LittleEndian.PutUint64(record[8:], end)
	binary.LittleEndian.PutUint64(record[16:], goid)
	binary.LittleEndian.PutUint32(record[32:], watchedPID)
	binary.LittleEndian.PutUint32(record[36:], watchedPID)
	binary.LittleEndian.PutUint16(record[40:], kind)
	binary.LittleEndian.PutUint16(record[42:], flags)
	return b
}

// watchedPID is the process that the spans are said to be of.
const watchedPID = 4242

func appendWait(b []byte, goid, start uint64) []byte {
	b = appendEvent(b, eventWait, waitForWrite, goid, start, start+uint64(waitLength))
	record := b[len(b)-recordSize:]
	binary.LittleEndian.PutUint16(record[44:], syscallWrite)
	binary.LittleEndian.PutUint32(record[48:], 7)
	record[52], record[53] = waitParked, fdSocket
	binary.LittleEndian.PutUint16(record[80:], familyINET)
	binary.LittleEndian.PutUint16(record[82:], 443)
	binary.LittleEndian.PutUint16(record[86:], protocolTCP)
	copy(record[88:], []byte{10, 0, 0, 1})
	return b
}

// appendSpanEnd appends the end of a span that the same goroutine started.
func appendSpanEnd(b []byte, goid, start, end uint64, span spanBytes) []byte {
	b = appendEvent(b, eventSpanEnd, 0, goid, start, end)
	record := b[len(b)-recordSize:]
	binary.LittleEndian.PutUint64(record[64:], goid)
	copy(record[80:], span.traceID)
	copy(record[96:], span.spanID)
	copy(record[104:], span.parentID)
	return b
}
