/** Losses on a GPU: of one class a sample, its logarithm. Source: ONNX NegativeLogLikelihoodLoss-13, SoftmaxCrossEntropyLoss-13. */
import { intOf, stringOf } from "../../graph/attributes.ts";
import { input, inputOf, output, outputOf, stridesOf, unknownForm, whole } from "./access.ts";
import type { Access, KernelContext, KernelStep, Lowered, Lowering, Operand, Params } from "./kernel.ts";
import { softmaxRows } from "./rows.ts";

/** Weighs and adds up `-logs[n, labels[n, …], …]`; `logs` has the shape of input 0. */
function weighed(context: KernelContext, logs: Operand): KernelStep {
  const { attributes } = context, { shape } = inputOf(context, 0), labels = inputOf(context, 1).shape;
  const own = stridesOf(shape), ignored = intOf(attributes, "ignore_index");
  const reads: Access[] = [
    { operand: logs, offset: 0, strides: [own[0]!, ...own.slice(2)] },
    whole(input(context, 1), labels),
  ];
  if (context.inputs[2]) reads.push({ operand: input(context, 2), offset: 0, strides: labels.map(() => 0) });
  const label = "f_wrap(x1, classes)", isKept = ignored === undefined ? "true" : "x1 != ignored";
  const weight = context.inputs[2] ? `ld(p2[o2 + ${label}])` : "1.f";
  const value = `(${isKept} ? -ld(p0[o0 + ${label} * stride]) * ${weight} : 0.f)`;
  const params: Params = { classes: shape[1]!, stride: own[1]!, ...(ignored === undefined ? {} : { ignored }) };
  const reduction = stringOf(attributes, "reduction") ?? "mean";
  if (reduction === "none") {
    return { kind: "map", shape: labels, reads, write: whole(output(context), labels), expression: value, params };
  }
  const sum = { init: "0.f", combine: "a + b" };
  return {
    kind: "rows",
    outer: [],
    inner: labels,
    reads,
    reductions: [
      { name: "loss", ...sum, value },
      ...(reduction === "mean" ? [{ name: "weights", ...sum, value: `(${isKept} ? ${weight} : 0.f)` }] : []),
    ],
    writes: [{
      access: { operand: output(context), offset: 0, strides: labels.map(() => 0) },
      expression: reduction === "mean" ? "loss / weights" : "loss",
      each: false,
    }],
    params,
  };
}

function crossEntropy(context: KernelContext): Lowered {
  const { shape, dtype } = inputOf(context, 0);
  if (shape.length < 2) throw unknownForm(context, `scores of shape [${shape}]`);
  const logs: Operand = context.outputs[1] ? output(context, 1) : { of: "scratch", index: 0, dtype };
  const own = stridesOf(shape), outer = [shape[0]!, ...shape.slice(2)];
  const at = (operand: Operand): Access => ({ operand, offset: 0, strides: [own[0]!, ...own.slice(2), own[1]!] });
  const steps: KernelStep[] = [
    softmaxRows({ outer, inner: [shape[1]!], reads: [at(input(context, 0))] }, at(logs), { log: true }),
  ];
  if (context.outputs[0]) steps.push(weighed(context, logs));
  return { steps, scratch: context.outputs[1] ? [] : [{ dtype, shape }] };
}

/** All lowerings of losses, by op. */
export const LOSSES: Readonly<Record<string, Lowering>> = {
  NegativeLogLikelihoodLoss: (context) => {
    outputOf(context);
    return { steps: [weighed(context, input(context, 0))] };
  },
  SoftmaxCrossEntropyLoss: crossEntropy,
};
