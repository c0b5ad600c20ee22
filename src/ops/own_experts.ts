/**
 * A mixture of experts on a rank that holds some of the experts: what these add to the result, as a partial sum.
 *
 * ```text
 * p = Softmax(router), of which the k largest of a token count, divided by their sum where `normalize_routing_weights`
 * y = Σ p_e · expert_e(x) over the rank's e = (Σ p_e) · MoE(x, router of the rank's experts, those not chosen at -1e30)
 * ```
 * Every rank chooses from all experts. The op then chooses among the rank's own again, and divides by the sum of what it chose:
 * experts that were not chosen get 0, and a token of which none was chosen is multiplied by 0. Where it has fewer than `k`, it
 * computes all that it has.
 */
import { int, intOf } from "../graph/attributes.ts";
import { localDim, type Range } from "../graph/layout.ts";
import type { LocalizeContext } from "./def.ts";

/** What the router's number of an expert is that was not chosen. */
const NOT_CHOSEN = -1e30;

/** The work of a rank with so many of the experts, as a part of the op's: each token goes through `k` of them, if there are as many. */
export function workOfExperts(experts: number, k: number): number {
  return Math.min(experts, k) / k;
}

/** Emits the op for the experts that the weights of this rank are of: `weights` is the position of one that is cut by experts. */
export function emitOwnExperts(context: LocalizeContext, weights: number): readonly string[] {
  const { emit, node, names, attributes, rank } = context;
  const { placement } = context.inputTensors[weights]!;
  if (placement.kind !== "S") throw new Error(`"${names[weights]}" is not cut by experts`);
  const { layout } = placement, k = intOf(attributes, "k") ?? 1, dtype = context.inputs[1]!.dtype!;
  const experts = layout.parts[rank]!.flatMap(([a, b]: Range) => Array.from({ length: b - a }, (_, i) => a + i));
  const router = names[1]!, own = emit.sizes(experts), axis = { axis: int(1) };
  const ownOf = (x: string) => emit.op("Gather", [x, own], axis);

  const [, chosen] = emit.ops("TopK", [router, emit.sizes([k])], axis, { outputs: 2 });
  const filled = (value: number, like: string) =>
    emit.op("Expand", [emit.scalar(dtype, value), emit.op("Shape", [like])]);
  const isChosen = emit.op("Greater", [
    emit.op("ScatterElements", [filled(0, router), chosen!, filled(1, chosen!)], axis),
    emit.scalar(dtype, 0),
  ]);
  const masked = emit.op("Where", [isChosen, router, emit.scalar(dtype, NOT_CHOSEN)]);
  // ONNX Runtime's QMoE takes the softmax of the chosen ones in any case.
  const normalises = node.op === "QMoE" || intOf(attributes, "normalize_routing_weights") === 1;
  const probabilities = emit.op("Softmax", [normalises ? masked : router], axis);
  const counted = emit.op("Where", [isChosen, probabilities, emit.scalar(dtype, 0)]);
  const share = sumOfRows(ownOf(counted), context);

  const local = names.map((name, i) => (i === 1 ? ownOf(masked) : name));
  const mixed = emit.op(node.op, local, {
    ...attributes,
    k: int(Math.min(k, localDim(layout, rank) as number)),
    normalize_routing_weights: int(1),
  }, { domain: node.domain });
  return [emit.op("Mul", [mixed, share])];
}

/** `[tokens, experts]` summed over the experts, with as many dims as the op's result. */
function sumOfRows(x: string, { emit, onnxOpset, outputTensors }: LocalizeContext): string {
  const sum = onnxOpset < 13
    ? emit.op("ReduceSum", [x], { axes: { kind: "ints", value: [1] } })
    : emit.op("ReduceSum", [x, emit.sizes([1])]);
  const shape = outputTensors[0]!.localShape!;
  return shape.length === 2 ? sum : emit.op("Reshape", [sum, emit.sizes([...shape.slice(0, -1), 1])]);
}
