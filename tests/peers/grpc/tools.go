//go:build tools

// Package tools pins the gRPC project's own interoperability programs as tools of the tests.
package tools

import (
	_ "google.golang.org/grpc/interop/client"
	_ "google.golang.org/grpc/interop/server"
)
