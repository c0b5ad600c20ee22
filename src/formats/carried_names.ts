/**
 * Which inputs and outputs of a decoder are one state, carried from step to step: by their names, the only place where
 * ONNX files say it. The schemes are those of Optimum, transformers.js, onnxruntime-genai and ONNX Runtime's optimiser.
 */
import type { Carried } from "../graph/graph.ts";

/** An input's name, rewritten to what the output of the same state is called. */
const SCHEMES: readonly (readonly [RegExp, string])[] = [
  [/^past_key_values(?=[._])/, "present"], // Optimum, genai: past_key_values.0.key → present.0.key
  [/^past_key_values(?=[._])/, "present_key_values"], // dynamo with names of its own
  [/^past(?=[._])/, "present"], // past_0, past_key_self_0, past_conv.0
  [/^past_key_values$/, "present_key_values"],
  [/(^|[._])past(?=[._])/, "$1present"], // layers.0.past.key
];

/** The pairs among the names of a graph's inputs and outputs. */
export function carriedByName(inputs: readonly string[], outputs: readonly string[]): Required<Carried>[] {
  const at = new Map(outputs.map((name, i) => [name, i]));
  return inputs.flatMap((input): Required<Carried>[] => {
    for (const [pattern, by] of SCHEMES) {
      if (!pattern.test(input)) continue;
      const output = at.get(input.replace(pattern, by));
      if (output !== undefined) return [{ input, output }];
    }
    return [];
  });
}
