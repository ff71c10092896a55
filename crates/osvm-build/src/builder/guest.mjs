// Runs install scripts of npm packages in a builder microVM, and tells what they have changed.
//
// stdin:  one line, {"method":"run","params":{"app":"/app","tools":"/…","scripts":[…]}}
// stdout: one line for each thing that is told, {"method":…,"params":{…}}
//
// Scripts run as the user that runs this, so nothing that is told here is more than a claim: the host
// takes it as such.
import { spawn } from "node:child_process";
import { closeSync, lstatSync, openSync, readFileSync, readSync, readdirSync, readlinkSync, rmSync, writeSync } from "node:fs";
import { delimiter, dirname, join, relative } from "node:path";
import { createInterface } from "node:readline";

// Bytes of a file in one line, and of what a script said last.
const CHUNK = 768 * 1024;
const LAST_WORDS = 4096;
// Milliseconds in which the pipes of a script that has ended are read to their end.
const LINGER = 1000;

function tell(method, params) {
  const line = Buffer.from(`${JSON.stringify({ jsonrpc: "2.0", method, params })}\n`);
  for (let at = 0; at < line.length; ) at += writeSync(1, line, at);
}

// Everything below `app` by its path, with what changes when it is changed.
function look(app) {
  const found = new Map();
  const open = [app];
  while (open.length > 0) {
    const dir = open.pop();
    for (const name of readdirSync(dir)) {
      const path = join(dir, name);
      const stat = lstatSync(path, { bigint: true });
      const folder = stat.isDirectory();
      if (folder) open.push(path);
      found.set(path, { stat, mark: folder ? "folder" : `${stat.ctimeNs} ${stat.size} ${stat.mode}` });
    }
  }
  return found;
}

function tellChanges(app, before) {
  const after = look(app);
  for (const path of before.keys()) {
    const whole = before.has(dirname(path)) && !after.has(dirname(path));
    if (!after.has(path) && !whole) tell("gone", { path: relative(app, path) });
  }
  for (const [full, { stat, mark }] of after) {
    const path = relative(app, full);
    if (before.get(full)?.mark === mark) continue;
    if (stat.isDirectory()) tell("folder", { path });
    else if (stat.isSymbolicLink()) tell("link", { path, target: readlinkSync(full) });
    else if (stat.isFile()) tellFile(full, path, (stat.mode & 0o111n) !== 0n);
  }
}

function tellFile(full, path, executable) {
  const file = openSync(full);
  const buffer = Buffer.alloc(CHUNK);
  tell("file", { path, executable });
  for (let read; (read = readSync(file, buffer, 0, CHUNK, null)) > 0; ) {
    tell("data", { base64: buffer.toString("base64", 0, read) });
  }
  closeSync(file);
}

// The variables that npm gives scripts.
function environment({ dir, event, command }, { app, tools }) {
  const json = join(dir, "package.json");
  const { name, version, config } = JSON.parse(readFileSync(json, "utf8"));
  const bins = [];
  for (let at = dir; at.startsWith(app); at = dirname(at)) bins.push(join(at, "node_modules/.bin"));
  const npm = join(tools, "node_modules/npm");
  const gyp = join(npm, "node_modules/node-gyp/bin/node-gyp.js");
  const env = {
    ...process.env,
    INIT_CWD: app,
    PATH: [...bins, join(npm, "node_modules/@npmcli/run-script/lib/node-gyp-bin"),
      join(tools, "node_modules/.bin"), process.env.PATH].join(delimiter),
    npm_command: "rebuild",
    npm_config_global: "",
    npm_config_node_gyp: gyp,
    npm_execpath: join(npm, "bin/npm-cli.js"),
    npm_lifecycle_event: event,
    npm_lifecycle_script: command,
    npm_node_execpath: process.execPath,
    npm_package_json: json,
    npm_package_name: name ?? "",
    npm_package_version: version ?? "",
  };
  for (const [key, value] of Object.entries(config ?? {})) {
    if (typeof value !== "object") env[`npm_package_config_${key}`] = String(value);
  }
  return env;
}

function run(script, params) {
  return new Promise((resolve) => {
    let said = Buffer.alloc(0);
    let ended;
    const child = spawn("/bin/sh", ["-c", script.command], {
      cwd: script.dir,
      env: environment(script, params),
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    const over = () => resolve({ ...ended, said: said.toString().trim() });
    const hear = (bytes) => { said = Buffer.concat([said, bytes]).subarray(-LAST_WORDS); };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.on("error", (error) => { ended = { code: null, signal: null }; hear(Buffer.from(String(error))); over(); });
    child.on("exit", (code, signal) => {
      ended = { code, signal };
      // What it left behind goes with it.
      try { process.kill(-child.pid, "SIGKILL"); } catch {}
      setTimeout(over, LINGER).unref();
    });
    child.on("close", () => { ended ??= { code: null, signal: null }; over(); });
  });
}

async function main(params) {
  const before = look(params.app);
  const left = new Set();
  for (const [number, script] of params.scripts.entries()) {
    script.dir = join(params.app, script.dir);
    if (left.has(script.dir)) continue;
    tell("begins", { number });
    const { code, signal, said } = await run(script, params);
    tell("ends", { number, code, signal, said });
    if (code === 0) continue;
    if (!script.optional) return;
    rmSync(script.dir, { recursive: true, force: true });
    left.add(script.dir);
  }
  tellChanges(params.app, before);
  tell("done", {});
}

createInterface({ input: process.stdin }).once("line", (line) => {
  main(JSON.parse(line).params).catch((error) => tell("failed", { reason: String(error) }));
});
