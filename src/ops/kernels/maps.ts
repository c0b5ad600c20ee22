/** Elementwise ops on a GPU: an expression each. Functions `f_…` are those of the prelude, for float and double. */
import type { Attributes } from "../../graph/graph.ts";
import { floatOf, intOf, stringOf } from "../../graph/attributes.ts";
import { dtypeInfo } from "../../core/dtype.ts";
import { broadcast, input, inputOf, output, outputOf, stridesIn, unknownForm, whole } from "./access.ts";
import type { KernelContext, Lowered, Lowering, MapStep, Params } from "./kernel.ts";

/** An elementwise step over the inputs that are there, broadcast to the output. */
export function mapOf(context: KernelContext, expression: string, params: Params = {}): Lowered {
  const { shape } = outputOf(context);
  const reads = context.inputs.flatMap((
    t,
    i,
  ) => (t ? [broadcast(input(context, i), t.shape, shape, stridesIn(t))] : []));
  return { steps: [{ kind: "map", shape, reads, write: whole(output(context), shape), expression, params }] };
}

const float = (attributes: Attributes, name: string, otherwise: number) => ({
  float: floatOf(attributes, name) ?? otherwise,
});

// deno-fmt-ignore
const UNARY: Readonly<Record<string, string>> = {
  Abs: "x0 < 0 ? -x0 : x0", Acos: "f_acos(x0)", Asin: "f_asin(x0)", Atan: "f_atan(x0)", Ceil: "f_ceil(x0)", Cos: "f_cos(x0)",
  Cosh: "f_cosh(x0)", Erf: "f_erf(x0)", Exp: "f_exp(x0)", Floor: "f_floor(x0)", HardSwish: "x0 * f_max(0.f, f_min(1.f, x0 / 6.f + 0.5f))",
  Identity: "x0", IsNaN: "x0 != x0", Log: "f_log(x0)", Mish: "x0 * f_tanh(f_log1p(f_exp(x0)))", Neg: "-x0", Not: "!x0",
  Reciprocal: "1.f / x0", Relu: "x0 < 0 ? 0 * x0 : x0", Round: "f_rint(x0)", Sigmoid: "f_sigmoid(x0)", Sign: "x0 > 0 ? 1 : x0 < 0 ? -1 : x0 * 0",
  Sin: "f_sin(x0)", Sinh: "f_sinh(x0)", Softplus: "x0 > 20 ? x0 : f_log1p(f_exp(x0))", Softsign: "x0 / (1.f + (x0 < 0 ? -x0 : x0))",
  Sqrt: "f_sqrt(x0)", Tan: "f_tan(x0)", Tanh: "f_tanh(x0)", BitwiseNot: "~x0",
};

// deno-fmt-ignore
const BINARY: Readonly<Record<string, string>> = {
  Add: "x0 + x1", Sub: "x0 - x1", Mul: "x0 * x1", Div: "x0 / x1", Pow: "f_pow(x0, x1)", PRelu: "x0 < 0 ? x0 * x1 : x0",
  And: "x0 && x1", Or: "x0 || x1", Xor: "x0 != x1", BitwiseAnd: "x0 & x1", BitwiseOr: "x0 | x1", BitwiseXor: "x0 ^ x1",
  Equal: "x0 == x1", Less: "x0 < x1", LessOrEqual: "x0 <= x1", Greater: "x0 > x1", GreaterOrEqual: "x0 >= x1",
};

const GELU_TANH = "0.5f * x0 * (1.f + f_tanh(0.7978845608028654f * (x0 + 0.044715f * x0 * x0 * x0)))";
const GELU_ERF = "0.5f * x0 * (1.f + f_erf(x0 * 0.7071067811865476f))";

/** An expression of `x0` on the sum of both inputs. */
const biased = (context: KernelContext, expression: string) =>
  mapOf(context, context.inputs[1] ? expression.replaceAll("x0", "(x0 + x1)") : expression);

const variadic = (join: (a: string, b: string) => string): Lowering => (context) =>
  mapOf(context, context.inputs.map((_, i) => `x${i}`).reduce(join));

