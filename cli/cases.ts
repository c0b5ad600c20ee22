/** The cases of a folder: `cases.json` and `generate.json`, checked and with paths resolved. */
import { basename, dirname, join } from "node:path";
import { FormatError } from "../src/core/errors.ts";
import { isFile } from "../src/core/paths.ts";
import { graphsBeside, ModelFolder } from "../src/generate/model_folder.ts";
import type { VerifyCase } from "./job.ts";

/** A case that is not run, and why. */
export interface SkippedCase {
  readonly name: string;
  readonly reason: string;
}

/** What a folder asks for. */
export interface FolderCases {
  readonly cases: readonly VerifyCase[];
  readonly skipped: readonly SkippedCase[];
}

/** How deep folders of folders are searched. */
const DEPTH = 3;

/** Whether `folder` is one with cases, or one of such folders. */
export function hasCases(folder: string): boolean {
  try {
    return caseFolders(folder, DEPTH).length > 0;
  } catch {
    return false;
  }
}

/**
 * The cases of `folders`, or of the folders in them that have some. A case is called after its folder, as much of the path
 * as tells it from others, after its model where that is not `model.onnx`, and then as the folder calls it.
 *
 * @throws {FormatError} If there are none, or a file is malformed or names one that does not exist.
 */
export function readCases(folders: readonly string[]): FolderCases {
  const found = folders.flatMap((folder) => {
    const inside = caseFolders(folder, DEPTH);
    if (inside.length > 0) return inside;
    throw new FormatError(`Cannot verify ${folder}: neither it nor a folder in it has a cases.json`, {
      hint: "shardwise verify --help explains the format; --against unsharded needs none",
    });
  });
  const once = [...new Map(found.map((folder) => [Deno.realPathSync(folder), folder])).entries()];
  const labels = shortest(once.map(([real]) => real));
  const parts = once.map(([, folder], i) => readFolder(folder, labels[i]!));
  return { cases: parts.flatMap((p) => p.cases), skipped: parts.flatMap((p) => p.skipped) };
}

/** The ends of paths that tell them apart. */
function shortest(paths: readonly string[]): string[] {
  const ends = (path: string, parts: number) => path.split("/").slice(-parts).join("/");
  return paths.map((path) => {
    let parts = 1;
    while (parts < path.split("/").length && paths.some((p) => p !== path && ends(p, parts) === ends(path, parts))) {
      parts++;
    }
    return ends(path, parts);
  });
}

function caseFolders(folder: string, depth: number): string[] {
  let entries: Deno.DirEntry[];
  try {
    entries = [...Deno.readDirSync(folder)];
  } catch (cause) {
    throw new FormatError(`Cannot verify ${folder}: it is no folder that can be read`, {
      hint: "name a folder with a cases.json; --against unsharded needs none, and takes a model's file too",
      cause,
    });
  }
  if (entries.some(({ name, isFile }) => isFile && name === "cases.json")) return [folder];
  if (depth === 0) return [];
  const names = entries.filter(({ isDirectory }) => isDirectory).map(({ name }) => name).sort();
  return names.flatMap((name) => caseFolders(join(folder, name), depth - 1));
}

function readFolder(folder: string, label: string): FolderCases {
  const file = join(folder, "cases.json");
  const list = readJson(file);
  if (!Array.isArray(list)) throw new FormatError(`Cannot read ${file}: it holds no list of cases`);
  const cases: VerifyCase[] = list.map((entry: unknown, i) =>
    outputsCase(entry, `case ${i + 1} of ${file}`, folder, label)
  );
  // Cases of one model stand together, so that it is loaded once.
  cases.sort((a, b) => a.model < b.model ? -1 : a.model > b.model ? 1 : 0);
  const greedy = join(folder, "generate.json");
  if (!isFile(greedy)) return { cases, skipped: [] };
  const { prompt, greedy: expected, decoder_start_token_id: start, inputs } = readJson(greedy) as Record<
    string,
    unknown
  >;
  const name = `${label} greedy`;
  if (start !== undefined) {
    const encoded = typeof inputs === "string" ? join(folder, inputs) : prompt;
    if (!isIds([start]) || !isIds(expected) || !(typeof encoded === "string" || isIds(encoded))) {
      throw new FormatError(
        `Cannot read ${greedy}: "prompt" and "greedy" must be lists of token ids, "decoder_start_token_id" an id`,
      );
    }
    const { encoder } = ModelFolder.open(folder);
    if (encoder === undefined) return { cases, skipped: [{ name, reason: "there is no encoder_model.onnx" }] };
    const decoderPrompt = [start as number];
    cases.push({ kind: "seq2seq", name, model: folder, prompt: encoded, decoderPrompt, expected });
    return { cases, skipped: [] };
  }
  if (!isIds(prompt) || !isIds(expected)) {
    throw new FormatError(`Cannot read ${greedy}: "prompt" and "greedy" must be lists of token ids`);
  }
  const { model } = ModelFolder.open(folder);
  const after = cases.findLastIndex((c) => c.model === model) + 1;
  return {
    cases: cases.toSpliced(after || cases.length, 0, { kind: "greedy", name, model, prompt, expected }),
    skipped: [],
  };
}

function outputsCase(entry: unknown, where: string, folder: string, label: string): VerifyCase {
  const fields = (entry ?? {}) as Record<string, unknown>;
  const text = (key: string): string => {
    if (typeof fields[key] === "string") return fields[key];
    throw new FormatError(`Cannot read ${where}: "${key}" must be a text, but is ${JSON.stringify(fields[key])}`);
  };
  const number = (key: string): number => {
    if (typeof fields[key] === "number" && fields[key] >= 0) return fields[key];
    throw new FormatError(`Cannot read ${where}: "${key}" must be a number, but is ${JSON.stringify(fields[key])}`);
  };
  const path = (key: string): string => {
    const file = join(folder, text(key));
    if (isFile(file)) return file;
    throw new FormatError(`Cannot read ${where}: "${key}" names ${file}, which does not exist`, {
      hint: `paths are relative to ${dirname(join(folder, "cases.json"))}`,
    });
  };
  const model = basename(text("model"), ".onnx"), beside = graphsBeside(path("model"));
  return {
    kind: "outputs",
    name: `${label}${model === "model" ? "" : `/${model}`} ${text("name")}`,
    model: path("model"),
    ...(beside.length > 0 ? { beside } : {}),
    inputs: path("inputs"),
    expected: path("expected"),
    atol: number("atol"),
    rtol: number("rtol"),
  };
}

function isIds(value: unknown): value is number[] {
  return Array.isArray(value) && value.length > 0 && value.every(Number.isSafeInteger);
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(Deno.readTextFileSync(file));
  } catch (cause) {
    throw new FormatError(`Cannot read ${file}: it is not valid JSON`, { cause });
  }
}
