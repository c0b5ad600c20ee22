/** Models of which the weights' file is a hole: planning never reads weights. */
import { exportOnnx } from "../../src/formats/export_onnx.ts";
import { type Architecture, ARCHITECTURES, type DecoderSizes } from "./architectures.ts";
import { scaledGraph } from "./model_cache.ts";

/** The sizes of a model of 70 billion parameters; three query heads a key/value head, as the small model has. */
const LARGE: DecoderSizes = { layers: 80, hidden: 8064, heads: 63, kvHeads: 21, ffn: 28_672, vocabulary: 128_256 };

/** Writes a model of `layers` layers into `folder`: `llama`, `gpt2`, or `llama-70b` with sizes of its own. Gives its path. */
export function writeHollowModel(folder: string, name: string, layers: number): string {
  const large = name === "llama-70b";
  const known: Architecture = ARCHITECTURES[large ? "llama" : name as keyof typeof ARCHITECTURES];
  const graph = scaledGraph(known, large ? LARGE : { ...known.to, layers });
  const path = `${folder}/${name}-${layers}.onnx`;
  let end = 0;
  const bytes = exportOnnx(graph, {
    external: (_, data) => {
      const length = 4 * data.shape.reduce((a, b) => a * b, 1), offset = end;
      if (length < 1024) return undefined;
      end += length;
      return { location: `${name}-${layers}.onnx_data`, offset, length };
    },
  });
  Deno.writeFileSync(path, bytes);
  using file = Deno.openSync(`${path}_data`, { write: true, create: true });
  file.truncateSync(end);
  return path;
}
