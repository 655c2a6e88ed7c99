//go:build tools

// Package tools pins the gRPC project's own interoperability client as a tool of the tests.
package tools

import _ "google.golang.org/grpc/interop/client"
