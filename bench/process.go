//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTime = 20 * time.Second // for a server to be ready
	stopTime  = 10 * time.Second // for it to end
)

// process is a server that is measured. It doesn't outlive this process.
type process struct {
	address string // public
	admin   string
	began   time.Time // when it said that it serves

	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu    sync.Mutex
	lines []string // the last of its log
}

// startProcess runs a server that logs JSON to stderr, and returns when it has said where it listens.
func startProcess(ctx context.Context, env []string, path string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	log, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	started, serving := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the death signal is bound to the thread that forked
		defer runtime.UnlockOSThread()
		defer close(p.done)
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		p.readLog(log, serving)
		_ = p.cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	timer := time.NewTimer(startTime)
	defer timer.Stop()
	select {
	case <-serving:
		return p, nil
	case <-p.done:
	case <-ctx.Done():
	case <-timer.C:
	}
	return nil, errors.Join(fmt.Errorf("start %s: it doesn't serve: %s", path, p.log()), p.stop())
}

// readLog remembers the addresses and the last lines.
func (p *process) readLog(r io.Reader, serving chan<- struct{}) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var line struct{ Msg, Address, Admin string }
		_ = json.Unmarshal(lines.Bytes(), &line) // a crash isn't JSON
		p.mu.Lock()
		p.lines = append(p.lines[max(0, len(p.lines)-20):], lines.Text())
		p.mu.Unlock()
		switch line.Msg {
		case "listening":
			p.address = line.Address
		case "serving":
			p.admin, p.began = line.Admin, time.Now()
			close(serving)
		}
	}
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process, with force if it must be.
func (p *process) stop() error {
	if p.cmd.Process == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("process %d didn't end within %v", p.pid(), stopTime)
	}
}

// ready waits until /readyz says so.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.call(ctx, http.MethodGet, "/readyz", io.Discard)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("it ended: %s", p.log())
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		}
	}
}

// call asks the admin listener and copies the answer.
func (p *process) call(ctx context.Context, method, path string, to io.Writer) error {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+p.admin+path, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, path, answer.Status)
	}
	_, err = io.Copy(to, answer.Body)
	return err
}

// memory returns the resident memory in bytes, after the runtime has given back what it can: stacks shrink by half in one collection,
// pools empty in two.
func (p *process) memory(ctx context.Context) (int64, error) {
	for range 4 {
		if err := p.call(ctx, http.MethodPost, "/debug/freemem", io.Discard); err != nil {
			return 0, err
		}
	}
	return status(p.pid(), "VmRSS:")
}

// status reads a line of /proc/PID/status that is given in kB, as bytes.
func status(pid int, field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, field)
}

// clockTick is the unit of CPU times in /proc: 100 a second on every architecture that Linux has today.
const clockTick = 10 * time.Millisecond

// cpuTime is the CPU that a process has used; 0 if there is none.
func cpuTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // from the third on
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
	system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
	return time.Duration(user+system) * clockTick
}

// familyTime is the CPU time of a process and of its children that run.
func familyTime(pid int) time.Duration {
	sum := cpuTime(pid)
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(fields) > 1 && string(fields[1]) == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			sum += cpuTime(child)
		}
	}
	return sum
}

// raiseFiles lets this process and its children open as many files as the system allows, at least the given number.
func raiseFiles(least uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	limit.Max = max(limit.Max, least)
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("%d open files are needed (`ulimit -Hn %d`): %w", least, least, err)
	}
	return nil
}
