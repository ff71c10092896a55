// Tries what an install script may try, and writes down what came of it.
import { readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";

const registry = process.env.npm_config_registry;
const { elsewhere, file } = await (await fetch(`${registry}-/targets`)).json();

const said = (error) => error.code ?? error.cause?.code ?? error.message;
const attempt = (act) => { try { act(); return "done"; } catch (error) { return said(error); } };
const direct = new Promise((resolve) => {
  const { port } = new URL(elsewhere);
  const socket = connect({ host: "127.0.0.1", port });
  socket.on("connect", () => resolve("connected")).on("error", (error) => resolve(said(error)));
});

writeFileSync("made.json", JSON.stringify({
  dependency: readFileSync(new URL("../scripted-dependency/value", import.meta.url), "utf8"),
  proxied: await fetch(elsewhere).then((answer) => answer.status, () => "refused"),
  direct: await direct,
  file: attempt(() => readFileSync(file)),
  secret: process.env.SECRET_OF_THE_HOST ?? null,
  user: process.getuid(),
  event: process.env.npm_lifecycle_event,
  beside: attempt(() => writeFileSync("/usr/bin/planted", "#!/bin/sh\n", { mode: 0o755 })),
  above: attempt(() => writeFileSync("../../../usr/planted", "planted")),
}));
