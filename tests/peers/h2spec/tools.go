//go:build tools

// Package tools pins h2spec, the conformance suite for HTTP/2 servers, as a tool of the tests.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
