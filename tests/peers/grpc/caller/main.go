// Command caller calls the gRPC project's interoperability service at a steady rate, over a few
// connections and with retries off, until SIGTERM.
//
// Each call has a number of its own, which goes along as the metadata x-call. What it has to say
// are lines of JSON on standard output: how many calls have ended, every 20 ms; each call that
// failed; and a last line with all of it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// The most calls that are under way at once; beyond it the rate is not kept.
const most = 2000

// How long a call may take: far above any that succeeds.
const patience = 20 * time.Second

// watcher counts what grpc-go tries again by itself, which no option switches off: calls that were
// not written, or that the peer proved not to have looked at.
type watcher struct{ again atomic.Uint64 }

func (w *watcher) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (w *watcher) HandleRPC(_ context.Context, event stats.RPCStats) {
	if begin, is := event.(*stats.Begin); is && begin.IsTransparentRetryAttempt {
		w.again.Add(1)
	}
}

func (w *watcher) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (w *watcher) HandleConn(context.Context, stats.ConnStats) {}

type caller struct {
	clients []grpc_testing.TestServiceClient
	ended   atomic.Uint64
	failed  atomic.Uint64
	output  sync.Mutex
}

func (c *caller) say(line map[string]any) {
	c.output.Lock()
	defer c.output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		log.Fatal(err)
	}
}

func (c *caller) call(id uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-call", strconv.FormatUint(id, 10))
	client := c.clients[id%uint64(len(c.clients))]
	_, err := client.EmptyCall(ctx, &grpc_testing.Empty{})
	if err != nil {
		c.failed.Add(1)
		told := status.Convert(err)
		c.say(map[string]any{"id": id, "code": told.Code().String(), "message": told.Message()})
	}
	c.ended.Add(1)
}

func main() {
	target := flag.String("target", "", "address and port to call")
	connections := flag.Int("connections", 4, "over how many connections")
	rate := flag.Int("rate", 1000, "calls in a second")
	flag.Parse()

	watcher, caller := &watcher{}, &caller{}
	for range *connections {
		connection, err := grpc.NewClient("passthrough:///"+*target, grpc.WithDisableRetry(),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(watcher))
		if err != nil {
			log.Fatal(err)
		}
		caller.clients = append(caller.clients, grpc_testing.NewTestServiceClient(connection))
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)

	var open sync.WaitGroup
	room := make(chan struct{}, most)
	begun := time.Now()
	var calls uint64
	ticks := time.NewTicker(time.Millisecond)
	for told := begun; len(signals) == 0; <-ticks.C {
		now := time.Now()
		if now.Sub(told) >= 20*time.Millisecond {
			told = now
			caller.say(map[string]any{"ended": caller.ended.Load()})
		}
		// As many as should have begun by now, so that a pause is made good.
		for due := uint64(now.Sub(begun).Seconds() * float64(*rate)); calls < due; {
			calls++
			room <- struct{}{}
			open.Add(1)
			go func(id uint64) {
				defer open.Done()
				caller.call(id)
				<-room
			}(calls)
		}
	}
	elapsed := time.Since(begun)
	open.Wait()
	caller.say(map[string]any{
		"calls": calls, "failed": caller.failed.Load(), "again": watcher.again.Load(),
		"seconds": elapsed.Seconds(),
	})
}
