/** A decoder as both sides of a bench drive it: which inputs it takes, what it carries from step to step. */
import { FormatError } from "../../src/core/errors.ts";
import { byteLength, type DType } from "../../src/core/dtype.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { type Graph, outputOf, valueOf } from "../../src/graph/graph.ts";

/** One tensor of the cache: float32 `[1, heads, tokens, headDim]`. */
export interface CachePair {
  readonly input: string;
  readonly output: string;
  readonly heads: number;
  readonly headDim: number;
}

/** A decoder with a cache, float32 at its borders. */
export interface Decoder {
  readonly inputs: readonly { readonly name: string; readonly type: { readonly dtype: DType | undefined } }[];
  readonly caches: readonly CachePair[];
  readonly vocabulary: number;
  /** Bytes of all weights. */
  readonly weightBytes: number;
}

/** Reads what the model at `path` takes and gives. @throws {FormatError} If it is no decoder with a cache and logits. */
export function describeDecoder(path: string): Decoder {
  using file = readOnnx(path);
  return decoderOf(importOnnx(file), path);
}

function decoderOf(graph: Graph, path: string): Decoder {
  const { inputs: results, names } = outputOf(graph);
  const sizeOf = (name: string, at: number): number => {
    const size = valueOf(graph, name).type.shape?.at(at);
    if (typeof size === "number") return size;
    throw new FormatError(`Cannot measure ${path}: the size of dim ${at} of "${name}" is ${size ?? "unknown"}`, {
      hint:
        "benches take decoders whose caches are [batch, heads, tokens, head size], with logits of a known vocabulary",
    });
  };
  const caches = graph.carried.flatMap(({ input, output }) =>
    output === undefined ? [] : [{
      input,
      output: names[output]!,
      heads: sizeOf(input, 1),
      headDim: sizeOf(input, 3),
    }]
  );
  const logits = results[names.indexOf("logits")];
  if (caches.length === 0 || logits === undefined) {
    throw new FormatError(
      `Cannot measure ${path}: it has no logits or no cache, only ${names.slice(0, 4).join(", ")}`,
      {
        hint: "export the model for text generation with past",
      },
    );
  }
  const carried = new Set(caches.map(({ input }) => input));
  const inputs = graph.nodes.flatMap((n) =>
    n.kind === "placeholder" && !carried.has(n.outputs[0])
      ? [{ name: n.outputs[0], type: { dtype: valueOf(graph, n.outputs[0]).type.dtype } }]
      : []
  );
  let weightBytes = 0;
  for (const node of graph.nodes) {
    if (node.kind !== "get_attr") continue;
    weightBytes += byteLength(node.data.dtype, node.data.shape.reduce((a, b) => a * b, 1));
  }
  return { inputs, caches, vocabulary: sizeOf(logits, -1), weightBytes };
}
