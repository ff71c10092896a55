// Loaded into every Node program of a guest that will be copied (NODE_OPTIONS=--require).
//
// Node keeps random state of its own, which every copy of a running program would share:
//
// - Math.random: V8 has no way to seed it again. Here it draws from the kernel from the start, in
//   batches, and forgets its batch when the guest is copied.
// - crypto.randomUUID and crypto.randomInt keep bytes for later. Here they keep none.
// - Pools that packages keep (uuid and nanoid have one) are filled in place by randomFillSync or
//   getRandomValues. Every pool filled before the copy is filled anew after it.
// - OpenSSL's generator: seeds itself again when it sees the clock jump, and osvm sees to it that the
//   clock of every copy does.
"use strict";

const crypto = require("node:crypto");
const net = require("node:net");
const { syncBuiltinESMExports } = require("node:module");

const SOCKET = "/run/osvm/wake.sock";
// Doubles drawn at once.
const BATCH = 128;
// A buffer at least this long, in bytes, that is filled in place is taken for a pool.
const POOL = 128;
// Pools remembered at most.
const MAX_POOLS = 1024;

const fillSync = crypto.randomFillSync;
const bytesSync = crypto.randomBytes;
const uuid = crypto.randomUUID;
const web = Object.getPrototypeOf(crypto.webcrypto);
const values = web.getRandomValues;

// Math.random: 53 bits, as many as fit a double below 1.
const batch = new Uint32Array(2 * BATCH);
let next = batch.length;
Math.random = function random() {
  if (next >= batch.length) {
    fillSync(batch);
    next = 0;
  }
  const high = batch[next] >>> 5;
  const low = batch[next + 1] >>> 6;
  next += 2;
  return (high * 0x4000000 + low) / 0x20000000000000;
};

const define = (object, name, value) =>
  Object.defineProperty(object, name, { value, writable: true, configurable: true, enumerable: true });

define(crypto, "randomUUID", function randomUUID(options) {
  return uuid({ ...options, disableEntropyCache: true });
});
define(web, "randomUUID", function randomUUID() {
  return uuid({ disableEntropyCache: true });
});

// crypto.randomInt without its cache: the largest whole number of ranges that fits 48 bits.
const randomInt = crypto.randomInt;
define(crypto, "randomInt", function (min, max, callback) {
  if (max === undefined || typeof max === "function") {
    callback = max;
    max = min;
    min = 0;
  }
  const range = max - min;
  const plain = Number.isSafeInteger(min) && Number.isSafeInteger(max) && range > 0 && range <= 2 ** 48 - 1;
  if (!plain || (callback !== undefined && typeof callback !== "function")) {
    // Throws what Node throws.
    return randomInt(min, max, callback);
  }
  const limit = 2 ** 48 - ((2 ** 48) % range);
  let drawn;
  do {
    drawn = bytesSync(6).readUIntBE(0, 6);
  } while (drawn >= limit);
  const value = min + (drawn % range);
  if (callback === undefined) return value;
  process.nextTick(callback, undefined, value);
});

// Pools, and how each was filled.
let pools = [];
function remember(buffer, offset, size) {
  if (pools === null || !buffer || !(buffer.byteLength >= POOL)) return;
  const known = pools.some((pool) => pool.buffer.deref() === buffer && pool.offset === offset);
  if (!known && pools.length < MAX_POOLS) pools.push({ buffer: new WeakRef(buffer), offset, size });
}
define(crypto, "randomFillSync", function randomFillSync(buffer, offset, size) {
  const filled = fillSync(buffer, offset, size);
  remember(buffer, offset, size);
  return filled;
});
define(web, "getRandomValues", function getRandomValues(array) {
  const filled = values.call(this, array);
  remember(array);
  return filled;
});
syncBuiltinESMExports();

function wake() {
  next = batch.length;
  for (const { buffer, offset, size } of pools ?? []) {
    const pool = buffer.deref();
    if (pool !== undefined) fillSync(pool, offset, size);
  }
  // Nothing is copied after a copy.
  pools = null;
}

const socket = net.connect(SOCKET);
socket.on("error", () => {});
socket.on("data", () => {
  wake();
  socket.write("k");
});
// A program may end while it is connected.
socket.unref();
