package io.streamvs.peers;

import com.google.protobuf.ByteString;
import io.grpc.Metadata;

/** What client and server share. */
final class Text {
  static final String MESSAGE = "40 % of naïve plans ✗";
  static final int MESSAGE_BYTES_MAX = 16 << 20;
  static final Metadata.Key<String> TEXT =
      Metadata.Key.of("x-text", Metadata.ASCII_STRING_MARSHALLER);
  static final Metadata.Key<byte[]> OCTETS =
      Metadata.Key.of("x-octets-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private Text() {}

  static ByteString body(int length) {
    byte[] octets = new byte[length];
    for (int i = 0; i < length; i++) {
      octets[i] = (byte) (i % 251);
    }
    return ByteString.copyFrom(octets);
  }
}
