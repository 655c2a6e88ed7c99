package io.streamvs.peers;

import io.grpc.Channel;
import io.grpc.ClientInterceptor;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.BlockingClientCall;
import io.grpc.stub.MetadataUtils;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;

/** A grpc-java client of peer.proto: {@code Client ADDRESS CASE...}. */
final class Client {
  private final PeerGrpc.PeerBlockingV2Stub peer;

  private Client(Channel channel) {
    this.peer = PeerGrpc.newBlockingV2Stub(channel);
  }

  /** Tries a case once and gives the endpoint's name, or null where a case cannot know it. */
  private String attempt(String name) throws Exception {
    switch (name) {
      case "once":
        return check(peer.once(ask(16, 16).build()), 16, 16);
      case "collect":
        return collect();
      case "expand":
        return expand();
      case "converse":
        return converse();
      case "cancel":
        return cancel();
      case "deadline":
        Status late = failure(peer.withDeadlineAfter(300, TimeUnit.MILLISECONDS), waiting());
        require(late.getCode() == Status.Code.DEADLINE_EXCEEDED, late);
        return null;
      case "large":
        return check(peer.once(ask(4 << 20, 4 << 20).build()), 4 << 20, 4 << 20);
      case "metadata":
        return metadata();
      case "status":
        Status status = failure(peer, Ask.newBuilder().setStatus(9).build());
        require(status.getCode() == Status.Code.FAILED_PRECONDITION, status);
        require(Text.MESSAGE.equals(status.getDescription()), status);
        return null;
      case "gzip":
        Ask ask = ask(4 << 20, 1 << 20).setCompress(true).build();
        return check(peer.withCompression("gzip").once(ask), 4 << 20, 1 << 20);
      default:
        throw new IllegalArgumentException("no such case");
    }
  }

  private String collect() throws Exception {
    BlockingClientCall<Ask, Answer> call = peer.collect();
    for (int i = 0; i < 10; i++) {
      call.write(ask(1000, 0).build());
    }
    call.halfClose();
    return check(call.read(), 10_000, 0);
  }

  private String expand() throws Exception {
    BlockingClientCall<?, Answer> call = peer.expand(ask(7, 1000).setAnswers(100).build());
    String endpoint = null;
    for (int i = 0; i < 100; i++) {
      endpoint = check(call.read(), 7, 1000);
    }
    require(call.read() == null, "more than 100 answers");
    return endpoint;
  }

  private String converse() throws Exception {
    BlockingClientCall<Ask, Answer> call = peer.converse();
    String endpoint = null;
    for (int turn = 1; turn <= 10; turn++) {
      call.write(ask(100, turn).build());
      endpoint = check(call.read(), 100 * turn, turn);
    }
    call.halfClose();
    require(call.read() == null, "more than 10 answers");
    return endpoint;
  }

  private String cancel() throws Exception {
    BlockingClientCall<Ask, Answer> call = peer.converse();
    call.write(ask(5, 5).setWait(true).build());
    String endpoint = check(call.read(), 5, 5);
    call.cancel("enough", null);
    try {
      call.read();
    } catch (StatusException error) {
      require(error.getStatus().getCode() == Status.Code.CANCELLED, error);
      return endpoint;
    }
    throw new IllegalStateException("not cancelled");
  }

  private String metadata() throws Exception {
    byte[] octets = new byte[256];
    for (int i = 0; i < octets.length; i++) {
      octets[i] = (byte) i;
    }
    Metadata sent = new Metadata();
    sent.put(Text.TEXT, "plain words");
    sent.put(Text.OCTETS, octets);
    AtomicReference<Metadata> headers = new AtomicReference<>();
    AtomicReference<Metadata> trailers = new AtomicReference<>();
    ClientInterceptor send = MetadataUtils.newAttachHeadersInterceptor(sent);
    ClientInterceptor capture = MetadataUtils.newCaptureMetadataInterceptor(headers, trailers);
    Answer answer = peer.withInterceptors(send, capture).once(Ask.getDefaultInstance());
    for (Metadata came : List.of(headers.get(), trailers.get())) {
      require("plain words".equals(came.get(Text.TEXT)), came);
      require(Arrays.equals(octets, came.get(Text.OCTETS)), came);
    }
    return answer.getEndpoint();
  }

  private static Status failure(PeerGrpc.PeerBlockingV2Stub peer, Ask ask) {
    try {
      peer.once(ask);
      return Status.OK;
    } catch (StatusException error) {
      return error.getStatus();
    }
  }

  private static Ask waiting() {
    return Ask.newBuilder().setWait(true).build();
  }

  private static Ask.Builder ask(int length, int answerLength) {
    return Ask.newBuilder().setBody(Text.body(length)).setAnswerBytes(answerLength);
  }

  private static String check(Answer answer, int received, int length) {
    require(answer.getReceivedBytes() == received, answer.getReceivedBytes() + " octets arrived");
    require(answer.getBody().equals(Text.body(length)), answer.getBody().size() + " octets came");
    return answer.getEndpoint();
  }

  private static void require(boolean condition, Object what) {
    if (!condition) {
      throw new IllegalStateException(String.valueOf(what));
    }
  }

  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel =
        NettyChannelBuilder.forTarget(arguments[0])
            .usePlaintext()
            .maxInboundMessageSize(Text.MESSAGE_BYTES_MAX)
            .build();
    Client client = new Client(channel);
    for (String name : List.of(arguments).subList(1, arguments.length)) {
      boolean spread = name.equals("spread");
      Callable<String> attempt = () -> client.attempt(spread ? "once" : name);
      ExecutorService pool = Executors.newFixedThreadPool(spread ? 30 : 1);
      List<Future<String>> attempts =
          pool.invokeAll(Collections.nCopies(spread ? 300 : 3, attempt));
      pool.shutdown();
      Map<String, Integer> endpoints = new TreeMap<>();
      String error = null;
      for (Future<String> one : attempts) {
        try {
          String endpoint = one.get();
          if (endpoint != null) {
            endpoints.merge(endpoint, 1, Integer::sum);
          }
        } catch (Exception failure) {
          error = String.valueOf(failure.getCause());
        }
      }
      System.out.println(line(name, endpoints, error));
    }
    channel.shutdownNow();
  }

  private static String line(String name, Map<String, Integer> endpoints, String error) {
    String counts =
        endpoints.entrySet().stream()
            .map(entry -> quoted(entry.getKey()) + ": " + entry.getValue())
            .collect(Collectors.joining(", "));
    return String.format(
        "{\"case\": %s, \"endpoints\": {%s}, \"error\": %s}",
        quoted(name), counts, error == null ? "null" : quoted(error));
  }

  private static String quoted(String text) {
    return '"' + text.replaceAll("[\\p{Cntrl}\"\\\\]", "'") + '"';
  }
}
