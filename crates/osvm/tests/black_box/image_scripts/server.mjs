// An MCP server with one tool, which says what the install scripts of its packages have written.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const made = readFileSync(new URL("made.json", import.meta.url), "utf8");
const results = {
  initialize: { protocolVersion: "2025-06-18", capabilities: { tools: {} }, serverInfo: { name: "scripted", version: "1.0.0" } },
  "tools/list": { tools: [{ name: "made", inputSchema: { type: "object" } }] },
  "tools/call": { content: [{ type: "text", text: made }] },
  ping: {},
};

createInterface({ input: process.stdin }).on("line", (line) => {
  const { id, method } = JSON.parse(line);
  if (id === undefined) return;
  const result = results[method];
  const error = { code: -32601, message: "no such method" };
  console.log(JSON.stringify({ jsonrpc: "2.0", id, ...(result ? { result } : { error }) }));
});
