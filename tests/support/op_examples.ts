/** An example of an op definition as a graph that can run. */
import type { DType } from "../../src/core/dtype.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import type { Graph } from "../../src/graph/graph.ts";
import type { OpDef, OpExample } from "../../src/ops/def.ts";
import { inferTypes } from "../../src/passes/infer_types.ts";

/** Random numbers that every run repeats. */
function* randoms(seed: number): Generator<number, never> {
  for (let state = seed;;) {
    state = (state * 1664525 + 1013904223) % 2 ** 32;
    yield state / 2 ** 32;
  }
}

/** The call of `example` as a graph of one node, typed, with random inputs. */
export function exampleGraph(
  def: OpDef,
  example: OpExample,
): { graph: Graph<"global">; feeds: Map<string, HostTensor> } {
  const opset = example.opset ?? (def.domain === "" ? Math.max(def.since, 13) : def.since);
  const opsets = new Map([["", def.domain === "" ? opset : 17], ...(def.domain ? [[def.domain, opset] as const] : [])]);
  const builder = new GraphBuilder("global", def.op, opsets);
  const feeds = new Map<string, HostTensor>();
  const random = randoms(def.op.length * 7 + 1);
  const names = example.inputs.map((input, i) => {
    if (!input) return "";
    const name = `x${i}`;
    const count = input.shape.reduce((a, b) => a * b, 1);
    const constant = example.constants?.[i];
    const tensor = fromNumbers(
      input.dtype,
      input.shape,
      constant ?? randomNumbers(input.dtype, count, {
        random,
        range: example.ranges?.[i],
      }),
    );
    if (constant) builder.getAttr(name, inlineData(input.dtype, input.shape, tensor.data));
    else {
      builder.placeholder({ name, type: input });
      feeds.set(name, tensor);
    }
    return name;
  });
  const outputs = Array.from({ length: example.outputs ?? 1 }, (_, i) => `y${i}`);
  builder.call(
    {
      kind: def.module ? "call_module" : "call_function",
      name: "node",
      domain: def.domain,
      op: def.op,
      inputs: names,
      outputs,
      attributes: example.attributes ?? {},
    },
    outputs.map((name) => ({ name, type: { dtype: undefined, shape: undefined } })),
  );
  return { graph: inferTypes(builder.finish({ inputs: outputs, names: outputs })), feeds };
}

function randomNumbers(
  dtype: DType,
  count: number,
  { random, range }: { random: Iterator<number>; range: readonly [number, number] | undefined },
): number[] {
  const next = () => random.next().value as number;
  if (dtype === "bool") return Array.from({ length: count }, () => Number(next() < 0.5));
  if (dtype[0] === "f" || dtype === "bf16") return Array.from({ length: count }, () => next() * 2 - 1);
  const [low, high] = range ?? [1, 5];
  return Array.from({ length: count }, () => low + Math.floor(next() * (high - low)));
}
