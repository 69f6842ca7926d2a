package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// part is one long-lived thing of a process.
type part struct {
	name string
	run  func(context.Context) error
}

// runParts starts the parts, the last first, and runs them until ctx ends or one of them does. Then it stops them, the first first; each has returned
// before the next is told. The error is that of the part that ended first; a part that ends without being told is an error.
func runParts(ctx context.Context, parts []part) error {
	group, failed := errgroup.WithContext(context.WithoutCancel(ctx))
	stops := make([]func(), len(parts))
	for i := len(parts) - 1; i >= 0; i-- {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		gone := make(chan struct{})
		stops[i] = func() { cancel(); <-gone }
		group.Go(func() error {
			defer close(gone)
			err := parts[i].run(own)
			if err == nil && own.Err() == nil {
				err = fmt.Errorf("%s ended by itself", parts[i].name)
			}
			return err
		})
	}
	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	for _, stop := range stops {
		stop()
	}
	return group.Wait()
}
