// Command server is an HTTP/2 server over plain TCP, with prior knowledge, for h2spec to judge:
// golang.org/x/net/http2 with nothing in front of it. With -upgrade it is an HTTP/1.1 server that
// takes `Upgrade: h2c` as well (RFC 7540, section 3.2, which RFC 9113 has given up).
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

func main() {
	listen := flag.String("listen", "", "address and port to serve on")
	upgrade := flag.Bool("upgrade", false, "begin with HTTP/1.1 and switch when asked to")
	flag.Parse()

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("serving on", listener.Addr())
	server := &http2.Server{}
	if *upgrade {
		// The package is deprecated since what it does is, and is the only one that does it.
		log.Fatal(http.Serve(listener, h2c.NewHandler(http.HandlerFunc(answer), server)))
	}
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
