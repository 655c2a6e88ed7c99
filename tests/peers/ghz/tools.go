//go:build tools

// Package tools pins ghz, the load client of the article, as a tool of the tests.
package tools

import _ "github.com/bojand/ghz/cmd/ghz"
