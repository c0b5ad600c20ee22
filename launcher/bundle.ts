/**
 * Makes one file of a program's own modules with esbuild, so that N ranks read one file and not many. Packages stay outside: Deno
 * resolves them as before. A bundle is kept by the content of what went into it, and found again without starting esbuild.
 */
import { FormatError, UnavailableError, UsageError } from "../src/core/errors.ts";
import { readText } from "./host.ts";

/** What to run instead of the script, and the flags that this needs. */
export interface Bundle {
  readonly script: string;
  readonly extra: readonly string[];
}

interface Manifest {
  readonly output: string;
  /** Hash of each module's text, by path. */
  readonly inputs: Readonly<Record<string, string>>;
}

const VERSION = "1";

/**
 * The bundle of `script`.
 *
 * @throws {FormatError} If a module cannot be read or parsed. @throws {UsageError} If the script is no local TypeScript or JavaScript
 * file. @throws {UnavailableError} If the cache cannot be written.
 */
export async function bundleScript(script: string, say: (line: string) => void): Promise<Bundle> {
  if (!/\.[cm]?[jt]sx?$/.test(script) || /^(https?|npm|jsr|data|node):/.test(script)) {
    throw new UsageError(
      `Cannot bundle ${JSON.stringify(script)}: it is no TypeScript or JavaScript file of this host`,
      {
        hint: "run it without --bundle",
      },
    );
  }
  const entry = Deno.realPathSync(script.startsWith("file:") ? new URL(script) : script);
  const folder = cacheFolder();
  try {
    Deno.mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new UnavailableError(`Cannot keep bundles in ${folder}`, {
      cause,
      hint: "set XDG_CACHE_HOME to a folder that you can write, or run without --bundle",
    });
  }
  const manifestPath = `${folder}/${await hash(`${VERSION} ${Deno.version.deno} ${entry}`)}.json`;
  const config = findConfig(entry);
  const extra = config === undefined ? [] : [`--config=${config}`];
  const kept = await readManifest(manifestPath);
  if (kept !== undefined) return { script: kept.output, extra };
  const begun = performance.now();
  const { code, inputs } = await build(entry);
  const hashes: Record<string, string> = {};
  for (const path of inputs) hashes[path] = await hash(Deno.readTextFileSync(path));
  const output = `${folder}/${await hash(code)}.mjs`;
  write(output, code);
  write(manifestPath, JSON.stringify({ output, inputs: hashes } satisfies Manifest));
  say(`bundled ${inputs.length} modules in ${Math.round(performance.now() - begun)} ms: ${output}`);
  return { script: output, extra };
}

async function build(entry: string): Promise<{ code: string; inputs: string[] }> {
  const esbuild = await import("esbuild");
  const inputs: string[] = [];
  try {
    const result = await esbuild.build({
      entryPoints: [entry],
      bundle: true,
      write: false,
      format: "esm",
      platform: "neutral",
      target: "esnext",
      sourcemap: "inline",
      logLevel: "silent",
      // Each rank's stack shall name the functions of the user.
      keepNames: true,
      plugins: [{
        name: "own modules only",
        setup(builder) {
          builder.onResolve({ filter: /.*/ }, (args) => {
            if (args.kind === "entry-point" || /^(\.{0,2}\/|file:)/.test(args.path)) {
              return {
                path: Deno.realPathSync(new URL(args.path, `file://${args.importer || "/"}`)),
                namespace: "file",
              };
            }
            return { path: args.path, external: true };
          });
          builder.onLoad({ filter: /\.[cm]?[jt]sx?$/, namespace: "file" }, (args) => {
            inputs.push(args.path);
            const loader = /\.[cm]?js$/.test(args.path)
              ? "js"
              : /\.tsx$/.test(args.path)
              ? "tsx"
              : /\.jsx$/.test(args.path)
              ? "jsx"
              : "ts";
            return { contents: ownLocation(Deno.readTextFileSync(args.path), args.path, args.path === entry), loader };
          });
        },
      }],
    });
    return { code: result.outputFiles[0]!.text, inputs };
  } catch (error) {
    const first = (error as { errors?: { text: string; location: { file: string; line: number } | null }[] }).errors
      ?.[0];
    const at = first?.location ? ` (${first.location.file}:${first.location.line})` : "";
    throw new FormatError(`Cannot bundle ${entry}: ${first?.text ?? String(error)}${at}`, {
      hint: "run without --bundle to see Deno's own message",
    });
  } finally {
    await esbuild.stop();
  }
}

/** A module that asks where it is shall hear where it was. */
function ownLocation(text: string, path: string, main: boolean): string {
  const url = new URL(`file://${path}`).href;
  return text
    .replace(/\bimport\.meta\.url\b/g, JSON.stringify(url))
    .replace(/\bimport\.meta\.filename\b/g, JSON.stringify(path))
    .replace(/\bimport\.meta\.dirname\b/g, JSON.stringify(path.slice(0, path.lastIndexOf("/"))))
    .replace(/\bimport\.meta\.main\b/g, String(main));
}

async function readManifest(path: string): Promise<Manifest | undefined> {
  const text = readText(path);
  if (text === undefined) return undefined;
  const manifest = JSON.parse(text) as Manifest;
  if (readText(manifest.output) === undefined) return undefined;
  for (const [input, expected] of Object.entries(manifest.inputs)) {
    const now = readText(input);
    if (now === undefined || await hash(now) !== expected) return undefined;
  }
  return manifest;
}

/** The deno.json that counts for the script; the bundle lies elsewhere, so it has to be named. */
function findConfig(entry: string): string | undefined {
  for (let folder = entry; folder.includes("/");) {
    folder = folder.slice(0, folder.lastIndexOf("/"));
    for (const name of ["deno.json", "deno.jsonc"]) {
      if (readText(`${folder}/${name}`) !== undefined) return `${folder}/${name}`;
    }
  }
  return undefined;
}

function cacheFolder(): string {
  const cache = Deno.env.get("XDG_CACHE_HOME") ?? `${Deno.env.get("HOME") ?? "/tmp"}/.cache`;
  return `${cache}/shardwise/bundles`;
}

/** Writes a file that others may be reading. */
function write(path: string, text: string): void {
  const draft = `${path}.${Deno.pid}`;
  Deno.writeTextFileSync(draft, text);
  Deno.renameSync(draft, path);
}

async function hash(text: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return [...digest.subarray(0, 16)].map((b) => b.toString(16).padStart(2, "0")).join("");
}
