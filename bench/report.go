//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table: the medians, and what they are made of.
type row struct {
	Scenario string    `json:"scenario"`
	Metric   string    `json:"metric"`
	Unit     string    `json:"unit,omitempty"`
	Ours     float64   `json:"ours"`
	Floor    float64   `json:"floor,omitempty"`
	Ratio    float64   `json:"ratio,omitempty"` // median of the rounds' own ratios
	Target   string    `json:"target,omitempty"`
	Reached  *bool     `json:"reached,omitempty"`
	Rounds   []float64 `json:"rounds"`
	Floors   []float64 `json:"floorRounds,omitempty"`
}

// shareKept is the metric that is divided by its value without events.
const shareKept = "share kept"

// summary makes the rows of one scenario from what its rounds measured, by kind.
func summary(sc scenario, rounds []map[kind]values) (rows []row) {
	for _, m := range sc.metrics {
		r := row{Scenario: sc.name, Metric: m.name, Unit: m.unit}
		var ratios []float64
		for _, round := range rounds {
			o, f := round[ours][m.name], round[theFloor][m.name]
			if base, ok := round[alone]; ok && m.name == shareKept {
				o, f = o/base[m.name], f/base[m.name]
			}
			r.Rounds = append(r.Rounds, o)
			if _, ok := round[theFloor]; ok {
				r.Floors = append(r.Floors, f)
				if f != 0 {
					ratios = append(ratios, o/f)
				}
			}
		}
		r.Ours, r.Floor, r.Ratio = median(r.Rounds), median(r.Floors), median(ratios)
		r.judge(m.target)
		rows = append(rows, r)
	}
	return rows
}

func (r *row) judge(t target) {
	value, of := r.Ours, r.Unit
	if t.ratio {
		value, of = r.Ratio, "x floor"
	}
	var reached bool
	switch {
	case t.most != 0:
		reached = value <= t.most
		r.Target = strings.TrimSpace(fmt.Sprintf("<= %g %s", t.most, of))
	case t.least != 0:
		reached = value >= t.least
		r.Target = strings.TrimSpace(fmt.Sprintf(">= %g %s", t.least, of))
	case t.none:
		reached = value == 0
		r.Target = "0"
	default:
		return
	}
	r.Reached = &reached
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// figure prints three digits that tell something.
func figure(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// table prints rows as Markdown does.
func table(out io.Writer, rows []row) {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprint(w, "| scenario\t| metric\t| ours\t| floor\t| ratio\t| target\t|\t|\n|---\t|---\t|---\t|---\t|---\t|---\t|---\t|\n")
	for _, r := range rows {
		floor, ratio, verdict := "–", "–", ""
		if len(r.Floors) > 0 {
			floor, ratio = figure(r.Floor), figure(r.Ratio)
		}
		if r.Reached != nil {
			verdict = map[bool]string{true: "hit", false: "MISS"}[*r.Reached]
		}
		name := r.Metric
		if r.Unit != "" {
			name += ", " + r.Unit
		}
		fmt.Fprintf(w, "| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t|\n", r.Scenario, name, figure(r.Ours), floor, ratio, r.Target, verdict)
	}
	_ = w.Flush()
}

// line is a scenario in one line.
func line(rows []row) string {
	var parts []string
	for _, r := range rows {
		if r.Reached == nil {
			continue
		}
		s := r.Metric + " " + figure(r.Ours)
		if r.Unit != "" {
			s += " " + r.Unit
		}
		if len(r.Floors) > 0 {
			s += fmt.Sprintf(" (floor %s, x%s)", figure(r.Floor), figure(r.Ratio))
		}
		if !*r.Reached {
			s += " MISSES " + r.Target
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

// keep writes the rows as JSON.
func keep(path string, rows []row) error {
	b, err := json.MarshalIndent(struct {
		At     time.Time `json:"at"`
		Go     string    `json:"go"`
		Cores  int       `json:"cores"`
		Result []row     `json:"results"`
	}{time.Now().UTC().Truncate(time.Second), runtime.Version(), runtime.NumCPU(), rows}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
