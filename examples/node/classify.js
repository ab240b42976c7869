// Asks a branchynet edge node from Node.js.
//
//     npm install
//     node classify.js [--edge 127.0.0.1:8001] [--images FILE] [--count 6] [--deadline-ms 10000]
//         [--accuracy-target 0.9]    the cheapest thresholds with this accuracy on the artifact's calibration split
//
// FILE holds images: IDX, as MNIST has them, or raw uint8 pixels [count, channels, height, width]; either may be
// gzipped. Without it, the images that come with the package are sent:
//
//     lenet-fashion at 127.0.0.1:8001
//     image 0: 9 Ankle boot, exit 0, edge, 0 bytes up
//     image 1: 2 Pullover, exit 0, edge, 0 bytes up
//     image 2: 1 Trouser, exit 0, edge, 0 bytes up
//     image 3: 1 Trouser, exit 0, edge, 0 bytes up
//     image 4: 6 Shirt, exit 1, cloud, 4534 bytes up
//     image 5: 1 Trouser, exit 0, edge, 0 bytes up
//
// A call that fails is printed with its gRPC status, and the exit code is 1.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const zlib = require('node:zlib');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const ROOT = path.join(__dirname, '..', '..');
const PROTO = path.join(ROOT, 'protos', 'split_inference.proto');
const SAMPLE = path.join(ROOT, 'branchynet', 'sample', 'fashion-mnist-test-1000-images.idx.gz');
const IDX_IMAGES = 0x00000803; // uint8, three sides
const IDX_HEADER_BYTES = 16;
const GZIP = 0x1f8b;

// The first *count* images of *file* as a Tensor, if they have the *shape* [channels, height, width].
function readImages(file, shape, count) {
  let bytes = fs.readFileSync(file);
  if (bytes.length > 2 && bytes.readUInt16BE(0) === GZIP) bytes = zlib.gunzipSync(bytes);
  if (bytes.length >= IDX_HEADER_BYTES && bytes.readUInt32BE(0) === IDX_IMAGES) {
    const sides = [1, bytes.readUInt32BE(8), bytes.readUInt32BE(12)];
    if (String(sides) !== String(shape)) throw new Error(`${file} holds images of ${sides}, the edge takes ${shape}`);
    bytes = bytes.subarray(IDX_HEADER_BYTES);
  }
  const size = shape.reduce((product, side) => product * side, 1);
  const held = Math.floor(bytes.length / size);
  if (held < count) throw new Error(`${file} holds ${held} images, not ${count}`);
  return { dtype: 'DTYPE_UINT8', shape: [count, ...shape], data: bytes.subarray(0, count * size) };
}

function positive(values, name) {
  const number = Number(values[name]);
  if (Number.isSafeInteger(number) && number > 0) return number;
  throw new Error(`--${name} is ${values[name]}, it must be a whole number above 0`);
}

function call(client, method, request, deadline) {
  return new Promise((resolve, reject) => {
    client[method](request, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

async function main() {
  const { values } = parseArgs({
    options: {
      edge: { type: 'string', default: '127.0.0.1:8001' },
      images: { type: 'string', default: SAMPLE },
      count: { type: 'string', default: '6' },
      'deadline-ms': { type: 'string', default: '10000' },
      'accuracy-target': { type: 'string' },
    },
  });
  const count = positive(values, 'count');
  const deadline = Date.now() + positive(values, 'deadline-ms'); // for both calls together
  const definition = protoLoader.loadSync(PROTO, { keepCase: true, longs: Number, enums: String, defaults: true });
  const { Edge } = grpc.loadPackageDefinition(definition).branchynet.v1;
  // A proxy for the web (http_proxy) does not know the nodes, and gRPC would ask it.
  const edge = new Edge(values.edge, grpc.credentials.createInsecure(), { 'grpc.enable_http_proxy': 0 });
  try {
    const served = await call(edge, 'Describe', {}, deadline);
    const images = readImages(values.images, served.input_shape, count);
    const target = values['accuracy-target'];
    const request = target === undefined ? { images } : { images, accuracy_target: Number(target) };
    const { answers } = await call(edge, 'Classify', request, deadline);
    console.log(`${served.model} at ${values.edge}`);
    answers.forEach((answer, index) => {
      const where = answer.place.replace('PLACE_', '').toLowerCase();
      console.log(
        `image ${index}: ${answer.label} ${served.labels[answer.label]}, ` +
          `exit ${answer.exit}, ${where}, ${answer.uplink_bytes} bytes up`,
      );
    });
  } finally {
    edge.close();
  }
}

main().catch((error) => {
  const status = grpc.status[error.code];
  console.error(status ? `${status}: ${error.details}` : error.message);
  process.exitCode = 1;
});
