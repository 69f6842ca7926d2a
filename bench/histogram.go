//go:build linux

package main

import (
	"math/bits"
	"time"
)

const (
	subBits = 7 // 128 buckets for each doubling: values are kept within 0.8 %
	buckets = (64 - subBits) << subBits
)

// histogram counts durations. The zero value is empty.
type histogram struct {
	count [buckets]uint32
	total int64
}

func bucket(ns int64) int {
	v := uint64(max(ns, 0))
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// add counts a duration in nanoseconds.
func (h *histogram) add(ns int64) {
	h.count[bucket(ns)]++
	h.total++
}

// merge adds what other has counted.
func (h *histogram) merge(other *histogram) {
	for i, n := range other.count {
		h.count[i] += n
	}
	h.total += other.total
}

// quantile returns the duration that the share q of all doesn't exceed; 0 if there is none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int64(q * float64(h.total))
	for i, n := range h.count {
		if rank -= int64(n); rank < 0 {
			shift := max(i>>subBits-1, 0)
			return time.Duration(int64(i-shift<<subBits) << shift)
		}
	}
	return 0
}
