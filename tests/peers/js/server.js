// A grpc-js server of peer.proto: server.js NAME ADDRESS. The library does not compress answers.
'use strict';

const grpc = require('@grpc/grpc-js');
const { Peer, MESSAGE, OPTIONS, body } = require('./peer.js');

const [name, address] = process.argv.slice(2);

function begin(call) {
  const echo = new grpc.Metadata();
  for (const key of ['x-text', 'x-octets-bin']) {
    for (const value of call.metadata.get(key)) echo.add(key, value);
  }
  call.sendMetadata(echo);
  return echo;
}

function answer(received, length) {
  return { endpoint: name, received_bytes: received, body: body(length) };
}

function endedEarly() {
  console.log('ended early');
}

const server = new grpc.Server(OPTIONS);
server.addService(Peer.service, {
  Once(call, callback) {
    const ask = call.request;
    const trailers = begin(call);
    if (ask.wait) {
      call.on('cancelled', endedEarly);
    } else if (ask.status) {
      callback({ code: ask.status, details: MESSAGE });
    } else {
      callback(null, answer(ask.body.length, ask.answer_bytes), trailers);
    }
  },

  Collect(call, callback) {
    const trailers = begin(call);
    let received = 0;
    call.on('data', (ask) => (received += ask.body.length));
    call.on('end', () => callback(null, answer(received, 0), trailers));
  },

  Expand(call) {
    begin(call);
    const ask = call.request;
    for (let i = 0; i < ask.answers; i++) call.write(answer(ask.body.length, ask.answer_bytes));
    call.end();
  },

  Converse(call) {
    begin(call);
    let received = 0;
    let wait = false;
    call.on('data', (ask) => {
      received += ask.body.length;
      call.write(answer(received, ask.answer_bytes));
      if (ask.wait && !wait) call.on('cancelled', endedEarly);
      wait ||= ask.wait;
    });
    call.on('end', () => wait || call.end());
  },
});
server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
  console.log('serving');
});
