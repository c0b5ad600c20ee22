/** The measured models as files: written once, found again by their sizes. */
import { existsSync } from "node:fs";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { exportOnnx, type ExternalReference } from "../../src/formats/export_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import type { Graph, TensorData } from "../../src/graph/graph.ts";
import type { Architecture, DecoderSizes } from "./architectures.ts";
import { scaleDecoder } from "./scale_decoder.ts";

/** Raised when the same sizes give another file. */
const VERSION = 1;
/** Weights begin at pages, so that every reader may map them. */
const PAGE = 4096;
/** Smaller constants stay in the model, as exporters leave them. */
const LEAST_EXTERNAL = 1024;

/** A decoder of `sizes` in the form of `architecture`, its weights not yet made. */
export function scaledGraph({ source, from, to }: Architecture, sizes: DecoderSizes = to): Graph<"global"> {
  using file = readOnnx(new URL("model.onnx", source).pathname);
  return scaleDecoder(importOnnx(file), { from, to: sizes });
}

/**
 * The path of the model of `architecture`, written into a folder of `cache` if it is not there. Weights lie beside it as external data,
 * as exporters write models of more than a few MB.
 */
export function cachedModel(architecture: Architecture, cache: string): string {
  const { layers, hidden, ffn, vocabulary } = architecture.to;
  const folder = `${cache}/${architecture.name}-${layers}x${hidden}-${ffn}-${vocabulary}-v${VERSION}`;
  const path = `${folder}/model.onnx`;
  if (existsSync(path)) return path;
  // Made under another name first: a bench that is stopped half-way leaves nothing that looks like a model.
  const unfinished = `${folder}.${Deno.pid}`;
  Deno.mkdirSync(unfinished, { recursive: true });
  try {
    writeModel(scaledGraph(architecture), `${unfinished}/model.onnx`);
    Deno.renameSync(unfinished, folder);
  } catch (error) {
    Deno.removeSync(unfinished, { recursive: true });
    if (!existsSync(path)) throw error; // another process may have written it meanwhile
  }
  return path;
}

/** Writes `graph` to `path`, its weights to `path` + `_data`. */
export function writeModel(graph: Graph, path: string): void {
  using file = Deno.openSync(`${path}_data`, { write: true, create: true, truncate: true });
  const location = `${path}_data`.split("/").at(-1)!;
  let end = 0;
  const external = (_: string, data: TensorData): ExternalReference | undefined => {
    const bytes = data.bytes();
    if (bytes.length < LEAST_EXTERNAL) return undefined;
    const offset = Math.ceil(end / PAGE) * PAGE;
    file.seekSync(offset, Deno.SeekMode.Start);
    for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
    end = offset + bytes.length;
    return { location, offset, length: bytes.length };
  };
  Deno.writeFileSync(path, exportOnnx(graph, { external }));
}
