// Command endpoint serves the gRPC project's own interoperability service on grpc-go, as a pod
// would: with server reflection, graceful stop on SIGTERM, and TLS when given a certificate.
//
// It names itself in the response header x-endpoint and counts the calls it was asked for:
// SIGUSR1 prints a line "calls N" to standard output. With -record it writes the number in each
// call's metadata x-call to a file before it answers, a line each, and holds the answer for up to
// 5 ms, so that who kills it finds calls there.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/stats"
)

// counter counts calls of the test service; reflection, which clients ask first, is not one.
type counter struct {
	name  string
	calls atomic.Uint64
}

func (c *counter) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	const prefix = "/grpc.testing."
	if len(info.FullMethodName) > len(prefix) && info.FullMethodName[:len(prefix)] == prefix {
		c.calls.Add(1)
	}
	return ctx
}

func (c *counter) HandleRPC(context.Context, stats.RPCStats) {}

func (c *counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (c *counter) HandleConn(context.Context, stats.ConnStats) {}

// The longest that the answer to a recorded call waits.
const hold = 5 * time.Millisecond

// record writes the number of a call down, if it has one.
func record(ctx context.Context, file *os.File) {
	for _, id := range metadata.ValueFromIncomingContext(ctx, "x-call") {
		if _, err := fmt.Fprintln(file, id); err != nil {
			log.Fatal(err)
		}
	}
	time.Sleep(rand.N(hold))
}

func main() {
	listen := flag.String("listen", "", "address and port to serve on")
	name := flag.String("name", "", "name to answer with")
	certificate := flag.String("certificate", "", "PEM file; serves TLS")
	key := flag.String("key", "", "PEM file of the certificate's key")
	records := flag.String("record", "", "file for the numbers of calls")
	flag.Parse()

	var file *os.File
	if *records != "" {
		opened, err := os.OpenFile(*records, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			log.Fatal(err)
		}
		file = opened
	}

	counter := &counter{name: *name}
	options := []grpc.ServerOption{
		grpc.StatsHandler(counter),
		grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if err := grpc.SetHeader(ctx, metadata.Pairs("x-endpoint", *name)); err != nil {
				return nil, err
			}
			if file != nil {
				record(ctx, file)
			}
			return handle(ctx, request)
		}),
	}
	if *certificate != "" {
		tls, err := credentials.NewServerTLSFromFile(*certificate, *key)
		if err != nil {
			log.Fatal(err)
		}
		options = append(options, grpc.Creds(tls))
	}
	server := grpc.NewServer(options...)
	grpc_testing.RegisterTestServiceServer(server, interop.NewTestServer())
	reflection.Register(server)

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM)
	go func() {
		for received := range signals {
			if received == syscall.SIGTERM {
				server.GracefulStop()
				return
			}
			fmt.Println("calls", counter.calls.Load())
		}
	}()
	fmt.Println("serving on", listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
