// What client and server share: the service, and the body of a message.
'use strict';

const path = require('path');
const grpc = require('@grpc/grpc-js');
const { loadSync } = require('@grpc/proto-loader');

const definition = loadSync(path.join(__dirname, 'peer.proto'), { keepCase: true, defaults: true });

exports.Peer = grpc.loadPackageDefinition(definition).streamvs.peers.Peer;
exports.MESSAGE = '40 % of naïve plans ✗';
exports.OPTIONS = { 'grpc.max_receive_message_length': 16 << 20 };
exports.body = (length) => Buffer.alloc(length, Buffer.from(Array.from({ length: 251 }, (_, i) => i)));
