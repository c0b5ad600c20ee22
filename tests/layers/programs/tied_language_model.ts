/** A rank that runs a tied embedding, a head and the loss, and prints the loss's bits. Argument: the state's file. */
import assert from "node:assert/strict";
import { symbol } from "../../../src/core/dim.ts";
import { fromNumbers, hostTensorBytes } from "../../../src/core/host_tensor.ts";
import { openSafetensors } from "../../../src/formats/safetensors.ts";
import type { Value } from "../../../src/graph/graph.ts";
import { ColumnParallelLinear } from "../../../src/layers/column_parallel_linear.ts";
import { VocabParallelCrossEntropyLoss } from "../../../src/layers/cross_entropy_loss.ts";
import { VocabParallelEmbedding } from "../../../src/layers/embedding.ts";
import { Module } from "../../../src/layers/module.ts";
import { RMSNorm } from "../../../src/layers/norms.ts";
import type { Trace } from "../../../src/layers/trace.ts";
import { compileModule } from "../../../src/module_session.ts";
import { init } from "../../../src/runtime/comm/init.ts";

const VOCABULARY = 13, HIDDEN = 6;

class LanguageModel extends Module {
  readonly #table = this.child(
    "wte",
    new VocabParallelEmbedding({ numEmbeddings: VOCABULARY, embeddingDim: HIDDEN }),
  );
  readonly #norm = this.child("norm", new RMSNorm({ features: HIDDEN }));
  readonly #head = this.child(
    "head",
    new ColumnParallelLinear({
      inFeatures: HIDDEN,
      outFeatures: VOCABULARY,
      bias: false,
      gatherOutput: false,
      weight: this.#table.weight,
    }),
  );
  readonly #loss = this.child("loss", new VocabParallelCrossEntropyLoss({ shift: true, zLoss: 1e-3 }));

  override forward(trace: Trace, ids: Value): readonly Value[] {
    const logits = this.#head.forward(trace, this.#norm.forward(trace, this.#table.forward(trace, ids)));
    return [this.#loss.forward(trace, logits, ids), logits];
  }
}

await using comm = await init();
using file = openSafetensors(Deno.args[0]!);
const type = { dtype: "i64", shape: [symbol("batch"), symbol("sequence")] } as const;
await using model = await compileModule(new LanguageModel(), { comm, state: file.tensors, inputs: { ids: type } });
// Two runs of different sizes: the sizes are symbols.
for (const shape of [[2, 5], [1, 3]]) {
  const count = shape[0]! * shape[1]!;
  const ids = fromNumbers("i64", shape, Array.from({ length: count }, (_, i) => (i * 7) % VOCABULARY));
  const { output, output_1: logits } = await model.run({ ids });
  assert.deepEqual(logits!.shape, [...shape, VOCABULARY]);
  // deno-lint-ignore no-console
  console.log(JSON.stringify({ loss: output!.data[0], logits: hostTensorBytes(logits!).toHex() }));
}
const { rank, whole } = model.weightBytes;
if (comm.size > 1) assert.ok(rank < whole, `rank ${comm.rank} holds ${rank} of ${whole} bytes`);
