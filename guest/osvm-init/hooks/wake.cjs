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
//
// It also prepares the program for being copied. A copy under translation begins with no code
// translated, so V8 is told to compile all it loads at once and to keep it: then a copy has no need
// of V8's compiler, whose code would have to be translated first. Baseline code, which is made for
// single functions, is one more thing to translate, and is not made.
"use strict";

const v8 = require("node:v8");
for (const flag of ["--no-lazy", "--no-flush-bytecode", "--no-sparkplug"]) v8.setFlagsFromString(flag);
// While a program starts, optimising it costs more time than it saves. One that was told how to
// optimise is left alone.
const told = /jitless|turbo|maglev|-opt\b/.test([...process.execArgv, process.env.NODE_OPTIONS].join(" "));
if (!told) v8.setFlagsFromString("--no-opt");

const crypto = require("node:crypto");
const net = require("node:net");
const { syncBuiltinESMExports } = require("node:module");

// What PID 1 says. It is told the same when it is done.
const WAKE = 0x77;
const REHEARSE = 0x72;
const EXERCISE = 0x78;
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

// With `last`, nothing will be copied any more.
function wake(last) {
  next = batch.length;
  for (const { buffer, offset, size } of pools ?? []) {
    const pool = buffer.deref();
    if (pool !== undefined) fillSync(pool, offset, size);
  }
  if (last) pools = null;
  else if (!told) v8.setFlagsFromString("--opt");
}

// Runs V8's compiler over a text it has not seen, with what code is usually made of: a server that
// makes functions of text in its first request would else wait until the compiler is translated.
let exercised = 0;
function exercise() {
  exercised += 1;
  const text = `
    "use strict";
    const shape = { number: ${exercised}, list: [1, 2, 3], ["key" + input]: undefined, ...rest };
    class Box { #value; constructor(value) { this.#value = value; } get value() { return this.#value; } }
    const issues = [];
    function check(value, { kind = "string", least = 0 } = {}) {
      if (typeof value !== kind) { issues.push({ code: "type", path: [value], message: \`no \${kind}\` }); return false; }
      return value.length >= least && /^[a-z ]+$/i.test(value) || value === null;
    }
    async function later(value) { try { return await value; } catch (error) { throw error; } finally { issues.length = 0; } }
    function* each(values) { for (const value of values) yield value; }
    for (const key in shape) { if (key in shape) check(key); }
    for (const value of each(shape.list)) { switch (value) { case 1: continue; default: check(String(value)); } }
    const made = shape.list.map((value, index) => ({ value, index })).filter(Boolean);
    return [later(new Box(input)), JSON.stringify({ ...shape, made }), input?.length ?? issues, check];
  `;
  try {
    new Function("input", "rest", text)("word", { a: 1 })[0].catch(() => {});
  } catch {
    // A program that forbids to make code of text does not need it either.
  }
}

// Dates as people write them need tables and patterns that are loaded at the first one: a third of a
// second under translation.
let dates = false;
function writeDates() {
  if (dates) return;
  dates = true;
  const date = new Date(0);
  date.toLocaleString();
  date.toLocaleDateString();
  date.toLocaleTimeString();
}

const socket = net.connect(SOCKET);
socket.on("error", () => {});
socket.on("data", (words) => {
  for (const word of words) {
    if (word === WAKE || word === REHEARSE) wake(word === WAKE);
    if (word === REHEARSE) writeDates();
    if (word === EXERCISE || word === REHEARSE) exercise();
  }
  socket.write(words);
});
// A program may end while it is connected.
socket.unref();
