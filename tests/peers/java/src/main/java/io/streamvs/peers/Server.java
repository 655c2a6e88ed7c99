package io.streamvs.peers;

import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;

/** A grpc-java server of peer.proto: {@code Server NAME ADDRESS}. */
final class Server extends PeerGrpc.PeerImplBase {
  private final String name;

  private Server(String name) {
    this.name = name;
  }

  @Override
  public void once(Ask ask, StreamObserver<Answer> answers) {
    ServerCallStreamObserver<Answer> call = (ServerCallStreamObserver<Answer>) answers;
    if (ask.getWait()) {
      call.setOnCancelHandler(Server::endedEarly);
    } else if (ask.getStatus() != 0) {
      Status status = Status.fromCodeValue(ask.getStatus()).withDescription(Text.MESSAGE);
      answers.onError(status.asRuntimeException());
    } else {
      if (ask.getCompress()) {
        call.setCompression("gzip");
      }
      answers.onNext(answer(ask.getBody().size(), ask.getAnswerBytes()));
      answers.onCompleted();
    }
  }

  @Override
  public StreamObserver<Ask> collect(StreamObserver<Answer> answers) {
    return new Asks(answers) {
      @Override
      public void onCompleted() {
        answers.onNext(answer(received, 0));
        super.onCompleted();
      }
    };
  }

  @Override
  public void expand(Ask ask, StreamObserver<Answer> answers) {
    for (int i = 0; i < ask.getAnswers(); i++) {
      answers.onNext(answer(ask.getBody().size(), ask.getAnswerBytes()));
    }
    answers.onCompleted();
  }

  @Override
  public StreamObserver<Ask> converse(StreamObserver<Answer> answers) {
    return new Asks(answers) {
      @Override
      public void onNext(Ask ask) {
        super.onNext(ask);
        wait |= ask.getWait();
        answers.onNext(answer(received, ask.getAnswerBytes()));
      }

      @Override
      public void onCompleted() {
        if (!wait) {
          super.onCompleted();
        }
      }
    };
  }

  private Answer answer(int received, int length) {
    return Answer.newBuilder()
        .setEndpoint(name)
        .setReceivedBytes(received)
        .setBody(Text.body(length))
        .build();
  }

  private static void endedEarly() {
    System.out.println("ended early");
  }

  /** The messages of a call, counted. */
  private static class Asks implements StreamObserver<Ask> {
    private final StreamObserver<Answer> answers;
    int received;
    boolean wait;

    Asks(StreamObserver<Answer> answers) {
      this.answers = answers;
      ((ServerCallStreamObserver<Answer>) answers).setOnCancelHandler(Server::endedEarly);
    }

    @Override
    public void onNext(Ask ask) {
      received += ask.getBody().size();
    }

    @Override
    public void onError(Throwable error) {}

    @Override
    public void onCompleted() {
      answers.onCompleted();
    }
  }

  /** Sends metadata back, in headers and in trailers. */
  private static final class Echo implements ServerInterceptor {
    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, A> call, Metadata sent, ServerCallHandler<Q, A> next) {
      return next.startCall(
          new SimpleForwardingServerCall<Q, A>(call) {
            @Override
            public void sendHeaders(Metadata headers) {
              copy(headers);
              super.sendHeaders(headers);
            }

            @Override
            public void close(Status status, Metadata trailers) {
              copy(trailers);
              super.close(status, trailers);
            }

            private void copy(Metadata to) {
              if (sent.containsKey(Text.TEXT)) {
                to.put(Text.TEXT, sent.get(Text.TEXT));
                to.put(Text.OCTETS, sent.get(Text.OCTETS));
              }
            }
          },
          sent);
    }
  }

  public static void main(String[] arguments) throws Exception {
    String[] address = arguments[1].split(":");
    NettyServerBuilder.forAddress(new InetSocketAddress(address[0], Integer.parseInt(address[1])))
        .maxInboundMessageSize(Text.MESSAGE_BYTES_MAX)
        .intercept(new Echo())
        .addService(new Server(arguments[0]))
        .build()
        .start();
    System.out.println("serving");
    Thread.currentThread().join();
  }
}
