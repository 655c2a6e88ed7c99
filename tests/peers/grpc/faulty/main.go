// Command faulty serves calls without a message, such as EmptyCall of the gRPC project's
// interoperability service, and is at fault in a way that proves it has not acted on a call:
//
//	goaway  after some streams of a connection, GOAWAY with a last stream below those it has got
//	refuse  REFUSED_STREAM for one in two streams
//	close   closes, or resets, every connection as soon as it is accepted
//
// What it does act on it records as endpoint does: the number in the metadata x-call, a line each,
// before it answers.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The longest that an answer waits.
const hold = 5 * time.Millisecond

// An empty message: not compressed, no octets.
var message = make([]byte, 5)

type server struct {
	name, fault string
	record      *os.File
}

// A connection's writing half, and what its calls share.
type connection struct {
	server  *server
	lock    sync.Mutex
	framer  *http2.Framer
	encoder *hpack.Encoder
	block   bytes.Buffer
	left    sync.Once
}

func main() {
	listen := flag.String("listen", "", "address and port to serve on")
	name := flag.String("name", "", "name to answer with")
	fault := flag.String("fault", "", "goaway, refuse or close")
	record := flag.String("record", "", "file for the numbers of calls")
	flag.Parse()

	file, err := os.OpenFile(*record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("serving on", listener.Addr())
	server := &server{name: *name, fault: *fault, record: file}
	for {
		socket, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		if *fault == "close" {
			if rand.IntN(2) == 0 {
				// With a reset in place of a FIN.
				socket.(*net.TCPConn).SetLinger(0)
			}
			socket.Close()
			continue
		}
		go server.serve(socket)
	}
}

func (s *server) serve(socket net.Conn) {
	defer socket.Close()
	c := &connection{server: s, framer: http2.NewFramer(socket, socket)}
	c.encoder = hpack.NewEncoder(&c.block)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	preface := make([]byte, len(http2.ClientPreface))
	if c.write(func(f *http2.Framer) error { return f.WriteSettings() }) != nil {
		return
	}
	if _, err := io.ReadFull(socket, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	// Streams that this connection acts on, and those above that it gets before it says so.
	good, above := 10+rand.IntN(40), 1+rand.IntN(5)
	if s.fault != "goaway" {
		good = 1 << 30
	}
	calls := map[uint32]string{}
	var streams int
	var last uint32
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = c.write(func(f *http2.Framer) error { return f.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = c.write(func(f *http2.Framer) error { return f.WritePing(true, frame.Data) })
			}
		case *http2.MetaHeadersFrame:
			streams++
			if streams > good {
				// Not looked at. Nobody waits long for others that may never come.
				if streams == good+1 {
					time.AfterFunc(hold, func() { c.leave(last) })
				}
				if streams == good+above {
					c.leave(last)
				}
				continue
			}
			last = frame.StreamID
			if s.fault == "refuse" && rand.IntN(2) == 0 {
				err = c.write(func(f *http2.Framer) error {
					return f.WriteRSTStream(frame.StreamID, http2.ErrCodeRefusedStream)
				})
				break
			}
			for _, field := range frame.RegularFields() {
				if field.Name == "x-call" {
					calls[frame.StreamID] = field.Value
				}
			}
			if frame.StreamEnded() {
				c.act(frame.StreamID, calls)
			}
		case *http2.DataFrame:
			if size := frame.Header().Length; size > 0 {
				err = c.write(func(f *http2.Framer) error { return f.WriteWindowUpdate(0, size) })
			}
			if frame.StreamEnded() {
				c.act(frame.StreamID, calls)
			}
		case *http2.RSTStreamFrame:
			delete(calls, frame.StreamID)
		}
		if err != nil {
			return
		}
	}
}

// act records a call, and answers it some time later.
func (c *connection) act(stream uint32, calls map[uint32]string) {
	id, has := calls[stream]
	if !has {
		return
	}
	delete(calls, stream)
	if _, err := fmt.Fprintln(c.server.record, id); err != nil {
		log.Fatal(err)
	}
	time.AfterFunc(rand.N(hold), func() { c.answer(stream) })
}

func (c *connection) answer(stream uint32) {
	c.write(func(f *http2.Framer) error {
		head := c.encode(":status", "200", "content-type", "application/grpc", "x-endpoint", c.server.name)
		err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head, EndHeaders: true})
		if err != nil {
			return err
		}
		if err := f.WriteData(stream, false, message); err != nil {
			return err
		}
		trailers := c.encode("grpc-status", "0")
		return f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: stream, BlockFragment: trailers, EndHeaders: true, EndStream: true,
		})
	})
}

// leave says that nothing above last was looked at. What is below is answered still; the client
// closes the connection when it has that.
func (c *connection) leave(last uint32) {
	c.left.Do(func() {
		c.write(func(f *http2.Framer) error { return f.WriteGoAway(last, http2.ErrCodeNo, nil) })
	})
}

func (c *connection) encode(fields ...string) []byte {
	c.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		c.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(c.block.Bytes())
}

func (c *connection) write(what func(*http2.Framer) error) error {
	c.lock.Lock()
	defer c.lock.Unlock()
	return what(c.framer)
}
