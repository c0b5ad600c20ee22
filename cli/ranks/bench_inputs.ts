/** What models are fed while `shardwise bench` measures them. */
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { RandomStream } from "../../src/generate/random.ts";
import { drawnInputs, openedGraph } from "../drawn_cases.ts";
import type { BenchJob } from "../job.ts";

/** Inputs of the model at `path`, drawn after their names and types, with `length` for what it leaves open. */
export function drawn(
  path: string,
  { batch, sizes }: Pick<BenchJob, "batch" | "sizes">,
  length: number,
): Record<string, HostTensor> {
  using file = readOnnx(path);
  return Object.fromEntries(drawnInputs(openedGraph(importOnnx(file)), { path, sizes, rows: batch, length }));
}

/** `rows` texts of `length` ids below `vocabulary`, always the same for a seed, and others for another case. */
export function randomIds(
  { rows, length, vocabulary, seed }: {
    readonly rows: number;
    readonly length: number;
    readonly vocabulary: number;
    readonly seed: number;
  },
): number[][] {
  const random = new RandomStream(seed);
  return Array.from({ length: rows }, () => Array.from({ length }, () => Math.floor(random.next() * vocabulary)));
}
