/** Both losses against PyTorch's on all reference cases: every reduction, at world sizes that divide nothing. */
import assert from "node:assert/strict";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { toNumbers } from "../../src/core/host_tensor.ts";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { inlineData } from "../../src/graph/builder.ts";
import type { Value } from "../../src/graph/graph.ts";
import {
  CrossEntropyLoss,
  type CrossEntropyOptions,
  VocabParallelCrossEntropyLoss,
} from "../../src/layers/cross_entropy_loss.ts";
import { Module } from "../../src/layers/module.ts";
import type { Trace } from "../../src/layers/trace.ts";
import { assertClose, type Case, casesOf, runOnRanks, tensorsOf, WORLD_SIZES } from "./support.ts";

interface LossCase extends Case {
  readonly logits_dtype: string;
  readonly ignore_index: number;
  readonly label_smoothing: number;
  readonly z_loss_weight: number;
  readonly shift: boolean;
  readonly class_dim: -1 | 1;
}

/** A loss of logits that are part of the model: engines take half-precision weights, but no bfloat16 inputs. */
class LossOf extends Module {
  readonly #logits: HostTensor;
  readonly #loss: Module;

  constructor(logits: HostTensor, loss: Module) {
    super();
    this.#logits = logits;
    this.#loss = this.child("loss", loss);
  }

  override forward(trace: Trace, labels: Value) {
    const { dtype, shape, data } = this.#logits;
    return this.#loss.forward(trace, trace.constant("logits", inlineData(dtype, shape, data)), labels);
  }
}

function optionsOf(c: LossCase, tensors: ReadonlyMap<string, HostTensor>): CrossEntropyOptions {
  const weight = tensors.get("weight");
  return {
    ignoreIndex: c.ignore_index,
    labelSmoothing: c.label_smoothing,
    zLoss: c.z_loss_weight,
    shift: c.shift,
    classDim: c.class_dim,
    ...(weight ? { classWeights: weight } : {}),
  };
}

async function lossOf(
  tensors: ReadonlyMap<string, HostTensor>,
  options: CrossEntropyOptions,
  ranks: number,
): Promise<HostTensor[]> {
  const loss = ranks === 1 ? new CrossEntropyLoss(options) : new VocabParallelCrossEntropyLoss(options);
  const logits = tensors.get("logits")!, labels = tensors.get("labels")!;
  if (logits.dtype === "bf16") return await runOnRanks(new LossOf(logits, loss), new Map([["labels", labels]]), ranks);
  return await runOnRanks(loss, new Map([["logits", logits], ["labels", labels]]), ranks);
}

for (const { root, case: c } of casesOf<LossCase>("cross-entropy")) {
  Deno.test(`cross entropy ${c.name} gives PyTorch's losses on ${WORLD_SIZES} ranks`, async () => {
    const tensors = tensorsOf(root, c);
    const options = optionsOf(c, tensors);
    for (const ranks of WORLD_SIZES) {
      for (const reduction of ["none", "mean", "sum"] as const) {
        const found = await lossOf(tensors, { ...options, reduction }, ranks);
        const name = `loss_${reduction}`;
        assertClose(found, tensors.get(name)!, c.float32_error[name]!, `${name} on ${ranks} ranks`);
      }
    }
  });
}

Deno.test("the z-loss part of a loss is the reference's, whatever the reduction", async () => {
  const cases = casesOf<LossCase>("cross-entropy").filter(({ case: c }) => c.z_loss_weight > 0);
  assert.ok(cases.length > 0);
  for (const { root, case: c } of cases) {
    const tensors = tensorsOf(root, c);
    const options = optionsOf(c, tensors);
    for (const reduction of ["none", "mean", "sum"] as const) {
      const [whole] = await lossOf(tensors, { ...options, reduction }, 3);
      const [plain] = await lossOf(tensors, { ...options, reduction, zLoss: 0 }, 3);
      const parts = Array.from(toNumbers(whole!), (x, i) => x - toNumbers(plain!)[i]!);
      // The difference carries the rounding of the whole loss.
      const largest = Math.max(...Array.from(toNumbers(whole!), Math.abs));
      const error = Math.max(c.float32_error[`loss_${reduction}`]!, largest * 2 ** -24);
      const expected = tensors.get(`z_loss_${reduction}`)!;
      assertClose([fromNumbers("f32", expected.shape, parts)], expected, error, `${c.name}: z-loss ${reduction}`);
    }
  }
});
