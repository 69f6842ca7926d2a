//go:build linux

package main

import (
	"bytes"
	"fmt"
	"math"
)

// series is one line of a plot; all values are above 0.
type series struct {
	name string
	x, y []float64
}

func (s *series) add(x, y float64) { s.x, s.y = append(s.x, x), append(s.y, max(y, 0.01)) }

const (
	plotWidth, plotHeight = 640, 360
	plotMargin            = 56
)

// plot draws series over one axis as SVG, both axes logarithmic.
func plot(axis string, list ...series) []byte {
	lowX, highX, lowY, highY := math.Inf(1), 0.0, math.Inf(1), 0.0
	for _, s := range list {
		for i := range s.x {
			lowX, highX = min(lowX, s.x[i]), max(highX, s.x[i])
			lowY, highY = min(lowY, s.y[i]), max(highY, s.y[i])
		}
	}
	lowY, highY = math.Pow(10, math.Floor(math.Log10(lowY))), math.Pow(10, math.Ceil(math.Log10(highY)))
	place := func(v, low, high, from, to float64) float64 {
		if high <= low {
			return from
		}
		return from + (to-from)*math.Log(v/low)/math.Log(high/low)
	}
	px := func(v float64) float64 { return place(v, lowX, highX, plotMargin, plotWidth-plotMargin) }
	py := func(v float64) float64 { return place(v, lowY, highY, plotHeight-plotMargin, plotMargin) }

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fff"/><text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", plotWidth/2, plotHeight-12, axis)
	for v := lowY; v <= highY*1.001; v *= 10 {
		fmt.Fprintf(&b, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n",
			plotMargin, py(v), plotWidth-plotMargin, plotMargin-6, py(v)+4, v)
	}
	for _, v := range list[0].x {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%g</text>`+"\n", px(v), plotHeight-plotMargin+18, v)
	}
	for k, s := range list {
		color := [...]string{"#1764c0", "#c0501a"}[k%2]
		var line bytes.Buffer
		for i := range s.x {
			fmt.Fprintf(&line, "%.1f,%.1f ", px(s.x[i]), py(s.y[i]))
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", px(s.x[i]), py(s.y[i]), color)
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s"/><text x="%d" y="%d" fill="%s">%s</text>`+"\n",
			bytes.TrimSpace(line.Bytes()), color, plotMargin+10, 18+16*k, color, s.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
