/**
 * Ops that draw random numbers. All ranks draw whole tensors, and the same ones: where the model names no seed, the pass
 * that finds {@linkcode OpDef.draws} gives it one (`src/passes/seed_draws.ts`).
 */
import { dtypeFromOnnx } from "../core/dtype.ts";
import { float, int, intOf, ints, intsOf } from "../graph/attributes.ts";
import type { InferContext, OpDef, OpExample } from "./def.ts";

const SEED = { seed: float(3) };

/** RandomNormal, RandomUniform, their `Like` forms, Bernoulli and Multinomial. */
export function randomOps(): OpDef[] {
  const like = { inputs: [{ dtype: "f32", shape: [2, 3] }], attributes: SEED } as const;
  return [
    ...["RandomNormal", "RandomUniform"].map((op) =>
      drawing(op, {
        infer: (context) => [{ dtype: named(context) ?? "f32", shape: intsOf(context.attributes, "shape") }],
        example: { inputs: [], attributes: { ...SEED, shape: ints([2, 3]) } },
      })
    ),
    ...["RandomNormalLike", "RandomUniformLike", "Bernoulli"].map((op) =>
      drawing(op, {
        since: op === "Bernoulli" ? 15 : 1,
        infer: (context) => [{ dtype: named(context) ?? context.inputs[0]?.dtype, shape: context.inputs[0]?.shape }],
        example: like,
      })
    ),
    drawing("Multinomial", {
      since: 7,
      infer: (context) => {
        const rows = context.inputs[0]?.shape?.[0];
        const shape = rows === undefined ? undefined : [rows, intOf(context.attributes, "sample_size") ?? 1];
        return [{ dtype: named(context) ?? "i32", shape }];
      },
      example: { ...like, attributes: { ...SEED, sample_size: int(4) } },
    }),
  ];
}

interface Drawing {
  readonly since?: number;
  readonly infer: OpDef["infer"];
  readonly example: OpExample;
}

function drawing(op: string, { since = 1, infer, example }: Drawing): OpDef {
  const inputs = example.inputs.length > 0 ? ["input"] : [];
  return { op, domain: "", since, inputs, infer, draws: () => "float", examples: [example] };
}

/** The dtype that the node asks for. */
function named({ attributes }: InferContext) {
  const code = intOf(attributes, "dtype");
  return code === undefined ? undefined : dtypeFromOnnx(code);
}