/** All elementwise lowerings, by op; those of com.microsoft by `com.microsoft.Op`. */
export const MAPS: Readonly<Record<string, Lowering>> = {
  ...Object.fromEntries(
    Object.entries({ ...UNARY, ...BINARY }).map(([op, text]) => [op, (c: KernelContext) => mapOf(c, text)] as const),
  ),
  Cast: castOf,
  CastLike: (context) => castOf({ ...context, inputs: context.inputs.slice(0, 1) }),
  Celu: (c) => mapOf(c, "x0 > 0 ? x0 : alpha * (f_exp(x0 / alpha) - 1.f)", { alpha: float(c.attributes, "alpha", 1) }),
  Elu: (c) => mapOf(c, "x0 > 0 ? x0 : alpha * (f_exp(x0) - 1.f)", { alpha: float(c.attributes, "alpha", 1) }),
  HardSigmoid: (c) =>
    mapOf(c, "f_max(0.f, f_min(1.f, alpha * x0 + beta))", {
      alpha: float(c.attributes, "alpha", 0.2),
      beta: float(c.attributes, "beta", 0.5),
    }),
  LeakyRelu: (c) => mapOf(c, "x0 < 0 ? alpha * x0 : x0", { alpha: float(c.attributes, "alpha", 0.01) }),
  Selu: (c) =>
    mapOf(c, "gamma * (x0 > 0 ? x0 : alpha * (f_exp(x0) - 1.f))", {
      alpha: float(c.attributes, "alpha", 1.67326319217681884765625),
      gamma: float(c.attributes, "gamma", 1.05070102214813232421875),
    }),
  Swish: (c) => mapOf(c, "x0 * f_sigmoid(alpha * x0)", { alpha: float(c.attributes, "alpha", 1) }),
  ThresholdedRelu: (c) => mapOf(c, "x0 > alpha ? x0 : 0 * x0", { alpha: float(c.attributes, "alpha", 1) }),
  Gelu: (c) => mapOf(c, stringOf(c.attributes, "approximate") === "tanh" ? GELU_TANH : GELU_ERF),
  "com.microsoft.Gelu": (c) => mapOf(c, GELU_ERF),
  "com.microsoft.BiasGelu": (c) => biased(c, GELU_ERF),
  "com.microsoft.FastGelu": (c) => biased(c, GELU_TANH),
  "com.microsoft.QuickGelu": (c) =>
    mapOf(c, "x0 * f_sigmoid(alpha * x0)", { alpha: float(c.attributes, "alpha", 1.702) }),
  Mod: (c) => mapOf(c, intOf(c.attributes, "fmod") === 1 ? "f_fmod(x0, x1)" : "f_mod(x0, x1)"),
  IsInf: (c) => mapOf(c, "f_isinf(x0)"),
  Sum: variadic((a, b) => `${a} + ${b}`),
  Mean: (c) => mapOf(c, `(${c.inputs.map((_, i) => `x${i}`).join(" + ")}) / ${c.inputs.length}.f`),
  Min: variadic((a, b) => `f_min(${a}, ${b})`),
  Max: variadic((a, b) => `f_max(${a}, ${b})`),
  Where: (c) => mapOf(c, "x0 ? x1 : x2"),
  Clip: (c) => {
    const [, low, high] = c.inputs;
    // Reads are numbered without those that are left out.
    const bounded = low ? "f_max(x0, x1)" : "x0";
    return mapOf(c, high ? `f_min(${bounded}, x${low ? 2 : 1})` : bounded);
  },
  Dropout: (c) => {
    if (c.outputs[1]) throw unknownForm(c, "its mask is asked for");
    return mapOf({ ...c, inputs: c.inputs.slice(0, 1) }, "x0");
  },
};

function castOf(context: KernelContext): Lowered {
  const from = inputOf(context, 0).dtype, to = outputOf(context).dtype;
  if (from === to) return mapOf(context, "x0");
  if (to.startsWith("f8") && intOf(context.attributes, "saturate") === 0) {
    // What is too large becomes infinity or NaN: a code that stores like a byte.
    const [step] = mapOf(context, `unsaturated_${to}((float)x0)`).steps as [MapStep];
    return { steps: [{ ...step, write: { ...step.write, operand: { ...step.write.operand, dtype: "u8" } } }] };
  }
  if (to === "bool") return mapOf(context, "x0 != 0");
  return mapOf(context, dtypeInfo(from).float && !dtypeInfo(to).float ? "(long long)x0" : "x0");
}
