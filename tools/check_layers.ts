/**
 * Checks that rooms import only downward (layers.ts), over all modules of src, cli and launcher and mod.ts.
 *
 * @example
 * deno task layers
 */
import { dirname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { type Edge, offence } from "./layers.ts";

/** The part of `deno info --json` that is used. */
interface Info {
  readonly modules: readonly {
    readonly specifier: string;
    readonly error?: string;
    readonly dependencies?: readonly {
      readonly specifier: string;
      readonly code?: { readonly specifier?: string };
      readonly type?: { readonly specifier?: string };
    }[];
  }[];
}

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** All TypeScript files under `folder` but tests, relative to the root. */
function filesUnder(folder: string): string[] {
  let entries: Deno.DirEntry[];
  try {
    entries = [...Deno.readDirSync(join(ROOT, folder))];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
  return entries.flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) return filesUnder(path);
    return path.endsWith(".ts") && !path.endsWith("_test.ts") ? [path] : [];
  });
}

/** Every import between files of the repository. One call of `deno info` sees them all, through a module that imports them. */
async function edges(files: readonly string[]): Promise<Edge[]> {
  const entry = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    const imports = files.map((path) => `import ${JSON.stringify(pathToFileURL(join(ROOT, path)).href)};\n`);
    await Deno.writeTextFile(entry, imports.join(""));
    const command = new Deno.Command(Deno.execPath(), {
      args: ["info", "--json", "--no-lock", "--config", join(ROOT, "deno.json"), entry],
      cwd: ROOT,
      stderr: "inherit",
    });
    const { success, stdout } = await command.output();
    if (!success) throw new Error("Cannot check the layers: deno info failed");
    return read(JSON.parse(new TextDecoder().decode(stdout)));
  } finally {
    await Deno.remove(entry);
  }
}

function read(info: Info): Edge[] {
  const local = (url: string | undefined) => {
    if (!url?.startsWith("file:")) return undefined;
    const path = relative(ROOT, fileURLToPath(url)).replaceAll("\\", "/");
    return path.startsWith("..") ? undefined : path;
  };
  return info.modules.flatMap(({ specifier, error, dependencies = [] }) => {
    if (error) throw new Error(`Cannot check the layers: ${specifier}: ${error}`);
    const from = local(specifier);
    if (from === undefined) return [];
    const targets = dependencies.flatMap((d) => [local(d.code?.specifier), local(d.type?.specifier)]);
    return [...new Set(targets)].flatMap((to) => (to === undefined ? [] : [{ from, to }]));
  });
}

if (import.meta.main) {
  const root = [...Deno.readDirSync(ROOT)].some((e) => e.name === "mod.ts") ? ["mod.ts"] : [];
  const files = [...root, ...["src", "cli", "launcher"].flatMap(filesUnder)].toSorted();
  const found = (await edges(files)).flatMap((edge) => {
    const why = offence(edge);
    return why === undefined ? [] : [`${edge.from} → ${edge.to}: ${why}`];
  });
  // deno-lint-ignore no-console
  for (const line of found.toSorted()) console.error(line);
  // deno-lint-ignore no-console
  console.log(
    found.length === 0 ? `${files.length} files import downward only` : `${found.length} imports break the order`,
  );
  if (found.length > 0) Deno.exit(1);
}
