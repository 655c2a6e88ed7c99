"""A grpcio server of peer.proto: server.py NAME ADDRESS."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import peer_pb2
import peer_pb2_grpc

MESSAGE = "40 % of naïve plans ✗"


class Ending:
    """Tells once that a call which was asked to wait is over, even if grpcio asks for no more of it."""

    def __init__(self, context):
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.waits = False
        self.told = False
        if not context.add_callback(self.end):
            self.end()

    def end(self):
        self.over.set()
        self.tell()

    def expect(self):
        self.waits = True
        self.tell()

    def tell(self):
        with self.lock:
            if self.waits and self.over.is_set() and not self.told:
                self.told = True
                print("ended early", flush=True)


class Peer(peer_pb2_grpc.PeerServicer):
    def __init__(self, name):
        self.name = name

    def Once(self, ask, context):
        if ask.compress:
            context.set_compression(grpc.Compression.Gzip)
        self.begin(context)
        if ask.wait:
            ending = Ending(context)
            ending.expect()
            ending.over.wait(30)
            return peer_pb2.Answer()
        if ask.status:
            code = next(code for code in grpc.StatusCode if code.value[0] == ask.status)
            context.abort(code, MESSAGE)
        return self.answer(len(ask.body), ask.answer_bytes)

    def Collect(self, asks, context):
        self.begin(context)
        return self.answer(sum(len(ask.body) for ask in asks), 0)

    def Expand(self, ask, context):
        self.begin(context)
        for _ in range(ask.answers):
            yield self.answer(len(ask.body), ask.answer_bytes)

    def Converse(self, asks, context):
        self.begin(context)
        ending = Ending(context)
        received = 0
        for ask in asks:
            received += len(ask.body)
            if ask.wait:
                ending.expect()
            yield self.answer(received, ask.answer_bytes)
            if ask.wait:
                ending.over.wait(30)

    def begin(self, context):
        echo = [pair for pair in context.invocation_metadata() if pair[0] in ("x-text", "x-octets-bin")]
        context.send_initial_metadata(echo)
        context.set_trailing_metadata(echo)

    def answer(self, received, length):
        body = (bytes(range(251)) * (length // 251 + 1))[:length]
        return peer_pb2.Answer(endpoint=self.name, received_bytes=received, body=body)


def main():
    name, address = sys.argv[1:]
    options = [("grpc.max_receive_message_length", 16 << 20)]
    server = grpc.server(ThreadPoolExecutor(max_workers=64), options=options)
    peer_pb2_grpc.add_PeerServicer_to_server(Peer(name), server)
    server.add_insecure_port(address)
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


main()
