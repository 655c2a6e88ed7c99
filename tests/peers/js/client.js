// A grpc-js client of peer.proto: client.js ADDRESS CASE...
'use strict';

const assert = require('assert');
const grpc = require('@grpc/grpc-js');
const { Peer, MESSAGE, OPTIONS, body } = require('./peer.js');

const [address, ...names] = process.argv.slice(2);
const credentials = grpc.credentials.createInsecure();
const GZIP = { 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip };

function check(answer, received, length) {
  assert.strictEqual(answer.received_bytes, received);
  assert(body(length).equals(answer.body), `${answer.body.length} octets came for ${length}`);
  return answer.endpoint;
}

// A call with one answer, as a promise.
function ask(peer, message, ...options) {
  return new Promise((resolve, reject) => {
    peer.Once(message, ...options, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// The next message of a call.
function next(call) {
  return new Promise((resolve, reject) => {
    call.once('data', resolve);
    call.once('error', reject);
  });
}

async function fails(codes, promise) {
  try {
    await promise;
  } catch (error) {
    assert.ok(codes.includes(error.code), error.message);
    return error;
  }
  throw new Error(`no status of ${codes}`);
}

const CASES = {
  async once(peer) {
    return check(await ask(peer, { body: body(16), answer_bytes: 16 }), 16, 16);
  },

  async collect(peer) {
    const answer = await new Promise((resolve, reject) => {
      const call = peer.Collect((error, answer) => (error ? reject(error) : resolve(answer)));
      for (let i = 0; i < 10; i++) call.write({ body: body(1000) });
      call.end();
    });
    return check(answer, 10000, 0);
  },

  async expand(peer) {
    const endpoints = [];
    for await (const answer of peer.Expand({ body: body(7), answer_bytes: 1000, answers: 100 })) {
      endpoints.push(check(answer, 7, 1000));
    }
    assert.strictEqual(endpoints.length, 100);
    return endpoints[0];
  },

  async converse(peer) {
    const call = peer.Converse();
    let endpoint;
    for (let turn = 1; turn <= 10; turn++) {
      call.write({ body: body(100), answer_bytes: turn });
      endpoint = check(await next(call), 100 * turn, turn);
    }
    call.end();
    await new Promise((resolve, reject) => {
      call.on('status', (status) => (status.code ? reject(new Error(status.details)) : resolve()));
      call.resume();
    });
    return endpoint;
  },

  async cancel(peer) {
    const call = peer.Converse();
    call.write({ body: body(5), answer_bytes: 5, wait: true });
    const endpoint = check(await next(call), 5, 5);
    const end = next(call);
    call.cancel();
    await fails([grpc.status.CANCELLED], end);
    return endpoint;
  },

  async deadline(peer) {
    const call = ask(peer, { wait: true }, { deadline: Date.now() + 300 });
    // The server knows the deadline too. Where its clock is first, it resets the stream, which
    // this client shows as a call that was cancelled.
    await fails([grpc.status.DEADLINE_EXCEEDED, grpc.status.CANCELLED], call);
  },

  async large(peer) {
    const size = 4 << 20;
    return check(await ask(peer, { body: body(size), answer_bytes: size }), size, size);
  },

  async metadata(peer) {
    const octets = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    const sent = new grpc.Metadata();
    sent.set('x-text', 'plain words');
    sent.set('x-octets-bin', octets);
    const came = [];
    const answer = await new Promise((resolve, reject) => {
      let answer;
      const call = peer.Once({}, sent, (error, value) => (error ? reject(error) : (answer = value)));
      call.on('metadata', (metadata) => came.push(metadata));
      call.on('status', (status) => {
        came.push(status.metadata);
        resolve(answer);
      });
    });
    assert.strictEqual(came.length, 2);
    for (const metadata of came) {
      assert.deepStrictEqual(metadata.get('x-text'), ['plain words']);
      assert.deepStrictEqual(metadata.get('x-octets-bin'), [octets]);
    }
    return answer.endpoint;
  },

  async status(peer) {
    const error = await fails([grpc.status.FAILED_PRECONDITION], ask(peer, { status: 9 }));
    assert.strictEqual(error.details, MESSAGE);
  },

  async gzip() {
    const message = { body: body(4 << 20), answer_bytes: 1 << 20, compress: true };
    return check(await ask(compressing, message), 4 << 20, 1 << 20);
  },
};

async function spread(peer) {
  const endpoints = [];
  const one = async () => {
    for (let i = 0; i < 10; i++) endpoints.push(await CASES.once(peer));
  };
  await Promise.all(Array.from({ length: 30 }, one));
  return endpoints;
}

const peer = new Peer(address, credentials, OPTIONS);
const compressing = new Peer(address, credentials, { ...OPTIONS, ...GZIP });

async function main() {
  for (const name of names) {
    const endpoints = {};
    const count = (endpoint) => (endpoints[endpoint] = (endpoints[endpoint] || 0) + 1);
    let failure = null;
    try {
      if (name === 'spread') {
        (await spread(peer)).forEach(count);
      } else {
        for (let i = 0; i < 3; i++) {
          const endpoint = await CASES[name](peer);
          if (endpoint) count(endpoint);
        }
      }
    } catch (error) {
      failure = String(error);
    }
    console.log(JSON.stringify({ case: name, endpoints, error: failure }));
  }
  peer.close();
  compressing.close();
}

main();
