"""A grpcio client of peer.proto: client.py ADDRESS CASE..."""

import json
import queue
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import peer_pb2
import peer_pb2_grpc

MESSAGE = "40 % of naïve plans ✗"
METADATA = (("x-text", "plain words"), ("x-octets-bin", bytes(range(256))))
Ask = peer_pb2.Ask


def body(length):
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def check(answer, received, length):
    assert answer.received_bytes == received, f"{answer.received_bytes} of {received} octets arrived"
    assert answer.body == body(length), f"{len(answer.body)} octets came for {length}"
    return answer.endpoint


def fails(code, call):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"no {code}")


def once(peer):
    return check(peer.Once(Ask(body=body(16), answer_bytes=16)), 16, 16)


def collect(peer):
    return check(peer.Collect(Ask(body=body(1000)) for _ in range(10)), 10_000, 0)


def expand(peer):
    answers = list(peer.Expand(Ask(body=body(7), answer_bytes=1000, answers=100)))
    assert len(answers) == 100, len(answers)
    return {check(answer, 7, 1000) for answer in answers}.pop()


def converse(peer):
    asks = queue.SimpleQueue()
    call = peer.Converse(iter(asks.get, None))
    for turn in range(1, 11):
        asks.put(Ask(body=body(100), answer_bytes=turn))
        endpoint = check(next(call), 100 * turn, turn)
    asks.put(None)
    assert next(call, None) is None
    return endpoint


def cancel(peer):
    asks = queue.SimpleQueue()
    asks.put(Ask(body=body(5), answer_bytes=5, wait=True))
    call = peer.Converse(iter(asks.get, None))
    endpoint = check(next(call), 5, 5)
    call.cancel()
    fails(grpc.StatusCode.CANCELLED, lambda: next(call))
    asks.put(None)
    return endpoint


def deadline(peer):
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: peer.Once(Ask(wait=True), timeout=0.3))


def large(peer):
    size = 4 << 20
    return check(peer.Once(Ask(body=body(size), answer_bytes=size)), size, size)


def metadata(peer):
    answer, call = peer.Once.with_call(Ask(), metadata=METADATA)
    for where in (call.initial_metadata(), call.trailing_metadata()):
        assert set(METADATA) <= {(key, value) for key, value in where}, where
    return answer.endpoint


def status(peer):
    error = fails(grpc.StatusCode.FAILED_PRECONDITION, lambda: peer.Once(Ask(status=9)))
    assert error.details() == MESSAGE, error.details()


def gzip(peer):
    ask = Ask(body=body(4 << 20), answer_bytes=1 << 20, compress=True)
    return check(peer.Once(ask, compression=grpc.Compression.Gzip), 4 << 20, 1 << 20)


def spread(peer):
    with ThreadPoolExecutor(30) as pool:
        return list(pool.map(lambda _: once(peer), range(300)))


CASES = [once, collect, expand, converse, cancel, deadline, large, metadata, status, gzip, spread]


def main():
    options = [("grpc.max_receive_message_length", 16 << 20)]
    cases = {case.__name__: case for case in CASES}
    with grpc.insecure_channel(sys.argv[1], options=options) as channel:
        peer = peer_pb2_grpc.PeerStub(channel)
        for name in sys.argv[2:]:
            endpoints, error = Counter(), None
            try:
                if name == "spread":
                    endpoints.update(spread(peer))
                else:
                    endpoints.update(filter(None, [cases[name](peer) for _ in range(3)]))
            except Exception as failure:  # whatever it is, it belongs into the report
                error = repr(failure)
            print(json.dumps({"case": name, "endpoints": endpoints, "error": error}), flush=True)


main()
