// node bundle.mjs APP ENTRY OUTPUT: bundles ENTRY, a program in the folder APP, into OUTPUT.
//
// In the image, APP is /app. A module that asks where it is must get the answer it would get
// unbundled, and so must a program that compares that with what it was started as.
import { build } from "esbuild";
import { readFile } from "node:fs/promises";
import { dirname, relative } from "node:path";
import { pathToFileURL } from "node:url";

const [app, entry, output] = process.argv.slice(2);
const place = (path) => `/app/${relative(app, path)}`;

const places = {
  name: "places",
  setup(build) {
    build.onLoad({ filter: /\.[cm]?js$/ }, async ({ path }) => {
      const file = JSON.stringify(place(path));
      const dir = JSON.stringify(dirname(place(path)));
      const url = JSON.stringify(pathToFileURL(place(path)).href);
      let text = (await readFile(path, "utf8")).replace(/^#!.*/, "");
      if (/\bimport\.meta\b/.test(text)) {
        text = text
          .replace(/\bimport\.meta\.url\b/g, url)
          .replace(/\bimport\.meta\.dirname\b/g, dir)
          .replace(/\bimport\.meta\.filename\b/g, file);
      } else if (/\b__(dir|file)name\b/.test(text) && !/\b(const|let|var)\s+__(dir|file)name\b/.test(text)) {
        const strict = /^\s*(["'])use strict\1;?/.exec(text)?.[0] ?? "";
        text = `${strict}var __filename=${file},__dirname=${dir};${text.slice(strict.length)}`;
      }
      return { contents: text, loader: "js" };
    });
  },
};

const started = place(entry);
await build({
  entryPoints: [entry],
  outfile: output,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node22",
  logLevel: "error",
  external: ["*.node"],
  plugins: [places],
  absWorkingDir: app,
  banner: {
    js: `import{createRequire as osvmRequire}from"node:module";const require=osvmRequire(${JSON.stringify(started)});process.argv[1]=${JSON.stringify(started)};`,
  },
});
