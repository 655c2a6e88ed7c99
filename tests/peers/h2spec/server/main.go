// Command server is an HTTP/2 server over plain TCP, with prior knowledge, for h2spec to judge:
// golang.org/x/net/http2 with nothing in front of it.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"golang.org/x/net/http2"
)

func main() {
	listen := flag.String("listen", "", "address and port to serve on")
	flag.Parse()

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("serving on", listener.Addr())
	server := &http2.Server{}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go server.ServeConn(connection, &http2.ServeConnOpts{Handler: http.HandlerFunc(answer)})
	}
}

// answer reads the request to its end, as h2spec expects of a server, and says a little.
func answer(writer http.ResponseWriter, request *http.Request) {
	if _, err := io.Copy(io.Discard, request.Body); err != nil {
		return
	}
	fmt.Fprintln(writer, "An answer of some octets, which h2spec wants to be more than five.")
}
