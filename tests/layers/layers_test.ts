/** Layers, plain and parallel, against PyTorch's forward values on the reference cases. */
import assert from "node:assert/strict";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import type { Value } from "../../src/graph/graph.ts";
import { type Activation, gelu, geluTanh, Lambda, relu, silu, softmax } from "../../src/layers/activations.ts";
import { ColumnParallelLinear } from "../../src/layers/column_parallel_linear.ts";
import { Embedding, VocabParallelEmbedding } from "../../src/layers/embedding.ts";
import { Linear } from "../../src/layers/linear.ts";
import { Module } from "../../src/layers/module.ts";
import { LayerNorm, RMSNorm } from "../../src/layers/norms.ts";
import { RowParallelLinear } from "../../src/layers/row_parallel_linear.ts";
import type { Trace } from "../../src/layers/trace.ts";
import { assertClose, type Case, casesOf, runOnRanks, tensorsOf, within, WORLD_SIZES } from "./support.ts";

interface LayerCase extends Case {
  readonly op: string;
  readonly config: {
    readonly in_features: number;
    readonly out_features: number;
    readonly bias: boolean;
    readonly num_embeddings: number;
    readonly embedding_dim: number;
    readonly padding_idx?: number;
    readonly eps: number;
    readonly affine: boolean;
    readonly approximate: string;
    readonly hidden: number;
    readonly inner: number;
    readonly activation: "gelu" | "gelu_tanh";
  };
}

const GELUS = { gelu, gelu_tanh: geluTanh } as const;

class Mlp extends Module {
  readonly #activation: Activation;
  readonly #in: Module;
  readonly #out: Module;

  constructor({ hidden, inner, activation }: LayerCase["config"]) {
    super();
    this.#activation = GELUS[activation];
    this.#in = this.child(
      "fc_in",
      new ColumnParallelLinear({ inFeatures: hidden, outFeatures: inner, gatherOutput: false }),
    );
    this.#out = this.child(
      "fc_out",
      new RowParallelLinear({ inFeatures: inner, outFeatures: hidden, inputIsParallel: true }),
    );
  }

  override forward(trace: Trace, x: Value) {
    return this.#out.forward(trace, this.#activation(trace, this.#in.forward(trace, x) as Value));
  }
}

class GatedMlp extends Module {
  readonly #gate: ColumnParallelLinear;
  readonly #up: ColumnParallelLinear;
  readonly #down: RowParallelLinear;

  constructor({ hidden, inner }: LayerCase["config"]) {
    super();
    const up = { inFeatures: hidden, outFeatures: inner, bias: false, gatherOutput: false };
    this.#gate = this.child("gate_proj", new ColumnParallelLinear(up));
    this.#up = this.child("up_proj", new ColumnParallelLinear(up));
    const down = { inFeatures: inner, outFeatures: hidden, bias: false, inputIsParallel: true };
    this.#down = this.child("down_proj", new RowParallelLinear(down));
  }

  override forward(trace: Trace, x: Value) {
    const gate = silu(trace, this.#gate.forward(trace, x));
    return this.#down.forward(trace, trace.call("Mul", [gate, this.#up.forward(trace, x)]));
  }
}

class TiedEmbedding extends Module {
  readonly weight;
  readonly #table: VocabParallelEmbedding;
  readonly #head: ColumnParallelLinear;

  constructor({ numEmbeddings, embeddingDim }: { numEmbeddings: number; embeddingDim: number }) {
    super();
    this.#table = new VocabParallelEmbedding({ numEmbeddings, embeddingDim });
    this.weight = this.parameter("weight", this.#table.weight);
    this.#head = this.child(
      "head",
      new ColumnParallelLinear({
        inFeatures: embeddingDim,
        outFeatures: numEmbeddings,
        bias: false,
        weight: this.weight,
      }),
    );
  }

  override forward(trace: Trace, ids: Value) {
    return this.#head.forward(trace, this.#table.forward(trace, ids));
  }
}

/** The modules that must give a case's output, by the case's op. */
const MODULES: Readonly<Record<string, (config: LayerCase["config"]) => readonly Module[]>> = {
  Linear: ({ in_features: inFeatures, out_features: outFeatures, bias }) => [
    new Linear({ inFeatures, outFeatures, bias }),
    new ColumnParallelLinear({ inFeatures, outFeatures, bias }),
    new RowParallelLinear({ inFeatures, outFeatures, bias }),
  ],
  Embedding: ({ num_embeddings: numEmbeddings, embedding_dim: embeddingDim, padding_idx: paddingIdx }) => {
    const options = { numEmbeddings, embeddingDim, ...(paddingIdx === undefined ? {} : { paddingIdx }) };
    return [new Embedding(options), new VocabParallelEmbedding(options)];
  },
  TiedEmbedding: ({ num_embeddings: numEmbeddings, embedding_dim: embeddingDim }) => [
    new TiedEmbedding({ numEmbeddings, embeddingDim }),
  ],
  GatedMLP: (config) => [new GatedMlp(config)],
  MLP: (config) => [new Mlp(config)],
  Gelu: ({ approximate }) => [new Lambda(approximate === "tanh" ? geluTanh : gelu)],
  SiLU: () => [new Lambda(silu)],
  ReLU: () => [new Lambda(relu)],
  Softmax: () => [new Lambda(softmax)],
};

/** Norms, which are declared by the number of features of the case's input. */
function normOf({ op, config: { eps, affine } }: LayerCase, x: HostTensor): readonly Module[] | undefined {
  const features = x.shape.at(-1)!;
  if (op === "LayerNorm") return [new LayerNorm({ features, eps, affine })];
  return op === "RMSNorm" ? [new RMSNorm({ features, eps })] : undefined;
}

/** Attention and whole decoder layers are composed elsewhere; every other op must have a module here. */
const COMPOSED = /Attention|DecoderLayer|Block|RotaryEmbedding/;

for (const { root, case: c } of casesOf<LayerCase>("layers")) {
  if (COMPOSED.test(c.op)) continue;
  Deno.test(`layer ${c.name} gives PyTorch's output on ${WORLD_SIZES} ranks`, async () => {
    const tensors = tensorsOf(root, c);
    const inputs = within(tensors, "input."), [x] = inputs.values();
    const modules = MODULES[c.op]?.(c.config) ?? normOf(c, x!);
    assert.ok(modules, `no module for ${c.op}`);
    for (const module of modules) {
      module.load(within(tensors, "param."));
      for (const ranks of WORLD_SIZES) {
        const found = await runOnRanks(module, inputs, ranks);
        const what = `${module.constructor.name} on ${ranks} ranks`;
        assertClose(found, tensors.get("output")!, c.float32_error.output!, what);
      }
    }
  });
}

Deno.test("a gated MLP whose inner size no world size divides takes one all-reduce and nothing else", () => {
  const mlp = new GatedMlp({ hidden: 10, inner: 13 } as LayerCase["config"]);
  mlp.initialize({ seed: 1 });
  for (const ranks of [2, 3, 4, 16]) {
    const graph = mlp.trace({ x: { dtype: "f32", shape: [2, 3, 10] } }, { ranks });
    const kinds = graph.nodes.flatMap((node) => (node.kind === "collective" ? [node.collective] : []));
    assert.deepEqual(kinds, ["all_reduce"], `${ranks} ranks`);
  }
});
